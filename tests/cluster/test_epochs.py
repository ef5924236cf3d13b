# SPDX-License-Identifier: Apache-2.0
"""Workers come and go while clients stream: every text is the undisturbed one."""
import http.client
import json
import signal
import threading

from cluster import Cluster, Stream
from relay import Relayed

PROMPTS = ["hello there", "the caravan goes on " * 20, "one two three"]
SAMPLED = {"temperature": 0.9, "top_p": 0.9, "seed": 11}


class Reader(threading.Thread):
    """A client that reads a stream to its end."""

    def __init__(self, c, n, prompt, **fields):
        super().__init__()
        self.stream, self.text, self.error, self.tokens = Stream(c, n, prompt, **fields), "", None, 0
        self.start()

    def run(self):
        event = self.stream.next()
        while event not in (None, "[DONE]"):
            if "error" in event:
                self.error = event["error"]["message"]
                break
            self.text += event["choices"][0]["text"]
            self.tokens += 1
            event = self.stream.next()
        if event is None:
            self.error = "the stream was cut off"
        self.stream.close()


class Clients:
    """Streams whose texts are known, greedy ones and one that samples with a seed."""

    def __init__(self, c, n=None):
        # Tokens enough for a fault to fall into the middle.
        self.c, self.n = c, n or (300 if c.case.world.sanitized else 1000)
        self.asked = [(prompt, {}) for prompt in PROMPTS] + [(PROMPTS[0], SAMPLED)]
        self.known = [c.complete(self.n, prompt, **fields) for prompt, fields in self.asked]

    def disturb(self, *faults):
        """Streams all of them while the faults happen, one after another; how long each took to
        be overcome is for the caller to ask. No text may change."""
        failed = self.c.status()["requests_failed"]
        readers = [Reader(self.c, self.n, prompt, **fields) for prompt, fields in self.asked]
        for fault in faults:
            before = [r.tokens for r in readers]
            self.c.case.until(lambda b=before: all(r.tokens > n + 20 or not r.is_alive()
                                                   for r, n in zip(readers, b)), "some tokens")
            assert all(r.is_alive() for r in readers), "the streams ended before the fault"
            fault()
        for r, text in zip(readers, self.known):
            r.join()
            assert not r.error, r.error
            same = next((i for i, (a, b) in enumerate(zip(r.text, text)) if a != b), None)
            assert r.text == text, (f"another text than the undisturbed one: {len(r.text)} of "
                                    f"{len(text)} characters, other from number {same} on")
        assert self.c.status()["requests_failed"] == failed
        self.check_idle()

    def check_idle(self):
        self.c.case.until(lambda: not self.c.status()["active"], "the requests' end")


def wait_epoch(c, more_than):
    """A plan of a later epoch is in force."""
    def look():
        status = c.status()
        return status["ready"] and status["epoch"] > more_than and status["epoch"]
    return c.case.until(look, f"an epoch after {more_than}")


def members(c):
    return {w["name"] for w in c.status()["workers"] if w["state"] == "ready"}


def test_killed_stages(case):
    """The first, a middle and the last stage die in turn, each is missed and comes back."""
    c = Cluster(case, case.world.small()).start()
    clients = Clients(c)
    for place in range(3):
        i = c.order()[place]
        epoch = c.status()["epoch"]
        clients.disturb(c.workers[i].kill)
        assert c.status()["epoch"] > epoch, "nobody noticed"
        c.start_worker(i)
        case.until(lambda: len(members(c)) == 3, "the worker to be given a part again")


def test_stopped_stages(case):
    """The same with workers that fall silent and go on later."""
    c = Cluster(case, case.world.small(), options=["--deadline", "1"]).start()
    clients = Clients(c)
    for place in range(3):
        i = c.order()[place]
        clients.disturb(lambda i=i: c.workers[i].send(signal.SIGSTOP))
        c.workers[i].send(signal.SIGCONT)
        case.until(lambda: len(members(c)) == 3, "the worker to be given a part again")


def test_losses_in_a_row(case):
    """A second worker dies as soon as the first is made good, or while it is being."""
    c = Cluster(case, case.world.small(), workers=4).start()
    clients = Clients(c)
    order = c.order()

    def both():
        c.workers[order[0]].kill()
        c.workers[order[2]].kill()
    clients.disturb(both)
    for i in (order[0], order[2]):
        c.start_worker(i)
    case.until(lambda: len(members(c)) == 4, "all workers to have a part")
    order = c.order()
    clients.disturb(c.workers[order[3]].kill, c.workers[order[1]].kill)
    assert len(members(c)) == 2


def test_loss_while_loading(case):
    """A worker that is about to take a lost part dies as well, in the middle of its load."""
    c = Cluster(case, case.world.large(), workers=3).start()
    known = c.complete(40)
    order = c.order()
    reader = Reader(c, 40, "hello there")
    case.until(lambda: reader.tokens > 3, "some tokens")
    c.workers[order[1]].kill()
    case.until(lambda: any(w["state"] == "loading" for w in c.status()["workers"]), "the next load")
    c.workers[order[2]].kill()
    reader.join()
    assert not reader.error and reader.text == known, reader.error
    assert members(c) == {f"w{order[0]}"}


def test_logits(case):
    """All logits of a text, asked for while a stage dies, are those of the undisturbed cluster."""
    c = Cluster(case, case.world.small()).start()
    body = json.dumps({"ids": [i % 200 + 1 for i in range(8000)]})

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", c.http_port,
                                                timeout=case.world.patience_s)
        connection.request("POST", "/caravan/v1/logits", body,
                           {"Content-Type": "application/json"})
        return connection.getresponse()
    known = ask().read()
    answer = ask()
    start = answer.read(100000)
    epoch = c.status()["epoch"]
    c.workers[c.order()[1]].kill()
    assert start + answer.read() == known, "other logits"
    assert c.status()["epoch"] > epoch


# ---- who is not needed, who leaves, who is missing ----

def wait_states(c, **states):
    """Until workers are in these states: w3="standby"."""
    def look():
        found = {w["name"]: w["state"] for w in c.status()["workers"]}
        return all(found.get(name) == state for name, state in states.items())
    c.case.until(look, str(states))


def test_standby(case):
    """A worker beyond those that are needed stands by, and takes the place of one that dies."""
    c = Cluster(case, case.world.small(), workers=2).start()
    clients = Clients(c)
    c.start_worker(3)
    wait_states(c, w1="ready", w2="ready", w3="standby")
    assert c.status()["epoch"] == 1, "the plan was changed for nothing"
    parts = {w["layer_first"] for w in c.status()["workers"] if w["layer_end"]}
    clients.disturb(c.workers[1].kill)
    assert members(c) == {"w2", "w3"}
    assert {w["layer_first"] for w in c.status()["workers"] if w["layer_end"]} == parts
    c.start_worker(1)
    wait_states(c, w1="standby")


def test_partial_replay(case):
    """A standby takes the place of the first, a middle, the last stage: it alone computes what was
    cached there again, from what the stage before it has kept."""
    c = Cluster(case, case.world.small(), options=["-v"]).start()
    clients = Clients(c)
    standby = 4
    for place in range(3):
        c.start_worker(standby)
        wait_states(c, **{f"w{standby}": "standby"})
        lost = c.order()[place]
        c.server.err_path.write_text("")
        clients.disturb(c.workers[lost].kill)
        assert f"w{standby}" in members(c)
        assert f"COORD-REFILL seq=0 stage={place} from=0" in c.server.err()
        assert "COORD-REPLAY" not in c.server.err()
        standby = lost


def test_no_room_for_boundaries(case):
    """Nothing is kept of what was sent on: all is computed again."""
    c = Cluster(case, case.world.small(), options=["-v"],
                worker_options=["--boundary-memory", "0"]).start()
    clients = Clients(c)
    c.start_worker(4)
    wait_states(c, w4="standby")
    clients.disturb(c.workers[c.order()[1]].kill)
    assert "COORD-REPLAY" in c.server.err() and "COORD-REFILL" not in c.server.err()


def drain(c, worker):
    return c.case.caravan("drain", worker, "--server", f"http://127.0.0.1:{c.http_port}")


def test_drain(case):
    """Workers are drained one after another while streams run; each ends well."""
    c = Cluster(case, case.world.small()).start()
    clients = Clients(c)
    for i in (2, 1):
        result = []
        clients.disturb(lambda i=i: result.append(drain(c, f"w{i}")))
        assert result[0].status == 0 and f"w{i} has left" in result[0].out.decode(), result[0].err
        assert c.workers[i].wait() == 0
        assert "WORKER-DRAINED" in c.workers[i].err()
        wait_states(c, **{f"w{i}": "left"})
    assert members(c) == {"w3"}
    drain(c, "w3").fails_with("no other worker")
    drain(c, "w7").fails_with("w7", "no worker")
    assert c.complete(clients.n, PROMPTS[0]) == clients.known[0]
    c.start_worker(1)
    wait_states(c, w1="ready", w3="ready")
    assert c.complete(clients.n, PROMPTS[0]) == clients.known[0]


def test_drain_standby(case):
    """A worker without a part leaves at once, and the plan stays."""
    c = Cluster(case, case.world.small(), workers=1).start()
    c.start_worker(2)
    wait_states(c, w1="ready", w2="standby")
    assert drain(c, "w2").status == 0
    assert c.workers[2].wait() == 0
    assert c.status()["epoch"] == 1


def test_drain_before_the_start(case):
    """A worker may leave while others are still awaited."""
    c = Cluster(case, case.world.small(), workers=2)
    c.start_server()
    c.start_worker(1)
    case.until(lambda: c.health() and c.status()["workers"], "the worker")
    assert drain(c, "w1").status == 0
    assert c.workers[1].wait() == 0
    c.start_worker(2)
    c.start_worker(3)
    c.wait_ready()
    assert members(c) == {"w2", "w3"}


NO_OTHERS = ["--layers", "0-1,2-3,4-5"]  # for three workers and no fewer


def test_waits_for_return(case):
    """Those that are left cannot hold the model: streams wait, the status says what is missing."""
    c = Cluster(case, case.world.small(), options=NO_OTHERS).start()
    clients = Clients(c)
    i = c.order()[1]
    late = {}

    def lose_and_return():
        c.workers[i].kill()
        case.until(lambda: c.health() == 503, "the loss to be noticed")
        missing = c.status()["missing"]
        assert f'"w{i}" with layers 2-3 is lost' in missing, missing
        taken = c.status()["requests"]
        late["reader"] = threading.Thread(target=lambda: late.update(text=c.complete(20)))
        late["reader"].start()
        case.until(lambda: c.status()["requests"] > taken, "a request to be taken")
        c.start_worker(i)
    clients.disturb(lose_and_return)
    late["reader"].join()
    assert late["text"] == clients.known[0][:len(late["text"])] and late["text"]


def test_patience(case):
    """Nobody comes: requests fail after their time, and say why."""
    c = Cluster(case, case.world.small(), options=NO_OTHERS + ["--patience", "1"]).start()
    reader = Reader(c, 60000, "hello there")
    case.until(lambda: reader.tokens > 3, "some tokens")
    c.workers[2].kill()
    reader.join()
    assert '"w2" with layers' in reader.error and "is lost" in reader.error, reader.error
    status, answer = c.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert status == 503 and '"w2"' in answer["error"]["message"], (status, answer)
    c.start_worker(2)
    c.wait_ready()
    assert c.complete()


# ---- connections between workers ----

def test_cut_connection(case):
    """A connection between two workers swallows what is sent: it is made anew, nobody is left out,
    and nothing that is cached is computed again."""
    c = Relayed(case, case.world.small(), options=["--deadline", "1", "-v"]).start()
    clients = Clients(c, 300)
    order = c.order()
    clients.disturb(c.to_worker[order[1]].cut)
    clients.disturb(c.to_worker[order[2]].cut)
    assert c.order() == order
    assert "COORD-SUSPECT" in c.server.err() and "COORD-REPLAY" not in c.server.err()
    assert "COORD-WORKER-LOST" not in c.server.err()


def test_worker_out_of_reach(case):
    """It stays cut: the plan does without one of the two workers."""
    c = Relayed(case, case.world.small(), options=["--deadline", "1"]).start()
    clients = Clients(c, 300)
    clients.disturb(lambda: c.to_worker[c.order()[2]].cut(for_ever=True))
    assert len(members(c)) == 2


# ---- experts ----

def expert_cluster(case, workers, *options):
    model = case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=16, used=4, ffe=1024,
                             ctx=8192)
    return Cluster(case, model, workers=workers,
                   options=["--split", "experts", "--deadline", "1", *options])


def hosts(c):
    """Numbers of workers that hold experts and no layers."""
    return [int(w["name"][1:]) for w in c.status()["workers"] if w["experts"] and not w["layer_end"]]


def test_host_with_replica(case):
    """Others hold what a host held: nothing is computed again."""
    c = expert_cluster(case, 3, "--replicas", "2", "-v").start()
    clients = Clients(c, 400)
    clients.disturb(c.workers[hosts(c)[0]].kill)
    assert len(hosts(c)) == 1
    assert "COORD-REPLAY" not in c.server.err()


def test_host_without_replica(case):
    """A host's experts are loaded elsewhere; a host that is stopped is one that is lost."""
    c = expert_cluster(case, 4).start()
    clients = Clients(c, 400)
    first, second = hosts(c)[:2]
    clients.disturb(c.workers[first].kill)
    assert first not in hosts(c)
    c.start_worker(first)
    case.until(lambda: len(members(c)) == 4, "the worker to be given a part again")
    clients.disturb(lambda: c.workers[second].send(signal.SIGSTOP))
    c.workers[second].send(signal.SIGCONT)
    case.until(lambda: len(members(c)) == 4, "the worker to be given a part again")
    leaving = hosts(c)[0]
    clients.disturb(lambda: c.workers[leaving].send(signal.SIGTERM))
    assert c.workers[leaving].wait() == 0


def test_stage_before_hosts(case):
    """The stage dies: a host takes its place, and others the host's."""
    c = expert_cluster(case, 4).start()
    clients = Clients(c, 400)
    clients.disturb(c.workers[c.order()[0]].kill)
    assert len(members(c)) == 3
