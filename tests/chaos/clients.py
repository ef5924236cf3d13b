# SPDX-License-Identifier: Apache-2.0
"""Clients that stream texts which they know beforehand, and come back when a connection ends."""
import http.client
import json
import threading
import time

RETRY_S = 0.05  # between two tries to reach a coordinator that is not there


class Failure(Exception):
    """What a client must never see."""


class Streamed:
    """One request, over as many connections as it takes."""

    def __init__(self, port, prompt, n, ended):
        self.port, self.prompt, self.n, self.ended = port, prompt, n, ended
        self.id, self.event, self.text = None, None, ""
        self.arrivals = []  # when a token came
        self.connections = 0

    def connect(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if self.id is None:
            body = {"prompt": self.prompt, "max_tokens": self.n, "temperature": 0,
                    "stream": True, "ignore_eos": True}
            connection.request("POST", "/v1/completions", json.dumps(body),
                               {"Content-Type": "application/json", "X-Caravan-Resume": "120"})
        else:
            headers = {} if self.event is None else {"Last-Event-ID": self.event}
            connection.request("GET", f"/v1/requests/{self.id}", headers=headers)
        return connection, connection.getresponse()

    def read(self, answer):
        """Events until the stream ends; True if that is the end of the text."""
        for line in iter(answer.readline, b""):
            if line.startswith(b"id: "):
                self.event = line[4:].strip().decode()
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                return True
            event = json.loads(data)
            if "error" in event:
                raise Failure(f"{self.id}: {event['error']['message']}")
            self.id = event["id"]
            self.arrivals.append(time.monotonic())
            self.text += event["choices"][0]["text"] if event["choices"] else ""
        return False

    def attempt(self):
        """True when the text is whole. Connections that break are tried again."""
        connection, answer = self.connect()
        try:
            self.connections += 1
            if answer.status in (429, 503) and self.id is None:
                time.sleep(min(float(answer.headers.get("Retry-After", 1)), 1))
                return False
            if answer.status != 200:
                raise Failure(f"{self.id}: status {answer.status}: {answer.read()[:300]!r}")
            self.id = self.id or answer.headers.get("X-Request-Id")
            return self.read(answer)
        finally:
            connection.close()

    def run(self):
        """The text; None if the clients were told to end before it began."""
        while True:
            try:
                if self.attempt():
                    return self.text
            except (OSError, http.client.HTTPException):
                if self.ended.is_set() and self.id is None:
                    return None
            time.sleep(RETRY_S)


class Clients:
    """Threads that ask for texts until they are told to end; `answers` are {(prompt, n): text}."""

    def __init__(self, port, answers, n_clients, random):
        self.port, self.answers = port, answers
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.requests = self.tokens = self.resumed = 0
        self.failures, self.arrivals = [], []
        self.unfinished = {}
        self.threads = [threading.Thread(target=self.main, args=(random.random(),), daemon=True)
                        for _ in range(n_clients)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def main(self, seed):
        keys = sorted(self.answers)
        at = int(seed * len(keys))
        while not self.ended.is_set():
            at = (at + 1) % len(keys)
            self.one(keys[at])

    def one(self, key):
        streamed = Streamed(self.port, *key, self.ended)
        with self.lock:
            self.unfinished[threading.get_ident()] = streamed
        try:
            text = streamed.run()
            if text is not None and text != self.answers[key]:
                raise Failure(self.difference(streamed, text, self.answers[key]))
        except Failure as failure:
            with self.lock:
                self.failures.append(str(failure))
        with self.lock:
            del self.unfinished[threading.get_ident()]
            self.requests += 1
            self.tokens += len(streamed.arrivals)
            self.resumed += streamed.connections > 1
            self.arrivals.append(streamed.arrivals)

    @staticmethod
    def difference(streamed, text, expected):
        at = next((i for i, (a, b) in enumerate(zip(text, expected)) if a != b),
                  min(len(text), len(expected)))
        return (f"{streamed.id}: another text from character {at} of {len(expected)} on: "
                f"{text[at:at + 40]!r}, expected {expected[at:at + 40]!r}")

    def end(self, within_s):
        """Waits for the requests that run; what is left of them counts as a failure."""
        self.ended.set()
        deadline = time.monotonic() + within_s
        for thread in self.threads:
            thread.join(max(0, deadline - time.monotonic()))
        with self.lock:
            for streamed in self.unfinished.values():
                self.failures.append(f"{streamed.id}: no end within {within_s} s, "
                                     f"{len(streamed.arrivals)} tokens came")

    def gaps(self):
        """(start, length) of the pauses between two tokens of a stream."""
        return [(a, b - a) for one in self.arrivals for a, b in zip(one, one[1:])]
