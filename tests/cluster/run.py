#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the cluster tests: real processes, real sockets, real faults.

usage: run.py [-j N] BUILD_FOLDER [NAME...]

Tests whose name contains one of these, by default all but those for a quiet machine (slow.); N at a
time, 1 by default.
"""
import argparse
import concurrent.futures
import importlib
import pathlib
import resource
import shutil
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True
import cluster  # noqa: E402

SLOWEST = 10  # tests that are named in the end
# What these begin with is started first, so that none of the long ones is left over.
LONG = ("exact.", "epochs.", "models.", "experts.distances", "partition.")
# What is measured decides these: they want a machine that does nothing else, and run when named.
QUIET = ("slow.",)


def collect(names):
    found = []
    for path in sorted(pathlib.Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        found += [(f"{path.stem[5:]}.{name[5:]}", fn) for name, fn in vars(module).items()
                  if name.startswith("test_")]
    return sorted([(name, fn) for name, fn in found
                   if any(wanted in name for wanted in names)
                   or not names and not name.startswith(QUIET)],
                  key=lambda test: not test[0].startswith(LONG))


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


def timed(world, name, fn):
    before = time.monotonic()
    verdict, words = run(world, name, fn)
    return verdict, words, time.monotonic() - before


def show(name, verdict, words, seconds):
    print(f"{verdict:8}{seconds:7.1f} s  {name}{': ' + words if verdict == 'skipped' else ''}",
          flush=True)
    if verdict == "failed":
        print(words, flush=True)


def show_times(times):
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"processors were busy for {used.ru_utime + used.ru_stime:.0f} s, of {len(times)} tests "
          f"that took {sum(seconds for seconds, _ in times):.0f} s")
    if len(times) > SLOWEST:
        slowest = sorted(times, reverse=True)[:SLOWEST]
        print("slowest:", ", ".join(f"{name} {seconds:.0f} s" for seconds, name in slowest))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-j", type=int, default=1, metavar="N")
    parser.add_argument("build")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    tests = collect(options.names)
    counts, times = {"passed": 0, "failed": 0, "skipped": 0}, []
    with tempfile.TemporaryDirectory(prefix="caravan-cluster-") as folder, \
            concurrent.futures.ThreadPoolExecutor(options.j) as pool:
        world = cluster.World(options.build, pathlib.Path(folder))
        running = {pool.submit(timed, world, name, fn): name for name, fn in tests}
        for done in concurrent.futures.as_completed(running):
            show(running[done], *done.result())
            counts[done.result()[0]] += 1
            times.append((done.result()[2], running[done]))
    show_times(times)
    print(", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    return 1 if counts["failed"] or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
