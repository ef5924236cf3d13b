# SPDX-License-Identifier: Apache-2.0
"""When a plan gives layers to other workers, these fetch what is cached of them: texts stay the same,
and nothing is computed again."""
import re
import signal
import threading

from cluster import Cluster, Stream
from relay import Relayed
from test_epochs import drain, members, wait_states

LONG = ["the caravan goes on and on " * 130, "one two three " * 40, "hello there"]
ENDLESS = 50000


class Reader(threading.Thread):
    """A client that reads a stream until it is told to stop."""

    def __init__(self, c, prompt):
        super().__init__()
        self.prompt, self.text, self.error, self.events, self.enough = prompt, "", None, 0, False
        self.stream = Stream(c, ENDLESS, prompt)
        self.start()

    def run(self):
        while not self.enough and not self.error:
            event = self.stream.next()
            if event in (None, "[DONE]") or "error" in event:
                self.error = f"the stream ended with {event}"
            else:
                self.text += event["choices"][0]["text"]
                self.events += 1
        self.stream.close()


def known_text(c, prompt, n_chars):
    """What the cluster says to it, longer than so many characters: the last one of a text may be
    half a character, and an event may be of several tokens."""
    n, text = n_chars, ""
    while len(text) < n_chars + 8:
        text, n = c.complete(n, prompt), 2 * n
    return text


def stream_over(c, prompts, change):
    """Streams while something changes; the texts must be those of the cluster that it leaves."""
    readers = [Reader(c, prompt) for prompt in prompts]

    def go_on():
        before = [r.events for r in readers]
        c.case.until(lambda: all(r.events > n + 20 or r.error for r, n in zip(readers, before)),
                     "some tokens")
    try:
        go_on()
        change()
        go_on()
    finally:
        for r in readers:
            r.enough = True
            r.join()
    for r in readers:
        assert not r.error, r.error
        known = known_text(c, r.prompt, len(r.text))
        same = next((i for i, (a, b) in enumerate(zip(r.text, known)) if a != b), len(r.text))
        assert same == len(r.text), f"another text from character {same} of {len(r.text)} on"


def join(c, i):
    c.start_worker(i)
    c.case.until(lambda: f"w{i}" in members(c), "the worker to be given a part")


def leave(c, i):
    result = drain(c, f"w{i}")
    assert result.status == 0, result.err
    assert c.workers[i].wait() == 0
    wait_states(c, **{f"w{i}": "left"})


def change_of(c, change, *args):
    """What became of cached positions since."""
    before = c.status()["caches"]
    change(*args)
    after = c.status()["caches"]
    return {name: after[name] - before[name] for name in after}


def check_moves(c, worker, prompts):
    """A worker leaves and comes back while streams run: all of them take everything along."""
    for change in (leave, join):
        found = change_of(c, stream_over, c, prompts, lambda change=change: change(c, worker))
        assert found["moved_positions"] > 0 and found["moved_bytes"] > 0, f"nothing moved: {found}"
        assert found["replayed_positions"] == found["refilled_positions"] == 0, found


def test_join_and_drain(case):
    """The first, a middle, the last stage leaves and comes back, behind long prompts and short."""
    c = Cluster(case, case.world.small(), options=["-v"]).start()
    for place in range(3):
        check_moves(c, c.order()[place], LONG)
    shown = case.succeed("status", "--server", f"http://127.0.0.1:{c.http_port}").decode()
    assert re.search("caches: [1-9][0-9]* positions moved between workers, ", shown), shown


# Whole heads, latent vectors, windows, recurrent states, layers that share another's cache.
KINDS = [("llama-k", "q8_0", {}), ("deepseek2-tiny", "f16", {}), ("gpt-oss-tiny", "f32", {}),
         ("qwen35moe-tiny", "f32", {}), ("gemma4-e-tiny", "f32", {})]


def test_every_kind(case):
    for preset, kv, dimensions in KINDS:
        model = case.world.model(preset, "F32", ctx=65536, **dimensions)
        c = Cluster(case, model, workers=2, options=["-v", "--kv", kv]).start()
        check_moves(c, c.order()[1], LONG[:2])
        for worker in c.workers.values():
            worker.stop()
        c.server.stop()


def test_lost_holder(case):
    """A worker that is to leave is lost while its caches are asked for, and its answers do not come:
    who is to have them is told, and does without."""
    c = Relayed(case, case.world.small(), workers=2, options=["--deadline", "1", "-v"]).start()
    text = c.complete()
    first, last = c.order()
    c.start_worker(3)
    wait_states(c, w3="standby")
    c.to_worker[last].swallow_new = True
    status, answer = c.request("POST", "/caravan/v1/cluster/drain", {"worker": f"w{last}"})
    assert status == 200, answer
    c.workers[3].wait_for("to=copying")
    c.workers[last].send(signal.SIGSTOP)
    c.workers[3].wait_for('WORKER-KV-MOVE epoch=[0-9]+ why="a worker that has some of them is lost"')
    case.until(lambda: members(c) == {f"w{first}", "w3"}, "the next plan")
    assert c.complete() == text
    c.workers[last].send(signal.SIGCONT)
