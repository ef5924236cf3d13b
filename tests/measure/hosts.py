# SPDX-License-Identifier: Apache-2.0
"""Prefill with the experts on two hosts beside all of them on one, a thread each. The stage has
little to do, and nothing while hosts compute: experts are nearly all of this model."""
import lab

DIMENSIONS = {"layers": 2, "embd": 2048, "heads": 8, "kv": 2, "hd": 64, "experts": 16, "used": 2,
              "ffe": 8192, "vocab": 512}
LEAST = 1.6


def prefill(world, model, link, workers):
    with lab.case_of(world, f"hosts-{workers}") as case:
        found = lab.bench(case, link, workers, 1, "-m", model, "--split", "experts", "-p", "512",
                          "-n", "16", "-r", "5")
    return found["prefill"]


def run(world, options):
    model = world.model("qwen3moe-k", "Q4_K", **DIMENSIONS)
    good = True
    for link in ("ipc", "1 Gbit/s, 0.2 ms"):
        if not lab.chosen(options, link):
            continue
        one, two = (prefill(world, model, link, workers) for workers in (2, 3))
        good &= two / one >= LEAST
        print(f"{link}: one host {lab.number(one)}, two hosts {lab.number(two)} tokens/s: "
              f"{two / one:.2f}x")
    return good
