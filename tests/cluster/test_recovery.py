# SPDX-License-Identifier: Apache-2.0
"""What is said and done after a loss, beside that the text goes on."""
import shutil

from cluster import Cluster
from test_epochs import members, wait_states


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


def restarted(c):
    """Another coordinator with the same state, once that has the plan in force."""
    c.case.until(lambda: b"served " in written(c.case.dir) and b"stage 1 " in written(c.case.dir),
                 "the plan in the state")
    c.server.kill()
    return c.start_server()


def test_restart_without_a_worker(case):
    """A worker is lost together with the coordinator: those that are left do without, and take it
    back. At the first start all are waited for."""
    c = Cluster(case, case.world.small(), options=["--state", case.dir / "state", "--deadline", "1"])
    c.start_server()
    for i in (1, 2):
        c.start_worker(i)
    case.until(lambda: c.health() == 503 and len(c.status()["workers"]) == 2, "two workers")
    c.server.kill()
    c.start_server()
    case.until(lambda: c.health() == 503 and "2 of 3 workers are here" in c.status()["missing"],
               "two workers again")
    c.start_worker(3)
    c.wait_ready()
    assert len(members(c)) == 3, "two workers were taken for all"
    expected = c.complete()
    c.workers[2].kill()
    restarted(c)
    c.wait_ready()
    assert members(c) == {"w1", "w3"}
    assert c.complete() == expected
    c.start_worker(2)
    wait_states(c, w1="ready", w2="ready", w3="ready")
    assert c.complete() == expected


def test_restart_with_too_few(case):
    """What is left cannot hold the model: the coordinator says so, and waits."""
    c = Cluster(case, case.world.small(), workers=2, options=[
        "--state", case.dir / "state", "--deadline", "1", "--profile", "off",
        "--layers", "0-2,3-5"]).start()
    expected = c.complete()
    case.until(lambda: b"served " in written(case.dir), "the state")
    c.workers[2].kill()
    c.server.kill()
    c.start_server().wait_for("COORD-WAITING")
    assert c.server.running() and c.health() == 503
    assert '"w2" is lost; 1 of 2 workers are here; ' in c.status()["missing"], c.status()["missing"]
    c.start_worker(2)
    c.wait_ready()
    assert c.complete() == expected


def test_restart_unmeasured(case):
    """The plan goes on though the profile of a worker was lost: it measures its machine later."""
    c = Cluster(case, case.world.small(), workers=2,
                options=["--state", case.dir / "state"]).start()
    expected, order = c.complete(), c.order()
    shutil.rmtree(c.cache(2) / "profiles")
    server = restarted(c)
    c.wait_ready()
    assert c.order() == order and c.status()["plan"] == "as before", c.status()["plan"]
    assert "measuring the machines" not in server.err(), server.err()
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
