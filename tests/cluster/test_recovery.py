# SPDX-License-Identifier: Apache-2.0
"""What is said and done after a loss, beside that the text goes on."""
from cluster import Cluster
from test_epochs import wait_states


def test_reason_after_a_standby(case):
    """The plan's reason is of the workers that it has now."""
    c = Cluster(case, case.world.small(), workers=2).start()
    c.start_worker(3)
    wait_states(c, w3="standby")
    case.until(lambda: all(w["profile"] for w in c.status()["workers"]), "all profiles")
    assert c.status()["plan"].startswith("by rule, 2 stages"), c.status()["plan"]
    c.workers[1].kill()
    wait_states(c, w1="lost", w2="ready", w3="ready")
    assert c.status()["plan"].startswith("after a change, 2 stages"), c.status()["plan"]


def test_replacement_is_measured_later(case):
    """A worker that others wait for serves first, and measures its machine when it has time."""
    c = Cluster(case, case.world.small(), workers=1).start()
    expected = c.complete()
    c.workers[1].kill()
    wait_states(c, w1="lost")
    c.cache(2).mkdir()
    worker = c.start_worker(2)
    c.wait_ready()
    assert "WORKER-PROFILE-MEASURED" not in worker.err(), worker.err()
    assert c.complete() == expected
    worker.wait_for("WORKER-PROFILE-MEASURED")
    assert c.complete() == expected


class Apart(Cluster):
    """Workers that are said to be machines of their own, so that plans are searched."""

    def worker_argv(self, i, token=None):
        return super().worker_argv(i, token) + ["--machine", f"m{i}"]


def written(folder):
    """The bytes of the state and its log."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("state*")))


def test_last_plan_after_a_restart(case):
    """A coordinator that starts again goes on with the plan before, though a search may find
    another one that is as good: nothing is loaded anew."""
    model = case.world.model("llama3-tiny", layers=1)
    c = Apart(case, model, workers=2,
              options=["--state", case.dir / "state", "--rebalance-gain", "10000"]).start()

    def holder():
        return next(w["name"] for w in c.status()["workers"] if w["layer_end"])

    def noted(n):
        case.until(lambda: sum(b"stage %d 0 1" % i in written(case.dir) for i in range(2)) == n,
                   f"{n} plans in the state")

    first = holder()
    noted(1)
    expected = c.complete()
    c.workers[int(first[1:])].kill()
    wait_states(c, **{first: "lost"})
    c.wait_ready()
    second = holder()
    assert second != first
    c.start_worker(int(first[1:]))
    wait_states(c, **{first: "standby", second: "ready"})
    noted(2)
    c.server.kill()
    c.start_server()
    c.wait_ready()
    assert holder() == second, c.status()
    assert c.status()["plan"].startswith("as before, 1 stage"), c.status()["plan"]
    assert c.complete() == expected


def test_no_room_beside(case):
    """Who cannot hold two parts at once does not get another while it serves; after a loss its old
    part goes first."""
    model = case.world.model("llama-k", "F32", layers=8, embd=256, ff=1024, hd=64)
    c = Cluster(case, model, workers=3,
                options=["--ctx", "64", "--batch", "16", "--parallel", "1"],
                worker_options=["--memory", "0.0205"]).start()
    expected = c.complete()
    order = c.order()
    # 3, 3 and 2 layers of 4 MB become 4 and 4: the second would have 3 to 7.
    drained = case.caravan("drain", f"w{order[2]}", "--server",
                           f"http://127.0.0.1:{c.http_port}")
    drained.fails_with(f'worker "w{order[1]}" offers 20.5 MB, but needs 2')
    assert c.status()["epoch"] == 1 and c.complete() == expected
    c.workers[order[2]].kill()
    wait_states(c, **{f"w{order[2]}": "lost"})
    c.wait_ready()
    assert c.server.err().count("COORD-NO-ROOM") == 1, c.server.err()
    assert c.complete() == expected
