# SPDX-License-Identifier: Apache-2.0
"""Machines at a distance: network namespaces joined by shared/tools/netlab.c."""
import fcntl
import os
import re
import shutil

from cluster import Skip

ADDRESS = "10.77.0.1:7400"  # where the coordinator, machine 0, takes workers


class Distance:
    """Machines some microseconds apart, on links of some Mbit/s."""

    def __init__(self, case, machines, one_way_us, mbit_s=10000):
        source, program = case.world.shared_file("tools/netlab.c"), case.dir / "netlab"
        if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("cc"):
            raise Skip("network namespaces need root, ip and cc")
        built = case.run(["cc", "-O2", "-o", program, source])
        assert built.status == 0, built.err
        self.case, self.key = case, case.dir / "cluster.key"
        # The names of namespaces are the machine's, and there is one set of them.
        self.lock = open("/tmp/caravan-netlab.lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.switch = case.start("netlab", [program, "-n", machines, "-d", one_way_us, "-r",
                                            mbit_s])
        self.switch.wait_for("us one way")
        self.token = case.succeed("keygen", "--address", ADDRESS, "--out", self.key,
                                  "--force").decode().strip()
        self.workers = []

    def argv(self, machine, argv):
        return ["ip", "netns", "exec", f"nl{machine}", *argv]

    def start_workers(self, n, cache, *options):
        """Workers on machines 1 to n; cache(i) is the folder of worker i's."""
        self.workers = [self.case.start(f"far-{i}", self.argv(i, [
            self.case.world.worker, "--join", ADDRESS, "--token", self.token, "--name", f"far-{i}",
            "--key-file", self.case.dir / f"far-{i}.key", "--cache-dir", cache(i), "-t", "1",
            *options])) for i in range(1, n + 1)]

    def caravan(self, command, *args):
        """A command of the coordinator's, on machine 0, with all workers; it must succeed."""
        result = self.case.run(self.argv(0, [
            self.case.world.caravan, command, *args, "--workers", len(self.workers),
            "--cluster-key", self.key, "--worker-listen", ADDRESS]), within_s=600)
        assert result.status == 0, result.err
        return result

    def traffic(self, machine):
        """Bytes and packets that a machine's link carried so far, (received, sent) each."""
        result = self.case.run(self.argv(machine, ["cat", "/proc/net/dev"]))
        numbers = re.search(r"eth0:(.*)", result.out.decode()).group(1).split()
        return ((int(numbers[0]), int(numbers[8])), (int(numbers[1]), int(numbers[9])))

    def end(self):
        for worker in self.workers:
            worker.stop()
        self.switch.stop()
        self.lock.close()
