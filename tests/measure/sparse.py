# SPDX-License-Identifier: Apache-2.0
"""A model of 225 GB whose file takes no disk: opened, planned, and one token of it."""
import os
import pathlib
import re
import threading
import time

import lab

MOST_ANONYMOUS = 12e9
WORKERS = 3


def memory(pid, field):
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    return int(found.group(1)) * 1024 if found else 0


class Watch(threading.Thread):
    """The most that a case's processes had at any time, together."""

    def __init__(self, case):
        super().__init__(daemon=True)
        self.case, self.anonymous, self.mapped, self.over = case, 0, 0, False

    def run(self):
        while not self.over:
            pids = list(self.case.marked())
            self.anonymous = max(self.anonymous, sum(memory(p, "RssAnon") for p in pids))
            self.mapped = max(self.mapped, sum(memory(p, "RssFile") for p in pids))
            time.sleep(0.1)


def run(world, options):
    model = world.folder / "maverick.gguf"
    with lab.case_of(world, "sparse") as case:
        case.succeed("mkmodel", "maverick", model, "--type", "Q4_K", "--sparse")
        info = os.stat(model)
        print(f"file: {info.st_size / 1e9:.1f} GB, {info.st_blocks * 512 / 1e6:.0f} MB on disk")
        watch = Watch(case)
        watch.start()
        before = time.monotonic()
        text = case.caravan("run", "-m", model, "-p", "a", "-n", "1", "--temp", "0",
                            "--ignore-eos", "--local-workers", str(WORKERS), "-t", "1", "--ctx",
                            "256", "--map-experts", "--stats", "--cache-dir", case.dir / "cache")
        watch.over = True
        watch.join()
        assert text.status == 0, text.err
        print(text.err.strip())
        print(f"one token in {time.monotonic() - before:.0f} s, loading included; at most "
              f"{watch.anonymous / 1e9:.2f} GB of anonymous memory in all processes together")
    return watch.anonymous < MOST_ANONYMOUS
