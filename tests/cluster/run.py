#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the cluster tests: real processes, real sockets, real faults.

usage: run.py BUILD_FOLDER [NAME...]    (tests whose name contains one of these; all by default)
"""
import importlib
import pathlib
import shutil
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True
import cluster  # noqa: E402


def collect(names):
    found = []
    for path in sorted(pathlib.Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        found += [(f"{path.stem[5:]}.{name[5:]}", fn) for name, fn in vars(module).items()
                  if name.startswith("test_")]
    return [(name, fn) for name, fn in found
            if not names or any(wanted in name for wanted in names)]


def run(world, name, fn):
    """'passed', 'failed' or 'skipped', and what there is to say."""
    case = cluster.Case(world, name)
    verdict, words = "passed", ""
    try:
        fn(case)
    except cluster.Skip as reason:
        verdict, words = "skipped", str(reason)
    except Exception:
        verdict, words = "failed", traceback.format_exc()
    finally:
        faults = case.finish()
    if faults:
        verdict, words = "failed", words + "\n".join(faults)
    if verdict == "failed":
        words += "\n" + case.logs()
    shutil.rmtree(case.dir)
    return verdict, words


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__.strip())
        return 2
    tests = collect(sys.argv[2:])
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    with tempfile.TemporaryDirectory(prefix="caravan-cluster-") as folder:
        world = cluster.World(sys.argv[1], pathlib.Path(folder))
        for name, fn in tests:
            before = time.monotonic()
            verdict, words = run(world, name, fn)
            counts[verdict] += 1
            print(f"{verdict:8}{time.monotonic() - before:7.1f} s  {name}"
                  f"{': ' + words if verdict == 'skipped' else ''}", flush=True)
            if verdict == "failed":
                print(words, flush=True)
    print(", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    return 1 if counts["failed"] or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
