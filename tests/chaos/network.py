# SPDX-License-Identifier: Apache-2.0
"""Machines that are network namespaces, joined by a bridge; the cable of each can be taken out, or
put into another bridge."""
import contextlib
import os
import shutil
import subprocess


def ip(*args, check=True):
    subprocess.run(["ip", *map(str, args)], check=check, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL if not check else None)


def available():
    """Whether this process may make machines; some containers may not, though they are root's."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    tried = f"cvt{os.getpid() % 100000}"
    steps = [["netns", "add", tried], ["-n", tried, "link", "add", "bridge", "type", "bridge"],
             ["netns", "exec", tried, "true"]]
    made = all(subprocess.run(["ip", *step], check=False, capture_output=True).returncode == 0
               for step in steps)
    ip("netns", "del", tried, check=False)
    return made


class Network:
    """Hosts 1..n with addresses 10.78.N.(i + 1); this process's own namespace is 10.78.N.1."""

    def __init__(self, n):
        self.n = n
        self.tag = os.getpid() % 100000
        self.subnet = f"10.78.{os.getpid() % 250}"
        self.hub = f"cvh{self.tag}"
        ip("netns", "add", self.hub)
        for bridge in ("bridge", "other"):
            ip("-n", self.hub, "link", "add", bridge, "type", "bridge")
            ip("-n", self.hub, "link", "set", bridge, "up")
        self.plug_in(f"cv{self.tag}", 0, None)
        for i in range(1, n + 1):
            ip("netns", "add", self.name(i))
            self.plug_in("eth0", i, self.name(i))

    def name(self, i):
        return f"cvw{self.tag}-{i}"

    def address(self, i):
        """0: the coordinator's, in the namespace of this process."""
        return f"{self.subnet}.{i + 1}"

    def plug_in(self, device, i, namespace):
        where = ["-n", namespace] if namespace else []
        peer = ["netns", namespace] if namespace else []
        ip("link", "add", f"port{i}", "netns", self.hub, "type", "veth", "peer", "name", device,
           *peer)
        ip("-n", self.hub, "link", "set", f"port{i}", "master", "bridge", "up")
        ip(*where, "addr", "add", f"{self.address(i)}/24", "dev", device)
        ip(*where, "link", "set", device, "up")
        if namespace:
            ip(*where, "link", "set", "lo", "up")

    def argv(self, i, argv):
        return ["ip", "netns", "exec", self.name(i), *argv]

    def cut(self, i):
        ip("-n", self.hub, "link", "set", f"port{i}", "down")

    def heal(self, i):
        ip("-n", self.hub, "link", "set", f"port{i}", "up")

    def split(self, hosts):
        """These reach one another, but none of the rest."""
        for i in hosts:
            ip("-n", self.hub, "link", "set", f"port{i}", "master", "other")

    def join(self, hosts):
        for i in hosts:
            ip("-n", self.hub, "link", "set", f"port{i}", "master", "bridge")

    def end(self):
        with contextlib.suppress(OSError):
            ip("link", "del", f"cv{self.tag}", check=False)
            for i in range(1, self.n + 1):
                ip("netns", "del", self.name(i), check=False)
            ip("netns", "del", self.hub, check=False)
