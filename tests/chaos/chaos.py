#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Chaos: workers are killed, stopped, cut off, added and drained, the network falls in two halves,
the coordinator is killed, disks fill up, while clients stream texts that they know. Every text must
be the undisturbed one, no client may see an error, nothing may be left behind.
"""
import argparse
import collections
import pathlib
import random
import signal
import statistics
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))
import clients  # noqa: E402
import cluster  # noqa: E402
import disk  # noqa: E402
import network  # noqa: E402

WORKERS = 4        # that the cluster has at the start; a fifth comes and goes
KINDS = ("kill", "stop", "restart", "join_and_drain", "fill_disk", "cut", "split")
ON_NETWORK = ("cut", "split")
DISK_KB = 16 << 10
SETTLE_S = 90      # for what runs when the faults are over


class Chaotic(disk.OnDisks):
    """A cluster whose workers are machines of their own, with disks of their own, if that can be."""

    def __init__(self, case, model, hosts):
        self.hosts = hosts
        disks = {i: DISK_KB for i in range(1, WORKERS + 1)} if disk.private_view() else {}
        super().__init__(case, model, disks, workers=WORKERS, options=[
            "--state", case.dir / "state", "--parallel", "8", "--patience", "120",
            "--profile", "on" if case.world.profiles else "off"])
        if hosts:
            self.token = case.succeed("keygen", "--address", f"{hosts.address(0)}:{self.port}",
                                      "--out", self.key, "--force").decode().strip()
            self.token_file.write_text(self.token + "\n")
            self.options += ["--worker-listen", f"{hosts.address(0)}:{self.port}"]

    def worker_argv(self, i, token=None):
        argv = super().worker_argv(i, token)
        if not self.hosts:
            return argv
        argv[argv.index("--join") + 1] = f"{self.hosts.address(0)}:{self.port}"
        return self.hosts.argv(i, argv)


class Faults:
    """Each takes the cluster into trouble and says how to lead it out again."""

    def __init__(self, c, hosts, random_):
        self.c, self.hosts, self.random = c, hosts, random_

    def names(self):
        return [kind for kind in KINDS if kind not in ON_NETWORK or self.hosts]

    def one_of_the_workers(self):
        return self.random.choice(sorted(i for i in self.c.workers if i <= WORKERS))

    def pause(self, least, most):
        time.sleep(self.random.uniform(least, most))

    def kill(self):
        i = self.one_of_the_workers()
        self.c.workers[i].kill()
        self.pause(0, 3)
        self.c.start_worker(i)
        return f"w{i}"

    def stop(self):
        i = self.one_of_the_workers()
        self.c.workers[i].send(signal.SIGSTOP)
        self.pause(0.2, 5)
        self.c.workers[i].send(signal.SIGCONT)
        return f"w{i}"

    def cut(self):
        i = self.one_of_the_workers()
        self.hosts.cut(i)
        self.pause(0.2, 5)
        self.hosts.heal(i)
        return f"w{i}"

    def split(self):
        """Two workers, enough to hold the model, and the others with the coordinator."""
        away = self.random.sample(range(1, WORKERS + 1), WORKERS // 2)
        self.hosts.split(away)
        self.pause(0.2, 5)
        self.hosts.join(away)
        return "".join(f"w{i} " for i in away).strip()

    def restart(self):
        self.c.server.kill()
        self.pause(0, 1)
        self.c.start_server()
        return "the coordinator"

    def join_and_drain(self):
        i = WORKERS + 1
        self.c.start_worker(i)
        self.pause(0.5, 3)
        result = self.c.case.caravan("drain", f"w{i}", "--server",
                                     f"http://127.0.0.1:{self.c.http_port}")
        if result.status:  # not joined yet, perhaps
            self.c.workers[i].stop()
        else:
            self.c.workers[i].wait()
        del self.c.workers[i]
        return f"w{i}"

    def fill_disk(self):
        """The worker has lost its weights, and has no room for them, or for some of them."""
        i = self.one_of_the_workers()
        if i not in self.c.disks:
            return self.block_folder(i)
        self.c.workers[i].kill()
        self.c.disks[i].empty()
        self.c.disks[i].fill(leave=self.random.choice([0, 400000]))
        self.c.start_worker(i)
        self.pause(0.5, 2)
        self.c.disks[i].free()
        return f"w{i}"

    def block_folder(self, i):
        """A folder that takes no more files stands for a disk that is full."""
        folder = self.c.cache(i)
        hidden = folder.with_name(folder.name + "-hidden")
        self.c.workers[i].kill()
        folder.rename(hidden)
        folder.write_text("not a folder")
        self.c.start_worker(i)
        self.pause(0.5, 2)
        folder.unlink()
        hidden.rename(folder)
        return f"w{i}"


def known_answers(case, model, random_):
    """Texts of an undisturbed run of one worker."""
    prompts = ["hello there", "one " * 40, "a long " * 150, "x"]
    answers = {}
    for prompt in prompts:
        n = random_.choice([60, 120, 240])
        answers[(prompt, n)] = case.generate(model, prompt=prompt, n=n).decode("utf-8", "replace")
    return answers


def memory(c):
    """Resident bytes of each process, once what was freed has gone back."""
    found = {}
    for name, process in [("coordinator", c.server)] + [(f"w{i}", w) for i, w in
                                                       sorted(c.workers.items())]:
        status = pathlib.Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        line = next(line for line in status.splitlines() if line.startswith("Anonymous:"))
        found[name] = int(line.split()[1]) * 1024
    return found


def disturb(c, faults, only, seconds, random_):
    """Faults until the time is over; [(kind, of whom, start, end)]."""
    done, kinds = [], [name for name in faults.names() if not only or name in only]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        kind = random_.choice(kinds)
        start = time.monotonic()
        whom = getattr(faults, kind)()
        done.append((kind, whom, start, time.monotonic()))
        print(f"  {start - (end - seconds):6.1f} s  {kind} of {whom}, "
              f"{done[-1][3] - start:.1f} s", flush=True)
        time.sleep(random_.uniform(0.3, 4))
    return done


def recovery(done, crowd):
    """For each fault, the longest pause of a stream that began while it lasted."""
    gaps, found = crowd.gaps(), collections.defaultdict(list)
    for kind, _, start, end in done:
        during = [length for at, length in gaps if at <= end and at + length >= start]
        found[kind].append(max(during, default=0))
    return found


def report(done, crowd):
    lengths = [length for _, length in crowd.gaps()]
    print(f"\n{crowd.requests} requests, {crowd.tokens} tokens, {crowd.resumed} requests went on "
          f"over a second connection")
    print(f"between two tokens of a stream: median {1000 * statistics.median(lengths):.1f} ms, "
          f"longest {max(lengths):.2f} s")
    print(f"\n{'fault':16}{'times':>6}{'pause, median s':>17}{'worst s':>9}")
    for kind, pauses in sorted(recovery(done, crowd).items()):
        print(f"{kind:16}{len(pauses):6}{statistics.median(pauses):17.2f}{max(pauses):9.2f}")


def grown(c, before):
    """Processes that have much more memory than before."""
    return [f"{name} has {now >> 20} MB of memory, {before[name] >> 20} MB before"
            for name, now in memory(c).items()
            if now > 1.5 * before.get(name, now) + (64 << 20)]


def check_rest(c, before):
    """What must be as it was, once a worker that has just started has measured its machine."""
    faults = []
    status = c.status()
    if status["active"] or status["waiting"]:
        faults.append(f"{status['active']} requests active, {status['waiting']} waiting at the end")
    if c.case.world.sanitized:
        return faults  # what was freed is kept for a while
    end = time.monotonic() + SETTLE_S
    while grown(c, before) and time.monotonic() < end:
        time.sleep(cluster.POLL_S)
    return faults + grown(c, before)


def play(case, arguments, hosts):
    random_ = random.Random(arguments.seed)
    model = case.world.small()
    c = Chaotic(case, model, hosts).start()
    answers = known_answers(case, model, random_)
    crowd = clients.Clients(c.http_port, answers, arguments.clients, random_)
    for prompt, n in answers:
        assert c.complete(n, prompt) == answers[prompt, n], "the cluster's text is not one worker's"
    before = memory(c)
    crowd.start()
    only = set(filter(None, arguments.only.split(",")))
    done = disturb(c, Faults(c, hosts, random_), only, arguments.seconds, random_)
    crowd.end(SETTLE_S)
    report(done, crowd)
    case.until(lambda: c.health() == 200, "the model to be served in the end")
    return crowd.failures + check_rest(c, before)


def check(parser, arguments):
    if not pathlib.Path(arguments.build, "CMakeCache.txt").is_file():
        parser.error(f"{arguments.build}: expected a folder with a build, found none: "
                     f"./quickstart makes one")
    for kind in filter(None, arguments.only.split(",")):
        if kind not in KINDS:
            parser.error(f"--only {kind}: expected some of {', '.join(KINDS)}")
    if arguments.seconds <= 0 or arguments.clients < 1:
        parser.error("--seconds and --clients: expected more than 0")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", help="folder with the programs")
    parser.add_argument("--seconds", type=float, default=600, help="of faults (600)")
    parser.add_argument("--seed", type=int, default=1, help="start of the random numbers (1)")
    parser.add_argument("--clients", type=int, default=16, help="streams at once (16)")
    parser.add_argument("--only", metavar="FAULT,...", default="",
                        help=f"of {', '.join(KINDS)} (all)")
    arguments = parser.parse_args()
    check(parser, arguments)
    hosts = network.Network(WORKERS + 1) if network.available() else None
    if not hosts:
        print("links are not cut: network namespaces need root and ip")
    if not disk.private_view():
        print("disks are not filled: small ones cannot be mounted here; folders are blocked instead")
    with tempfile.TemporaryDirectory(prefix="caravan-chaos-") as folder:
        world = cluster.World(arguments.build, pathlib.Path(folder))
        # Plans of one machine go by rule; measuring takes minutes under ThreadSanitizer.
        world.profiles = not world.sanitized
        case = cluster.Case(world, "chaos")
        failures = []
        try:
            failures = play(case, arguments, hosts)
        except (AssertionError, OSError) as error:
            failures = [f"{type(error).__name__}: {error}"]
        finally:
            failures += case.finish()
            if hosts:
                hosts.end()
        if failures:
            print(case.logs())
    for failure in failures[:20]:
        print(f"FAILED: {failure}")
    print("chaos:", f"{len(failures)} failures" if failures else "every text was right")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
