# SPDX-License-Identifier: Apache-2.0
"""Connections that can be cut, held up and led elsewhere: relays between processes of one machine."""
import contextlib
import selectors
import socket
import threading

from cluster import Cluster, free_port


class Relay(threading.Thread):
    """A way to a port that can be cut without either end hearing of it: what is sent is swallowed,
    on the connections that are there, or for ever; or it waits, as behind a cable that is out."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.to, self.pairs, self.swallowed = port, {}, set()
        self.swallow_new = False
        self.open = threading.Event()
        self.open.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.start()

    def cut(self, for_ever=False):
        self.swallow_new = for_ever
        self.swallowed = set(self.pairs)

    def hold(self):
        self.open.clear()

    def heal(self):
        """What was held up arrives."""
        self.open.set()

    def lead_to(self, port):
        """Connections that are there end; those to come are with another port."""
        self.to = port
        for end in list(self.pairs):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept(self):
        a, _ = self.listener.accept()
        try:
            b = socket.create_connection(("127.0.0.1", self.to))
        except ConnectionRefusedError:
            a.close()
            return
        self.pairs[a], self.pairs[b] = b, a
        if self.swallow_new:
            self.swallowed |= {a, b}
        for s in (a, b):
            self.selector.register(s, selectors.EVENT_READ)

    def forward(self, s):
        try:
            data = s.recv(1 << 16)
            if data and s not in self.swallowed:
                self.pairs[s].sendall(data)
        except OSError:
            data = b""
        if not data:
            other = self.pairs.pop(s)
            self.pairs.pop(other)
            for end in (s, other):
                self.selector.unregister(end)
                end.close()

    def run(self):
        while True:
            for key, _ in self.selector.select():
                self.open.wait()
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj in self.pairs:
                    self.forward(key.fileobj)


class Relayed(Cluster):
    """A cluster in which relays are before each worker's port, `to_worker`, and, with `joining`,
    between each worker and the coordinator, `to_server`."""

    def __init__(self, *args, joining=False, **options):
        super().__init__(*args, **options)
        self.joining, self.to_worker, self.to_server = joining, {}, {}

    def worker_argv(self, i, token=None):
        argv = super().worker_argv(i, token)
        if i not in self.to_worker:
            self.to_worker[i] = Relay(free_port())
            if self.joining:
                self.to_server[i] = Relay(self.port)
        if self.joining:
            argv[argv.index("--join") + 1] = f"127.0.0.1:{self.to_server[i].port}"
        return argv + ["--listen", f"127.0.0.1:{self.to_worker[i].to}", "--advertise",
                       f"127.0.0.1:{self.to_worker[i].port}"]
