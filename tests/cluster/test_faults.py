# SPDX-License-Identifier: Apache-2.0
"""Workers that die or fall silent, coordinators that are interrupted, strangers that knock."""
import os
import random
import signal
import socket
import threading
import time

from cluster import Cluster, Stream

ERROR_S = 5  # what the program promises for a worker that is lost
INTERRUPT_S = 2


def fail_in_the_middle(c, fault):
    """Lets the fault happen while a completion streams; (the error, after how many seconds)."""
    stream = Stream(c, 60000)
    for _ in range(3):
        assert "choices" in stream.next()
    # The stream is read while the fault happens, as a client would.
    reader_result = {}

    def read():
        try:
            reader_result["error"] = stream.error()
        except AssertionError as e:
            reader_result["failure"] = e
        reader_result["at"] = time.monotonic()

    reader = threading.Thread(target=read)
    reader.start()
    before = time.monotonic()
    fault()
    reader.join()
    stream.close()
    if "failure" in reader_result:
        raise reader_result["failure"]
    return reader_result["error"], reader_result["at"] - before


def check_loss(c, i, fault):
    """Who has no patience is told of worker i's loss in time and by name; the coordinator lives on
    without a model."""
    error, seconds = fail_in_the_middle(c, fault)
    assert f'"w{i}"' in error, error
    assert seconds < ERROR_S, f"the error came after {seconds:.1f} s"
    assert c.server.running(), "the coordinator ended"
    status, answer = c.request("GET", "/health")
    assert status == 503 and f'"w{i}"' in answer["error"]["message"], (status, answer)
    status, answer = c.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert status == 503 and "message" in answer["error"], (status, answer)


# Nobody can take the place of another, and nobody waits.
RIGID = ["--layers", "0-1,2-3,4-5", "--patience", "0"]


def test_killed_worker(case):
    """Each stage in turn dies in the middle of a generation and comes back."""
    c = Cluster(case, case.world.small(), options=RIGID).start()
    text = c.complete()
    for i in c.order():
        check_loss(c, i, c.workers[i].kill)
        c.start_worker(i)
        c.wait_ready()
        assert c.complete() == text, "another text after a worker's return"


def test_killed_worker_returns_at_once(case):
    """A worker that a supervisor restarts before its death was noticed is taken, not refused."""
    c = Cluster(case, case.world.small(), options=RIGID).start()
    text = c.complete()
    for i in c.order()[:2]:
        def restart(i=i):
            c.workers[i].kill()
            c.start_worker(i)
        error, seconds = fail_in_the_middle(c, restart)
        assert f'"w{i}"' in error and seconds < ERROR_S, (error, seconds)
        c.wait_ready()
        assert c.workers[i].running(), "the restarted worker was refused"
        assert c.complete() == text


def test_stopped_worker(case):
    """Each stage in turn falls silent, is given up, and comes back by itself."""
    c = Cluster(case, case.world.small(), options=RIGID).start()
    text = c.complete()
    for i in c.order():
        check_loss(c, i, lambda i=i: c.workers[i].send(signal.SIGSTOP))
        c.workers[i].send(signal.SIGCONT)
        c.wait_ready()
        assert c.complete() == text, "another text after a worker's return"


def test_leaving_worker(case):
    """A worker that is ended by its owner says goodbye: the error is there at once."""
    c = Cluster(case, case.world.small(), options=RIGID).start()
    text = c.complete()
    check_loss(c, 2, lambda: c.workers[2].send(signal.SIGTERM))
    assert c.workers[2].wait() == 0
    c.start_worker(2)
    c.wait_ready()
    assert c.complete() == text


def test_leaving_while_loading(case):
    """A worker that is ended while weights travel ends at once, and fetches the rest later."""
    c = Cluster(case, case.world.large(), workers=1)
    c.start_server()
    c.start_worker(1)
    case.until(lambda: list(c.cache(1).glob("pieces/*/*.piece")), "weights to arrive")
    before = time.monotonic()
    assert c.workers[1].stop() == 0
    assert time.monotonic() - before < INTERRUPT_S
    assert c.health() == 503
    c.start_worker(1)
    c.wait_ready()


def test_leaving_while_computing(case):
    """The batch in hand is waited for, unless the worker is told twice."""
    c = Cluster(case, case.world.large(), workers=1, options=["--patience", "0"],
                worker_options=["--isa", "portable"]).start()
    failure = {}

    def ask():
        failure["answer"] = c.request("POST", "/v1/completions",
                                      {"prompt": "word " * 500, "max_tokens": 1})

    asking = threading.Thread(target=ask)
    asking.start()
    case.until(lambda: c.status()["active"], "the request")
    c.workers[1].send(signal.SIGTERM)
    case.until(lambda: c.health() == 503, "the goodbye")
    asking.join()
    status, answer = failure["answer"]
    assert status == 503 and '"w1"' in answer["error"]["message"], failure
    before = time.monotonic()
    c.workers[1].send(signal.SIGTERM)
    c.workers[1].wait()
    assert time.monotonic() - before < INTERRUPT_S


def test_worker_with_new_key(case):
    """A machine that was set up anew has another key and goes on under its old name."""
    c = Cluster(case, case.world.small(), options=RIGID).start()
    text = c.complete()
    c.workers[2].kill()
    (case.dir / "worker-2.key").unlink()
    case.until(lambda: c.health() == 503, "the loss to be noticed")
    c.start_worker(2)
    c.wait_ready()
    assert c.complete() == text
    assert sorted(w["name"] for w in c.status()["workers"]) == ["w1", "w2", "w3"]


def test_silence_without_work(case):
    """A worker that dies while nothing is computed is missed as well."""
    c = Cluster(case, case.world.small(), options=RIGID).start()
    text = c.complete()
    c.workers[3].kill()
    case.until(lambda: c.health() == 503, "the loss to be noticed", ERROR_S)
    c.start_worker(3)
    c.wait_ready()
    assert c.complete() == text


def test_killed_worker_while_loading(case):
    """A worker that dies while weights travel is waited for."""
    c = Cluster(case, case.world.large(), workers=2)
    c.start_server()
    c.start_worker(1)
    c.start_worker(2)
    case.until(lambda: list(c.cache(2).glob("pieces/*/*.piece")), "weights to arrive")
    c.workers[2].kill()
    c.start_worker(2)
    c.wait_ready()
    assert len(c.complete()) > 0


def test_coordinator_returns(case):
    """Workers outlive their coordinator and join the next one by themselves."""
    c = Cluster(case, case.world.small()).start()
    text = c.complete()
    c.server.kill()
    c.start_server()
    c.wait_ready()
    assert c.complete() == text
    assert c.server.stop() == 0
    c.start_server()
    c.wait_ready()
    assert c.complete() == text
    assert all(w.running() for w in c.workers.values())


def let_pass(seconds):
    """Time that has to pass for what is tested, not for something to happen."""
    time.sleep(seconds)


def test_paused_coordinator(case):
    """A coordinator that was stopped for longer than the deadline goes on."""
    c = Cluster(case, case.world.small(), options=["--deadline", "0.5"]).start()
    text = c.complete()
    for _ in range(2):
        for worker in c.workers.values():
            worker.err_path.write_text("")
        c.server.send(signal.SIGSTOP)
        for worker in c.workers.values():
            worker.wait_for("WORKER-COORDINATOR-LOST")
        c.server.send(signal.SIGCONT)
        for worker in c.workers.values():
            worker.wait_for("to=ready")
        c.wait_ready()
        assert c.complete() == text


def test_paused_run(case):
    """Ctrl-Z and fg: the text goes on as if nothing had been."""
    argv = ["run", "-m", case.world.small(), "-p", "hello", "-n", "4000", "--ignore-eos", "--temp",
            "0", "--local-workers", "2", "--deadline", "0.5"]
    text = case.succeed(*argv)
    run = case.start("paused", [case.world.caravan, *argv])
    case.until(run.out, "the first text")
    run.send(signal.SIGSTOP)
    assert len(run.out()) < len(text)
    let_pass(2.5)
    run.send(signal.SIGCONT)
    assert run.wait() == 0, run.err()
    assert run.out() == text


def test_serve_restarts_children(case):
    """A local worker of `caravan serve` that dies is replaced; its part is done meanwhile."""
    c = Cluster(case, case.world.small(), workers=0,
                options=["--local-workers", "3", "-t", "1"]).start()
    text = c.complete(2000)
    stream = Stream(c, 2000)
    found = stream.next()["choices"][0]["text"]
    os.kill(case.children(c.server)[1], signal.SIGKILL)
    for event in iter(stream.next, "[DONE]"):
        found += event["choices"][0]["text"]
    assert found == text
    case.until(lambda: len(case.children(c.server)) == 3, "another child")
    case.until(lambda: sum(w["layer_end"] > 0 for w in c.status()["workers"]) == 3, "its part")
    assert c.complete(2000) == text


def test_run_loses_child(case):
    """`caravan run` goes on while a worker is left, and ends with an error when none is."""
    run = start_run(case)
    for child in case.children(run):
        assert run.running(), run.err()
        os.kill(child, signal.SIGKILL)
        so_far = len(run.out())
        case.until(lambda n=so_far: len(run.out()) > n or not run.running(), "more text")
    assert run.wait(ERROR_S) == 1
    last = run.err().strip().splitlines()[-1]
    assert 'worker "local-' in last and "lost" in last, run.err()


def start_run(case, *args):
    """A `caravan run` that is in the middle of its text."""
    run = case.start("run", [case.world.caravan, "run", "-m", case.world.small(), "-p", "hello",
                             "-n", "60000", "--ignore-eos", "--temp", "0", "--local-workers", "3",
                             *args])
    case.until(run.out, "the first text")
    return run


def check_gone(case, process, number, within_s):
    before = time.monotonic()
    process.send(number)
    status = process.wait(case.world.patience_s)
    seconds = time.monotonic() - before
    case.until(lambda: not case.marked(), "the children's end", 5)
    assert seconds < within_s, f"it took {seconds:.1f} s to end"
    return status


def test_interrupted_run(case):
    """Ctrl-C in the middle of a generation."""
    run = start_run(case)
    assert check_gone(case, run, signal.SIGINT, INTERRUPT_S) != 0
    assert run.err().strip().endswith("interrupted"), run.err()


def test_interrupted_loading(case):
    """Ctrl-C while the weights are loaded."""
    model = case.world.model("llama-1b", "F16", sparse=True, layers=12)
    run = case.start("run", [case.world.caravan, "run", "-m", model, "-p", "hello",
                             "--local-workers", "2"])
    run.wait_for("loading:")
    assert check_gone(case, run, signal.SIGINT, INTERRUPT_S) != 0
    assert not run.out() and "loaded" not in run.err(), run.err()


def test_interrupted_waiting(case):
    """Ctrl-C while workers are waited for."""
    c = Cluster(case, case.world.small(), workers=1)
    run = case.start("run", [case.world.caravan, "run", "-m", c.model, "-p", "a", "--workers", "1",
                             "--cluster-key", c.key])
    case.until(lambda: run.err() or len(os.listdir(f"/proc/{run.pid}/task")) > 3, "its threads")
    assert check_gone(case, run, signal.SIGINT, INTERRUPT_S) != 0


def test_interrupted_serve(case):
    """Ctrl-C while a completion streams: the client is told, the program ends well."""
    c = Cluster(case, case.world.small(), workers=0,
                options=["--local-workers", "2", "-t", "1"]).start()
    error, seconds = fail_in_the_middle(c, lambda: c.server.send(signal.SIGINT))
    assert seconds < ERROR_S and error, (error, seconds)
    assert c.server.wait() == 0
    case.until(lambda: not case.marked(), "the children's end", 5)


def test_killed_run(case):
    """The children of a coordinator that dies end by themselves."""
    run = start_run(case)
    assert len(case.children(run)) == 3
    check_gone(case, run, signal.SIGKILL, ERROR_S)


def test_closed_output(case):
    """A reader of the text that goes away ends the generation."""
    reader, writer = os.pipe()
    run = case.start("run", ["sh", "-c", 'exec "$@" >"/dev/fd/$0"', str(writer), case.world.caravan, "run",
                             "-m", case.world.small(), "-p", "hello", "-n", "60000",
                             "--ignore-eos", "--temp", "0"], pass_fds=[writer])
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    assert run.wait() != 0


# ---- strangers ----

def knock(port, data):
    s = socket.create_connection(("127.0.0.1", port), 10)
    s.settimeout(0.1)
    try:
        s.sendall(data)
        s.recv(64)
        s.sendall(data)
    except OSError:
        pass
    return s


def greetings():
    """What strangers say to a ZeroMQ port: nothing, noise, another protocol, half a greeting, a
    greeting that asks for another mechanism, a greeting and then noise."""
    rng = random.Random(5)
    noise = bytes(rng.randrange(256) for _ in range(100000))
    signature = b"\xff" + bytes(8) + b"\x7f"
    null = signature + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    curve = signature + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
    hello = b"\x04\xc8\x05HELLO\x01\x00" + bytes(192)
    return [b"", noise, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", signature, null,
            null + b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER", curve, curve + noise,
            curve + hello, curve + hello + noise, b"\xff" * 5000]


def test_strangers(case):
    """Noise and half-open connections at every port: the cluster goes on as if nothing were."""
    c = Cluster(case, case.world.small()).start()
    text = c.complete(200)
    ports = [c.port] + [int(w["endpoint"].rsplit(":", 1)[1]) for w in c.status()["workers"]]
    stream = Stream(c, 60000)
    assert "choices" in stream.next()
    open_ends = [knock(port, data) for port in ports for data in greetings()]
    idle = [socket.create_connection(("127.0.0.1", c.port), 10) for _ in range(100)]
    assert c.complete(200) == text
    for s in open_ends + idle:
        s.close()
    assert c.complete(200) == text
    assert "choices" in stream.next(), "the stream ended"
    stream.close()
    assert c.status()["epoch"] == 1, "the cluster was disturbed"
    for process in [c.server, *c.workers.values()]:
        assert process.running(), f"{process.name} ended"


def test_joiner_while_garbage_waits(case):
    """Workers join while strangers hold connections to the coordinator's port."""
    c = Cluster(case, case.world.small())
    c.start_server()
    case.until(lambda: c.health() == 503, "the server")
    strangers = [knock(c.port, data) for data in greetings()]
    for i in (1, 2, 3):
        c.start_worker(i)
    c.wait_ready()
    assert c.complete()
    for s in strangers:
        s.close()
