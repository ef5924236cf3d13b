# SPDX-License-Identifier: Apache-2.0
"""A worker whose processor is taken away for most of the time."""
import random
import signal
import threading

from cluster import Skip, text_of
from test_decide import Apart, holders
from test_survey import surveyed

RUNS_S, STOPS_S = 0.001, 0.003  # at a time, on average


class Throttle(threading.Thread):
    """Lets a process run for a fourth of the time, in slices that are shorter than a batch, and of
    random length, as batches come at equal distances."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.ended = process, threading.Event()
        self.start()

    def run(self):
        rng = random.Random(3)
        while not self.ended.wait(rng.uniform(0, 2 * RUNS_S)):
            self.process.send(signal.SIGSTOP)
            self.ended.wait(rng.uniform(0, 2 * STOPS_S))
            self.process.send(signal.SIGCONT)

    def end(self):
        self.ended.set()
        self.join()


def test_throttled_worker(case):
    """It is noticed, said, and left out, as two of the three can hold the model, if not one, and
    have room for two plans at once; texts stay."""
    if case.world.sanitized:
        raise Skip("what a worker is expected to do is measured without checks")
    c = Apart(case, case.world.large(), workers=3, options=["--ctx", "512", "--deadline", "10"],
              worker_options=["--memory", "0.238"]).start()
    surveyed(case, c, 3)
    c.complete(100)  # enough batches to know what is usual
    text = c.complete(32)
    slow = c.order()[0]
    throttle = Throttle(c.workers[slow])

    def look():
        assert c.complete(32) == text, "another text"
        return f"w{slow}" not in holders(c.status())
    try:
        case.until(look, "a plan without the slow worker")
    finally:
        throttle.end()
    assert f"COORD-WORKER-SLOW name=w{slow}" in c.server.err()
    [worker] = [w for w in c.status()["workers"] if w["name"] == f"w{slow}"]
    assert worker["state"] == "standby" and worker["slowdown"] > 1.5, worker
    shown = text_of(case.succeed("status", "--server", f"http://127.0.0.1:{c.http_port}"))
    assert "x slower" in shown, shown
    assert c.complete(32) == text
