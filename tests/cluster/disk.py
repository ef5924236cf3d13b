# SPDX-License-Identifier: Apache-2.0
"""Small disks, mounted for those alone that are started on them, which can be filled up and freed."""
import contextlib
import pathlib
import shutil
import subprocess

from cluster import Cluster, Skip

HOLD = 'mount -t tmpfs -o size="$1"k tmpfs "$0" && echo mounted >&2 && exec sleep infinity'


def private_view():
    """Options of unshare and nsenter for disks that others do not see, and those of unshare alone;
    None: that is not to be had here."""
    for options in (["-m"], ["-Um"]):
        map_root = ["-r"] if "-Um" in options else []
        argv = ["unshare", *options, *map_root, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        if shutil.which("nsenter") and shutil.which("unshare") and \
                subprocess.run(argv, check=False, capture_output=True).returncode == 0:
            return options, map_root
    return None


class Disk:
    """Of some kilobytes, on a folder that it makes."""

    def __init__(self, case, folder, kilobytes):
        found = private_view()
        if not found:
            raise Skip("no disk can be mounted here")
        options, map_root = found
        folder.mkdir()
        self.holder = case.start(f"disk-{folder.name}", [
            "unshare", *options, *map_root, "sh", "-c", HOLD, folder, kilobytes])
        self.holder.wait_for("mounted")
        self.options = options + (["--preserve-credentials"] if map_root else [])
        self.folder = pathlib.Path(f"/proc/{self.holder.pid}/root{folder}")
        self.ballast = self.folder / "ballast"

    def argv(self, argv):
        """A command line of a program that sees the disk."""
        return ["nsenter", *self.options, "-t", self.holder.pid, *argv]

    def fill(self, leave=0):
        """Takes all room but some bytes."""
        with open(self.ballast, "ab", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(bytes(1 << 16)):
                    pass
            file.truncate(max(0, file.tell() - leave))

    def free(self):
        self.ballast.unlink()

    def empty(self):
        """Nothing is left of weights."""
        for name in ("pieces", "packed"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


class OnDisks(Cluster):
    """A cluster some of whose workers have their caches on disks of their own."""

    def __init__(self, case, model, kilobytes, **options):
        """kilobytes: {worker: size of its disk}"""
        super().__init__(case, model, **options)
        profiled = case.dir / "profiled"
        case.world.put_profile(profiled)
        self.disks = {i: Disk(case, super(OnDisks, self).cache(i), size)
                      for i, size in kilobytes.items()}
        for disk in self.disks.values() if case.world.profiles else ():
            shutil.copytree(profiled / "profiles", disk.folder / "profiles")

    def cache(self, i):
        return self.disks[i].folder if i in self.disks else super().cache(i)

    def worker_argv(self, i, token=None):
        argv = super().worker_argv(i, token)
        if i not in self.disks:
            return argv
        argv[argv.index("--cache-dir") + 1] = super().cache(i)
        return self.disks[i].argv(argv)
