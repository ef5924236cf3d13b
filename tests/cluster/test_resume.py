# SPDX-License-Identifier: Apache-2.0
"""Requests that outlive their connection and their coordinator; clients that are too many, too slow,
or gone."""
import http.client
import json
import re
import socket
import time

from cluster import Cluster, text_of

GREEDY = {"temperature": 0}
SEEDED = {"temperature": 0.9, "top_k": 50, "seed": 11, "frequency_penalty": 0.3}
MIROSTAT = {"temperature": 1, "mirostat": 2, "seed": 5, "top_p": 1}
XTC = {"temperature": 1.2, "xtc_probability": 0.5, "seed": 7, "dry_multiplier": 0.8}


class Events:
    """The events of one connection: their ids and what they say."""

    def __init__(self, c, method, path, body=None, headers=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", c.http_port,
                                                     timeout=c.case.world.patience_s)
        headers = dict(headers or {}, **({"Content-Type": "application/json"} if body else {}))
        self.connection.request(method, path, body and json.dumps(body), headers)
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, text_of(self.answer.read())
        self.id = self.answer.headers["X-Request-Id"]
        self.last = None

    def next(self):
        """The next event as a dictionary, None behind the last, "[DONE]"."""
        mark = None
        for line in iter(self.answer.readline, b""):
            if line.startswith(b"id: "):
                mark = text_of(line[4:].strip())
            if line.startswith(b"data: "):
                self.last = mark or self.last
                data = line[6:].strip()
                return None if data == b"[DONE]" else json.loads(data)
        raise AssertionError("the stream was cut")

    def rest(self):
        return list(iter(self.next, None))

    def close(self):
        self.connection.close()


def body_of(sampling, n, **more):
    return {"prompt": "hello there", "max_tokens": n, "stream": True, "ignore_eos": True,
            "stream_options": {"include_usage": True}, **sampling, **more}


def said(events):
    """What events say, without what is another for each request."""
    for event in events:
        event.pop("id"), event.pop("created")
    return events


def resume(c, stream):
    headers = {"Last-Event-ID": stream.last} if stream.last else {}
    return Events(c, "GET", f"/v1/requests/{stream.id}", headers=headers)


def cluster(case, *options, workers=2, model=None):
    return Cluster(case, model or case.world.small(), workers=workers,
                   options=["--state", case.dir / "state", *options])


def test_killed_coordinator(case):
    """Streams go on where they were after kill -9, and nothing is loaded again where plans go by
    rule, since the workers keep their order."""
    c = cluster(case, "-v", "--split", "layers").start()
    bodies = [body_of(s, 300) for s in (GREEDY, SEEDED, MIROSTAT, XTC)]
    bodies[1]["logprobs"] = 2
    whole = [said(Events(c, "POST", "/v1/completions", b).rest()) for b in bodies]
    order, epoch = c.order(), c.status()["epoch"]
    streams = [Events(c, "POST", "/v1/completions", b) for b in bodies]
    parts = [[s.next() for _ in range(20 * (i + 1))] for i, s in enumerate(streams)]
    c.server.kill()
    c.start_server()
    c.wait_ready()
    again = [resume(c, s) for s in streams]
    for i, stream in enumerate(again):
        assert stream.id == streams[i].id
        assert said(parts[i] + stream.rest()) == whole[i], f"stream {i} went on otherwise"
    assert c.status()["epoch"] > epoch
    assert c.order() == order
    for w in c.workers.values():
        lost = re.findall(r'WORKER-COORDINATOR-LOST reason="([^"]*)"', w.err())
        assert lost == ["its connection was closed"], lost
        loaded = re.findall(r"WORKER-LOADED .*", w.err())
        assert w.running() and len(loaded) == 2, loaded
        assert re.search(r" packed=0 memory=0 .*fetched=0$", loaded[1]), loaded


def test_killed_twice(case):
    """What was resumed is resumed again; a chat's and several choices' events too."""
    c = cluster(case).start()
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 250,
            "stream": True, "n": 2, "ignore_eos": True, "seed": 3}
    plain = body_of(SEEDED, 250, prompt=["one", "two"])
    paths = ["/v1/chat/completions", "/v1/completions"]
    whole = [Events(c, "POST", path, b).rest() for path, b in zip(paths, (chat, plain))]
    streams = [Events(c, "POST", path, b) for path, b in zip(paths, (chat, plain))]
    parts = [[], []]
    for _ in range(2):
        for part, stream in zip(parts, streams):
            part += [stream.next() for _ in range(50)]
        c.server.kill()
        c.start_server()
        c.case.until(lambda: c.health(), "the server")
        streams = [resume(c, s) for s in streams]
    for part, stream, expected in zip(parts, streams, whole):
        # How the choices take turns is not told.
        for index in (0, 1):
            def of(events):
                return [e["choices"][0] for e in events
                        if e["choices"] and e["choices"][0]["index"] == index]
            if not part or part[-1] is not None:
                part += stream.rest() + [None]
            assert of(part[:-1]) == of(expected), f"choice {index} went on otherwise"


def test_whole_answer(case):
    """Who asked for the answer in one piece gets it after a restart, and after he went away."""
    c = cluster(case).start()
    body = dict(body_of(SEEDED, 200, stream=False))
    del body["stream_options"]
    status, first = c.request("POST", "/v1/completions", body)
    assert status == 200
    connection = http.client.HTTPConnection("127.0.0.1", c.http_port)
    connection.request("POST", "/v1/completions", json.dumps(dict(body, max_tokens=20000)),
                       {"Content-Type": "application/json"})
    case.until(lambda: c.status()["active"], "the request")
    c.server.kill()
    connection.close()
    c.start_server()
    c.wait_ready()
    status, again = c.request("GET", f"/v1/requests/{first['id']}")
    assert status == 200 and again == first, again
    status, answer = c.request("GET", "/v1/requests/cmpl-0123")
    assert status == 404 and answer["error"]["code"] == "unknown_request", answer


def test_stopped_coordinator(case):
    """Who ends the coordinator politely and starts it again loses nothing either."""
    c = cluster(case).start()
    body = body_of(GREEDY, 400)
    whole = said(Events(c, "POST", "/v1/completions", body).rest())
    stream = Events(c, "POST", "/v1/completions", body)
    part = [stream.next() for _ in range(30)]
    assert c.server.stop() == 0
    c.start_server()
    c.wait_ready()
    assert said(part + resume(c, stream).rest()) == whole


def test_vanished_client(case):
    """A client that goes away frees its place; one that said it would come back does not."""
    c = cluster(case, workers=1).start()
    stream = Events(c, "POST", "/v1/completions", body_of(GREEDY, 60000))
    stream.next()
    before = time.monotonic()
    stream.close()
    case.until(lambda: c.status()["active"] == 0, "the place to be free")
    assert time.monotonic() - before < (10 if case.world.sanitized else 1)
    body = body_of(GREEDY, 500)
    whole = said(Events(c, "POST", "/v1/completions", body).rest())
    stream = Events(c, "POST", "/v1/completions", body, {"X-Caravan-Resume": "60"})
    part = [stream.next() for _ in range(10)]
    stream.close()
    # It is computed although nobody reads.
    case.until(lambda: c.status()["active"] == 0, "the answer")
    assert said(part + resume(c, stream).rest()) == whole
    status, answer = c.request("GET", f"/v1/requests/{stream.id}?after=x")
    assert status == 400, answer


def test_too_many(case):
    """More requests than fit get 429 and a time; those that fit are served."""
    c = cluster(case, "--parallel", "1", "--max-waiting", "2", workers=1).start()
    streams = [Events(c, "POST", "/v1/completions", body_of(GREEDY, 3000)) for _ in range(3)]
    connection = http.client.HTTPConnection("127.0.0.1", c.http_port)
    connection.request("POST", "/v1/completions", json.dumps(body_of(GREEDY, 5)),
                       {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 429 and int(answer.headers["Retry-After"]) >= 1
    assert json.loads(answer.read())["error"]["code"] == "busy"
    streams[0].close()
    case.until(lambda: c.request("POST", "/v1/completions",
                                 {"prompt": "a", "max_tokens": 1})[0] != 429, "a place")
    for stream in streams[1:]:
        stream.close()
    case.until(lambda: c.status()["active"] + c.status()["waiting"] == 0, "all places to be free")


def slow_stream(c, body):
    """A connection that has not read anything yet and takes little at once."""
    data = json.dumps(body).encode()
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", c.http_port))
    slow.settimeout(c.case.world.patience_s)
    slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                 b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return slow


def test_slow_reader(case):
    """Who does not read slows nobody, gives his place back, and still gets everything."""
    c = cluster(case, "--parallel", "1", workers=1).start()
    body = body_of(GREEDY, 6000, logprobs=20)
    del body["stream_options"]
    slow = slow_stream(c, body)
    case.until(lambda: c.status()["active"] == 1, "the slow request")
    fast = Events(c, "POST", "/v1/completions", body_of(GREEDY, 50)).rest()
    assert fast[-1]["usage"]["completion_tokens"] == 50
    got = b"".join(iter(lambda: slow.recv(65536), b""))
    assert b"id: 6002\n" in got and b"data: [DONE]" in got, got[-300:]


def test_flood(case):
    """Silent connections do not keep others out for long, nor disturb those that are served."""
    c = cluster(case, "--max-connections", "4", workers=1).start()
    stream = Events(c, "POST", "/v1/completions", body_of(GREEDY, 20000))
    flood = [socket.create_connection(("127.0.0.1", c.http_port)) for _ in range(20)]
    for _ in range(20):
        assert stream.next()["choices"]
    case.until(lambda: c.health() == 503, "a refusal")
    for connection in flood:
        connection.close()
    case.until(lambda: c.health() == 200, "the end of the flood")
    stream.close()


def test_commands_wait(case):
    """caravan run goes on with its text when the coordinator comes back."""
    c = cluster(case).start()
    server = f"http://127.0.0.1:{c.http_port}"
    argv = [case.world.caravan, "run", "--server", server, "-p", "hello there", "-n", "4000",
            "--temp", "0", "--ignore-eos"]
    text = case.run(argv).out
    process = case.start("client", argv)
    case.until(lambda: len(process.out()) > 200, "some text")
    c.server.kill()
    c.start_server()
    assert process.wait() == 0
    assert process.out() == text, "another text"
    assert "waiting for it to come back" in process.err()


def test_odd_state(case):
    """A state file that is none is named, and nothing happens to it."""
    model = case.world.small()
    state = case.dir / "odd"
    state.write_bytes(b"my shopping list, which is longer than a database's header " * 30)
    argv = ["serve", "-m", model, "--local-workers", "1", "--listen", "127.0.0.1:0", "--state",
            state]
    case.caravan(*argv).fails_with(str(state), "--state")
    assert state.read_bytes().startswith(b"my shopping list")
