# SPDX-License-Identifier: Apache-2.0
"""What the measurements share: a case of processes, clusters near and far, tables."""
import contextlib
import json
import pathlib
import statistics
import sys
import shutil
import subprocess

import cluster
from distance import Distance

# Name: (microseconds one way, Mbit/s); None: processes of one machine, without a network.
LINKS = {
    "ipc": None,
    "1 Gbit/s, 0.2 ms": (100, 1000),
    "1 Gbit/s, 2 ms": (1000, 1000),
    "1 Gbit/s, 10 ms": (5000, 1000),
    "100 Mbit/s, 2 ms": (1000, 100),
}


@contextlib.contextmanager
def case_of(world, name):
    """Processes that are ended, and whose end is looked at; says what they said if one fails."""
    case = cluster.Case(world, name)
    try:
        yield case
    except AssertionError:
        print(case.logs())
        raise
    finally:
        faults = case.finish()
        shutil.rmtree(case.dir)
    assert not faults, faults


def profile(case, threads):
    """A cache folder with this machine's profile as it is now."""
    folder = case.dir / "profile"
    subprocess.run([case.world.worker, "--profile", "-t", str(threads), "--cache-dir", folder],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return folder


def bench(case, link, workers, threads, *args):
    """What `caravan bench --json` says, of processes near or machines at a distance."""
    kept = profile(case, threads)
    if LINKS[link] is None:
        return json.loads(case.succeed("bench", "--json", "--local-workers", str(workers), "-t",
                                       str(threads), "--cache-dir", kept, *args, within_s=900))
    one_way_us, mbit_s = LINKS[link]
    distance = Distance(case, workers + 1, one_way_us, mbit_s)
    try:
        for i in range(1, workers + 1):
            shutil.copytree(kept, case.dir / f"cache-{i}", dirs_exist_ok=True)
        distance.start_workers(workers, lambda i: case.dir / f"cache-{i}")
        return json.loads(distance.caravan("bench", "--json", *args).out)
    finally:
        distance.end()


def model_file(world, options, preset, type_):
    """A model of a few GB, made where models are kept."""
    folder = pathlib.Path(options.models) if options.models else world.folder
    path = folder / f"{preset}-{type_}.gguf"
    if not path.exists():
        subprocess.run([world.caravan, "mkmodel", preset, path, "--type", type_], check=True,
                       stdout=subprocess.DEVNULL)
    return path


# ---- rows of a table ----

def chosen(options, title):
    return all(text in title for text in options.only)


def save(options, row):
    if options.save:
        with open(options.save, "a") as out:
            out.write(json.dumps(row) + "\n")


def measure_all(options, jobs, print_table):
    """Makes a row of each (title, function), shows it, and in the end the table of all."""
    rows = []
    wanted = [job for job in jobs if chosen(options, f" {job[0]}")]
    if not wanted:
        print(f"measure: --only {' --only '.join(options.only)}: expected a part of a row's name, "
              f"found it in none of {len(jobs)}:", file=sys.stderr)
        print("\n".join(f"  {title}" for title, _ in jobs), file=sys.stderr)
        sys.exit(2)
    for title, measure in wanted:
        try:
            row = measure()
        except cluster.Skip as reason:
            print(f"skipped: {title}: {reason}")
            continue
        save(options, row)
        rows.append(row)
        print_table(rows[-1:])
    if len(rows) > 1:
        print()
        print_table(rows)


def saved(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(titles, rows):
    """In columns; the first left, numbers right."""
    cells = [[str(cell) for cell in row] for row in [titles, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
    for row in cells:
        print("  ".join(cell.ljust(w) if i < 2 else cell.rjust(w)
                        for i, (cell, w) in enumerate(zip(row, widths))).rstrip())


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def error(predicted, measured):
    return predicted / measured - 1


def percent(value):
    return f"{100 * value:+.0f}%"


def median(rows, *path):
    """Of a number in each of the rows, which is found by its names."""
    values = []
    for row in rows:
        for name in path:
            row = row[name]
        values.append(row)
    return statistics.median(values)


def summary(what, errors):
    if errors:
        sizes = sorted(abs(e) for e in errors)
        middle = (sizes[(len(sizes) - 1) // 2] + sizes[len(sizes) // 2]) / 2
        print(f"{what}: median error {100 * middle:.1f}%, worst {100 * sizes[-1]:.1f}%, of "
              f"{len(sizes)}")
