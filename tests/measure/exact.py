# SPDX-License-Identifier: Apache-2.0
"""Real sizes, split by experts over real distances: the bits of one worker."""
import shutil

import cluster
import lab
from distance import Distance
from test_exact import IDS, PROMPT, logits

MODELS = ("llama4-5b", "qwen3moe-3b")
# Name: (workers, options)
SHAPES = {
    "a stage and 2 hosts": (3, []),
    "a stage and 4 hosts with slices of 2": (5, ["--expert-slices", "2"]),
    "2 stages with 2 hosts each": (6, ["--stages", "2"]),
    "a stage and 4 hosts with 2 replicas": (5, ["--replicas", "2"]),
}
ONE_WAY_US = (100, 1000, 5000)
TOKENS = 16


def expected(case, model):
    rows = logits(case, model, "-t", "2", "--keep-packed", "off")
    text = case.succeed("run", "-m", model, "-p", PROMPT, "-n", str(TOKENS), "--temp",
                        "0", "--ignore-eos", "-t", "2", "--keep-packed", "off")
    return rows, text


def found_far(case, model, one_way_us, workers, shape, cache):
    """All workers keep pieces in one folder, so that these travel once."""
    distance = Distance(case, workers + 1, one_way_us)
    how = ["-m", model, "--split", "experts", *shape]
    path = case.dir / "far-logits"
    try:
        distance.start_workers(workers, lambda _: cache, "--keep-packed", "off")
        distance.caravan("eval", "--ids", " ".join(map(str, IDS)), "--logits", path, *how)
        run = distance.caravan("run", "-p", PROMPT, "-n", TOKENS, "--temp", 0,
                               "--ignore-eos", *how)
        return path.read_bytes(), run.out
    finally:
        distance.end()


def check_far(world, title, wanted, model, far, cache):
    """Whether it is the same; far: one way in microseconds, workers, options of the shape."""
    one_way_us, workers, shape = far
    with lab.case_of(world, f"far-{workers}-{one_way_us}") as case:
        found = found_far(case, model, one_way_us, workers, shape, cache)
    print(f"{title}: {len(IDS)} rows of logits "
          f"{'equal' if found[0] == wanted[0] else 'DIFFER'}, text of {TOKENS} tokens "
          f"{'equal' if found[1] == wanted[1] else 'DIFFERS'}", flush=True)
    return found == wanted


def run(world, options):
    same = True
    for preset in MODELS:
        rows = {f"{preset} Q4_K, {name}, {2 * us / 1000:g} ms": (us, *how)
                for name, how in SHAPES.items() for us in ONE_WAY_US}
        rows = {title: far for title, far in rows.items() if lab.chosen(options, title)}
        if not rows:
            continue
        model = lab.model_file(world, options, preset, "Q4_K")
        cache = world.folder / f"pieces-{preset}"
        with lab.case_of(world, f"one-{preset}") as case:
            wanted = expected(case, model)
        for title, far in rows.items():
            try:
                same &= check_far(world, title, wanted, model, far, cache)
            except cluster.Skip as reason:
                print(f"skipped: {title}: {reason}")
        shutil.rmtree(cache, ignore_errors=True)
    return same
