# SPDX-License-Identifier: Apache-2.0
"""Real processes for the cluster tests: coordinators and workers with folders of their own, logs in
files, conditions that are polled for with a deadline, and an end that finds what was left behind.
"""
import base64
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

POLL_S = 0.01
REPORTS = re.compile(rb"((ERROR|WARNING): (Address|Leak|Thread)Sanitizer|runtime error:|"
                     rb"error WORKER-STATE|Assertion `)")
# Processes that a test starts, and their children, carry this in their environment.
MARK = "CARAVAN_TEST_CASE"
# What tests that run at the same time share is changed by one at a time.
LOCK = threading.RLock()


class Skip(Exception):
    """The machine lacks what a test needs."""


GIVEN = set()  # ports, of all tests that run


def free_port():
    """One that nobody else gets: below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(12000, 32000)
        with LOCK:
            fresh = port not in GIVEN
            GIVEN.add(port)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if fresh:
            return port


def text_of(data):
    return data.decode("utf-8", "replace")


class World:
    """What all tests share: the programs, the models (each made once), how slow this build is."""

    def __init__(self, build, folder):
        self.build = pathlib.Path(build).resolve()
        self.folder = folder
        self.profiles = True  # False: coordinators are told not to have machines measured
        self.caravan = str(self.build / "caravan")
        self.worker = str(self.build / "caravan-worker")
        cache = (self.build / "CMakeCache.txt").read_text()
        self.sanitized = bool(re.search(r"^SANITIZE:[A-Z]*=\S", cache, re.M))
        # Deadlines of tests, not promises of the program: machines may be busy.
        self.patience_s = 180 if self.sanitized else 60
        source = pathlib.Path(__file__).resolve().parents[2]
        self.shared = pathlib.Path(os.environ.get("CARAVAN_SHARED", source.parent / "shared"))
        self.models = {}

    def model(self, preset, type_="F32", sparse=False, seed=7, **dimensions):
        key = (preset, type_, sparse, seed, tuple(sorted(dimensions.items())))
        with LOCK:
            if key not in self.models:
                path = self.folder / f"model-{len(self.models)}.gguf"
                argv = [self.caravan, "mkmodel", preset, str(path), "--type", type_, "--seed",
                        str(seed)]
                for name, value in dimensions.items():
                    argv += ["--set", f"{name}={value}"]
                subprocess.run(argv + ["--sparse"] * sparse, check=True,
                               stdout=subprocess.DEVNULL)
                self.models[key] = path
            return self.models[key]

    def put_profile(self, cache):
        """Workers of one thread need not measure this machine again and again: a cache that is not
        there yet is made with their profile in it."""
        if not self.profiles:
            return
        kept = self.folder / "profile-cache"
        with LOCK:
            if not kept.exists():
                subprocess.run([self.worker, "--profile", "-t", "1", "--cache-dir", str(kept)],
                               check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not cache.exists():
            cache.mkdir(mode=0o700)
            shutil.copytree(kept / "profiles", cache / "profiles")

    def small(self):
        """A dense model whose generations may be long enough to be interrupted."""
        return self.model("llama3-tiny", "F32", layers=6, ctx=65536)

    def large(self):
        """Some 150 MB in many pieces, so that a transfer can be caught half way."""
        return self.model("llama-k", "F32", layers=8, embd=768, ff=2048, hd=96)

    def shared_file(self, name):
        path = self.shared / name
        if not path.exists():
            raise Skip(f"{path} is missing")
        return path

    def isas(self):
        """Instruction sets that this machine has."""
        flags = pathlib.Path("/proc/cpuinfo").read_text().split()
        return (["portable"] + ["avx2"] * ("avx2" in flags and "fma" in flags) +
                ["avx512"] * ("avx512bw" in flags and "avx512vl" in flags) +
                ["amx"] * ("amx_int8" in flags and "amx_bf16" in flags) +
                ["neon"] * ("asimddp" in flags) + ["i8mm"] * ("i8mm" in flags))

    def some_isas(self):
        """All of them; with a sanitizer, which is slow, the plainest and the best."""
        found = self.isas()
        return list(dict.fromkeys([found[0], found[-1]])) if self.sanitized else found


class Process:
    def __init__(self, case, name, argv, stdin=None, **popen):
        self.case, self.name, self.argv = case, name, [str(a) for a in argv]
        self.out_path, self.err_path = case.dir / f"{name}.out", case.dir / f"{name}.err"
        self.ignore_exit = False
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.popen = subprocess.Popen(self.argv, stdin=stdin or subprocess.DEVNULL, stdout=out,
                                          stderr=err, cwd=case.dir, env=case.environment(name),
                                          **popen)
        self.pid = self.popen.pid

    def out(self):
        return self.out_path.read_bytes()

    def err(self):
        return text_of(self.err_path.read_bytes())

    def running(self):
        return self.popen.poll() is None

    def send(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """As a machine that loses power."""
        self.send(signal.SIGKILL)
        self.popen.wait()

    def wait(self, within_s=None):
        """The exit status."""
        try:
            return self.popen.wait(within_s or self.case.world.patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {within_s} s") from None

    def stop(self):
        """Ends it as a person does; it must obey."""
        if self.running():
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
        return self.wait()

    def wait_for(self, pattern, within_s=None):
        """Waits until standard error has the pattern; the match."""
        def look():
            found = re.search(pattern, self.err())
            if not found and not self.running():
                raise AssertionError(f"{self.name} ended before it said {pattern!r}")
            return found
        return self.case.until(look, f"{pattern!r} from {self.name}", within_s)

    def written_bytes(self):
        """What it wrote to files so far (sockets do not count)."""
        try:
            counters = pathlib.Path(f"/proc/{self.pid}/io").read_text()
        except PermissionError:
            raise Skip("/proc/PID/io cannot be read here") from None
        return int(re.search(r"wchar: (\d+)", counters).group(1))


class Result:
    def __init__(self, status, out, err, seconds):
        self.status, self.out, self.err, self.seconds = status, out, err, seconds

    def fails_with(self, *words, status=1, lines=1):
        """It ended with this status and one line that has these words."""
        found = self.err.strip().splitlines()
        assert self.status == status, f"exit status {self.status}, expected {status}: {self.err}"
        assert len(found) == lines, f"expected {lines} line(s), found: {self.err!r}"
        for word in words:
            assert word in self.err, f"expected {word!r} in {self.err!r}"


class Case:
    """One test: its folder, its processes."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.dir = world.folder / name
        self.dir.mkdir()
        self.processes = []
        self.mark = f"{name}-{os.getpid()}"

    def environment(self, name):
        home = self.dir / f"home-{name}"
        home.mkdir(exist_ok=True)
        kept = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TSAN_OPTIONS")
        keep = {k: v for k, v in os.environ.items() if k in kept}
        return {**keep, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"),
                "XDG_CONFIG_HOME": str(home / "config"), MARK: self.mark,
                "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}

    def until(self, look, what, within_s=None):
        """Polls until look() is true, and returns what it is."""
        within_s = within_s or self.world.patience_s
        end = time.monotonic() + within_s
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"waited {within_s} s in vain for {what}")
            time.sleep(POLL_S)

    def start(self, name, argv, **options):
        process = Process(self, name, argv, **options)
        self.processes.append(process)
        return process

    def run(self, argv, within_s=None, stdin=None):
        """Runs a program to its end."""
        before = time.monotonic()
        process = self.start(f"run-{len(self.processes)}", argv, stdin=stdin)
        status = process.wait(within_s)
        return Result(status, process.out(), process.err(), time.monotonic() - before)

    def caravan(self, *args, **options):
        return self.run([self.world.caravan, *args], **options)

    def succeed(self, *args, **options):
        """Runs caravan, which must succeed; its standard output."""
        result = self.caravan(*args, **options)
        assert result.status == 0, f"{args}: exit status {result.status}: {result.err}"
        return result.out

    def generate(self, model, *args, prompt="hello there", n=24):
        return self.succeed("run", "-m", model, "-p", prompt, "-n", str(n), "--temp", "0",
                            "--ignore-eos", *args)

    def marked(self):
        """Live processes of this test: what was started here and what that started."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        return found

    def children(self, process):
        """Pids of a process's children."""
        found = []
        for pid in self.marked():
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == process.pid:
                    found.append(pid)
        return found

    def finish(self):
        """Ends everything; the faults that this brings to light."""
        faults = []
        # Workers first: they say goodbye to a coordinator that is there.
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                if process.running():
                    process.send(signal.SIGCONT)
                    process.send(signal.SIGTERM)
            try:
                process.popen.wait(self.world.patience_s)
            except subprocess.TimeoutExpired:
                faults.append(f"{process.name} did not end when it was told to")
                process.kill()
        for process in self.processes:
            if REPORTS.search(process.err_path.read_bytes()):
                faults.append(f"{process.name}: a sanitizer or an assertion complains")
        with contextlib.suppress(AssertionError):
            self.until(lambda: not self.marked(), "the end of all processes", 5)
        for pid, command in self.marked().items():
            faults.append(f"left behind: {pid} {text_of(command)}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return faults

    def logs(self):
        """The processes' words, for a test that failed."""
        parts = []
        for process in self.processes:
            status = process.popen.poll()
            words = process.err().strip().splitlines()
            parts.append(f"--- {process.name} (status {status}): {' '.join(process.argv)[:300]}")
            parts += words[:20] + (["..."] + words[-60:] if len(words) > 80 else words[20:])
        return "\n".join(parts)


class Stream:
    """A completion that streams; events are read one at a time."""

    def __init__(self, cluster, n, prompt="hello there", **fields):
        body = {"prompt": prompt, "max_tokens": n, "temperature": 0, "stream": True,
                "ignore_eos": True, **fields}
        self.connection = http.client.HTTPConnection("127.0.0.1", cluster.http_port,
                                                     timeout=cluster.case.world.patience_s)
        self.connection.request("POST", "/v1/completions", json.dumps(body),
                                {"Content-Type": "application/json"})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, text_of(self.answer.read())

    def next(self):
        """The next event: a dictionary, "[DONE]", or None at the end."""
        for line in iter(self.answer.readline, b""):
            if line.startswith(b"data: "):
                data = line[6:].strip()
                return "[DONE]" if data == b"[DONE]" else json.loads(data)
        return None

    def error(self):
        """Reads on to the event that ends the stream with an error; its message."""
        while True:
            event = self.next()
            assert event not in (None, "[DONE]"), "the stream ended without an error"
            if "error" in event:
                return event["error"]["message"]

    def close(self):
        self.connection.close()


class Cluster:
    """A coordinator that serves a model on workers which join over TCP."""

    def __init__(self, case, model, workers=3, options=(), worker_options=()):
        self.case, self.model, self.n = case, model, workers
        self.options, self.worker_options = list(options), list(worker_options)
        self.port, self.http_port = free_port(), free_port()
        self.key, self.token_file = case.dir / "cluster.key", case.dir / "token"
        self.server, self.workers, self.starts = None, {}, 0
        self.make_keys()

    def make_keys(self):
        self.token = text_of(self.case.succeed("keygen", "--address", f"127.0.0.1:{self.port}",
                                               "--out", self.key, "--force")).strip()
        self.token_file.write_text(self.token + "\n")

    def start(self):
        """Starts everybody and waits until the model is served."""
        self.start_server()
        for i in range(1, self.n + 1):
            self.start_worker(i)
        self.wait_ready()
        return self

    def start_server(self):
        self.starts += 1
        self.server = self.case.start(f"server-{self.starts}", [
            self.case.world.caravan, "serve", "-m", self.model, "--workers", str(self.n),
            "--cluster-key", self.key, "--listen", f"127.0.0.1:{self.http_port}",
            "--cache-dir", self.case.dir / "cache-server", *self.options])
        return self.server

    def cache(self, i):
        return self.case.dir / f"cache-{i}"

    def worker_argv(self, i, token=None):
        return [self.case.world.worker, "--join", f"127.0.0.1:{self.port}", "--token",
                f"@{self.token_file}" if token is None else token, "--name", f"w{i}", "--key-file",
                self.case.dir / f"worker-{i}.key", "--cache-dir", self.cache(i), "-t", "1",
                *self.worker_options]

    def start_worker(self, i, *options):
        self.starts += 1
        self.case.world.put_profile(self.cache(i))
        self.workers[i] = self.case.start(f"w{i}-{self.starts}", [*self.worker_argv(i), *options])
        return self.workers[i]

    def request(self, method, path, body=None):
        """(status, the JSON answer); status 0 while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port,
                                                timeout=self.case.world.patience_s)
        try:
            connection.request(method, path, body and json.dumps(body),
                               {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or "null")
        except ConnectionRefusedError:
            return 0, None
        finally:
            connection.close()

    def health(self):
        return self.request("GET", "/health")[0]

    def status(self):
        return self.request("GET", "/caravan/v1/status")[1]

    def wait_ready(self, within_s=None):
        def look():
            assert self.server.running(), "the coordinator ended"
            return self.health() == 200
        self.case.until(look, "the model to be served", within_s)

    def complete(self, n=24, prompt="hello there", **fields):
        """The text of a completion, a greedy one by default."""
        status, answer = self.request("POST", "/v1/completions", {
            "prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, **fields})
        assert status == 200, answer
        return answer["choices"][0]["text"]

    def order(self):
        """The workers' numbers, first stage first."""
        stages = [w for w in self.status()["workers"] if w["layer_end"]]
        return [int(w["name"][1:]) for w in stages]


def change_token(token, at, length):
    """A token with other bytes from `at` on and a checksum that fits again."""
    prefix, data = token.split("-", 1)
    raw = bytearray(base64.urlsafe_b64decode(data + "=" * (-len(data) % 4)))[:-8]
    for i in range(at, at + length):
        raw[i] ^= 0x5A
    raw += hashlib.blake2b(bytes(raw), digest_size=32).digest()[:8]
    return prefix + "-" + base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")


def pieces(folder):
    """The whole pieces of a cache: {path: stat}. Each must be what its name says."""
    found = {}
    for path in pathlib.Path(folder).glob("pieces/*/*.piece"):
        digest = hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest()
        assert digest == path.stem, f"{path} is not the piece that its name says"
        found[path] = path.stat()
    return found


def packed(folder):
    """The packed weights of a cache: {path: stat}."""
    return {path: path.stat() for path in pathlib.Path(folder).glob("packed/*/*.packed")}
