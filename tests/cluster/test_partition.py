# SPDX-License-Identifier: Apache-2.0
"""A network in two halves, and two coordinators: no sequence is ever served by two plans."""
from cluster import Cluster
from relay import Relayed
from test_epochs import Clients, Reader, members, wait_epoch


LONG = 12000  # tokens: some seconds
BY_RULE = ["--split", "layers", "--deadline", "1"]  # with whom is there, at once


def stale(c):
    """Frames of plans that were over which arrived and were dropped."""
    status = c.status()
    return status["stale_frames"] + sum(w["stale_frames"] for w in status["workers"])


def test_halves(case):
    """Two of four workers, enough to hold the model, are cut off from the others and from the
    coordinator, but not from one another. The half with the coordinator goes on; what the other
    half is still sent, or had to say, is of a plan that is over when it arrives."""
    c = Relayed(case, case.world.small(), workers=4, joining=True).start()
    clients = Clients(c, 600)
    order = c.order()
    near, away = order[:2], order[2:]
    crossing = [c.to_server[i] for i in away] + [c.to_worker[away[0]]]
    epochs = [c.status()["epoch"]]

    def cut():
        for relay in crossing:
            relay.hold()
        epochs.append(wait_epoch(c, epochs[0]))
        assert members(c) == {f"w{i}" for i in near}
        for i in away:
            c.workers[i].wait_for("WORKER-COORDINATOR-LOST")

    def heal():
        before = stale(c)
        for relay in crossing:
            relay.heal()
        case.until(lambda: stale(c) > before, "frames that were held up")
        wait_epoch(c, epochs[1])
        case.until(lambda: len(members(c)) == 4, "all workers to be given a part again")
    clients.disturb(cut, heal)


def test_second_coordinator(case):
    """The state file and the workers' address are one coordinator's; with others of its own a
    second one takes nothing from the first, though it has the same cluster key."""
    c = Cluster(case, case.world.small(), workers=2, options=["--state", case.dir / "state"]).start()
    clients = Clients(c, 300)
    serve = ["serve", "-m", c.model, "--workers", "2", "--cluster-key", c.key, "--listen",
             "127.0.0.1:0"]

    def start_others():
        elsewhere = ["--worker-listen", "127.0.0.1:0"]
        case.caravan(*serve, *elsewhere, "--state", case.dir / "state").fails_with(
            f"the state file {case.dir}/state is in use by another coordinator", "--state")
        case.caravan(*serve, "--state", case.dir / "other").fails_with(
            f":{c.port}", "already in use")
    clients.disturb(start_others)
    second = Second(case, c.model)
    second.start_server()
    case.until(lambda: second.health() == 503, "the second coordinator")
    clients.disturb(lambda: None)
    assert second.status()["missing"] == "0 of 2 workers are here", second.status()
    assert c.status()["epoch"] == 1


class Second(Relayed):
    """A cluster with the keys of the test's first, and a coordinator and workers of its own."""

    def __init__(self, case, model):
        super().__init__(case, model, workers=2, joining=True, options=BY_RULE)
        self.options += ["--worker-listen", f"127.0.0.1:{self.port}"]
        self.starts = 100

    def make_keys(self):
        assert self.key.exists()


def alone_in_epoch_2(c, stays, leaves):
    """Starts a cluster of two workers of which one dies."""
    c.start_server()
    for i in (stays, leaves):
        c.start_worker(i)
    c.wait_ready()
    c.workers[leaves].kill()
    assert wait_epoch(c, 1) == 2 and members(c) == {f"w{stays}"}


def test_same_epoch_elsewhere(case):
    """A worker comes over from another coordinator, whose plan had the same number: what it cached
    for that one's sequences is not taken for this one's."""
    c = Cluster(case, case.world.small(), workers=2, options=BY_RULE)
    second = Second(case, c.model)
    alone_in_epoch_2(c, 1, 2)
    alone_in_epoch_2(second, 3, 4)
    n = LONG // 6 if case.world.sanitized else LONG
    text = c.complete(n)
    there = Reader(second, 60000, "another text " * 20)
    here = Reader(c, n, "hello there")
    case.until(lambda: here.tokens > 20 and there.tokens > 20, "some tokens")
    second.server.kill()
    second.to_server[3].lead_to(c.port)
    assert wait_epoch(c, 2) == 3
    assert members(c) == {"w1", "w3"} and here.is_alive()
    here.join()
    assert not here.error and here.text == text, here.error
    there.join()
    assert there.error
