# SPDX-License-Identifier: Apache-2.0
"""How long a stream pauses when a worker is killed: a stage with a long context that a standby
replaces, an expert host whose experts another one holds too, workers that are drained and join."""
import http.client
import json
import re
import threading
import time

from cluster import Cluster
import lab

CONTEXT = 4096
WORD = 17  # a token that every vocabulary has


class Tokens:
    """A stream of tokens and when they came."""

    def __init__(self, c, n_prompt, n):
        self.connection = http.client.HTTPConnection("127.0.0.1", c.http_port, timeout=600)
        self.asked = time.monotonic()
        self.connection.request("POST", "/v1/completions", json.dumps({
            "prompt": [WORD + i % 100 for i in range(n_prompt)], "max_tokens": n,
            "temperature": 0, "stream": True, "ignore_eos": True}),
            {"Content-Type": "application/json"})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        self.arrivals = []

    def read(self, n):
        while n:
            line = self.answer.readline()
            assert line, "the stream ended"
            if line.startswith(b"data: "):
                assert b'"error"' not in line, line
                self.arrivals.append(time.monotonic())
                n -= 1

    def close(self):
        self.connection.close()

    def pauses(self):
        return sorted(b - a for a, b in zip(self.arrivals, self.arrivals[1:]))


def loading_s(c):
    """Seconds that the last plan's loading took, by what the coordinator said."""
    return float(re.findall(r"loaded .* in ([0-9.]+) s", c.server.err())[-1])


def stage(world, options):
    """A stage is killed behind a prompt of CONTEXT tokens; a standby takes its place."""
    with lab.case_of(world, "recovery-stage") as case:
        c = Cluster(case, lab.model_file(world, options, "llama-1b", "Q4_0"), workers=2, options=[
            "--ctx", "8192", "--split", "layers", "--deadline", "2"]).start()
        c.start_worker(3)
        case.until(lambda: len(c.status()["workers"]) == 3, "the standby")
        stream = Tokens(c, CONTEXT, 40)
        stream.read(10)
        last = c.order()[1]
        lost = next(w for w in c.status()["workers"] if w["name"] == f"w{last}")
        prefill_s = lost["compute_ns"] / 1e9
        c.workers[last].kill()
        stream.read(20)
        stream.close()
        pause, loaded = stream.pauses()[-1], loading_s(c)
    bound = prefill_s + loaded + 2
    print(f"a stage of two with {CONTEXT} tokens: pause {pause:.2f} s; it had computed for "
          f"{prefill_s:.2f} s, loading {loaded:.1f} s, deadline 2 s: at most {bound:.2f} s")
    return pause <= bound


def host(world, options):
    """An expert host is killed whose experts another one has."""
    with lab.case_of(world, "recovery-host") as case:
        c = Cluster(case, world.model("qwen3moe-k", "Q4_K", layers=4, ctx=65536), workers=3, options=[
            "--split", "experts", "--replicas", "2"]).start()
        stream = Tokens(c, 64, 4000)
        stream.read(50)
        hosts = [int(w["name"][1:]) for w in c.status()["workers"] if not w["layer_end"]]
        c.workers[hosts[0]].kill()
        stream.read(200)
        stream.close()
        pause = stream.pauses()[-1]
    print(f"an expert host with a replica: pause {pause:.2f} s, at most 1 s")
    return pause < 1


def drain(world, options):
    """A worker is drained, and one joins, while a stream runs."""
    with lab.case_of(world, "recovery-drain") as case:
        c = Cluster(case, world.small(), workers=2, options=["--split", "layers"]).start()
        stream = Tokens(c, 64, 20000)
        stream.read(500)
        usual = stream.pauses()[len(stream.arrivals) // 2]
        c.start_worker(3)
        case.until(lambda: len(c.status()["workers"]) == 3, "the standby")
        case.succeed("drain", f"w{c.order()[0]}", "--server", f"http://127.0.0.1:{c.http_port}")
        stream.read(5000)
        stream.close()
        pause = stream.pauses()[-1]
    print(f"a worker joins, another is drained: longest pause {1000 * pause:.0f} ms, usually "
          f"{1000 * usual:.1f} ms; at most 500 ms")
    return pause < max(0.5, 3 * usual)


def pause_over(stream, change):
    """Reads on until a change is done and some time after; the longest pause meanwhile."""
    begin, done = len(stream.arrivals), threading.Event()

    def make_change():
        change()
        done.set()
    thread = threading.Thread(target=make_change)
    thread.start()
    while not done.is_set():
        stream.read(1)
    thread.join()
    stream.read(20)
    return max(b - a for a, b in zip(stream.arrivals[begin - 1:], stream.arrivals[begin:]))


def moves(world, options):
    """A worker leaves and another joins behind a prompt of CONTEXT tokens."""
    with lab.case_of(world, "recovery-moves") as case:
        c = Cluster(case, lab.model_file(world, options, "llama-1b", "Q4_0"), workers=3, options=[
            "--ctx", "8192", "--split", "layers"]).start()
        server = f"http://127.0.0.1:{c.http_port}"
        stream = Tokens(c, CONTEXT, 4000)
        stream.read(30)
        usual, good = stream.pauses()[len(stream.arrivals) // 2], True

        def members():
            return {w["name"] for w in c.status()["workers"] if w["state"] == "ready"}

        def leave():
            case.succeed("drain", "w3", "--server", server)
            case.until(lambda: members() == {"w1", "w2"}, "the plan without the worker")

        def join():
            c.start_worker(3)
            case.until(lambda: len(members()) == 3, "the plan with the worker")
        for what, change in (("is drained", leave), ("joins", join)):
            before = c.status()["caches"]
            pause = pause_over(stream, change)
            after = c.status()["caches"]
            moved, again = (after[name] - before[name]
                            for name in ("moved_bytes", "replayed_positions"))
            good &= pause < max(0.5, 3 * usual)
            print(f"a worker of three {what} with {CONTEXT} tokens: longest pause "
                  f"{1000 * pause:.0f} ms, usually {1000 * usual:.0f} ms; {moved / 1e6:.0f} MB of "
                  f"caches moved, {again} positions computed again; at most "
                  f"{1000 * max(0.5, 3 * usual):.0f} ms")
        stream.close()
    return good


def run(world, options):
    good = True
    for measure in (stage, host, drain, moves):
        if lab.chosen(options, measure.__name__):
            good &= measure(world, options)
    return good
