# SPDX-License-Identifier: Apache-2.0
"""Prefill with the experts on two hosts beside all of them on one, a thread each. The stage has
little to do, and nothing while hosts compute: experts are nearly all of this model."""
import lab

DIMENSIONS = {"layers": 2, "embd": 2048, "heads": 8, "kv": 2, "hd": 64, "experts": 16, "ffe": 8192,
              "vocab": 512}
USED = (1, 2)  # experts a token: one, as in Llama 4; of two, a host sends sums by segments
LEAST = 1.6    # of one


def prefill(world, model, link, workers):
    with lab.case_of(world, f"hosts-{workers}") as case:
        found = lab.bench(case, link, workers, 1, "-m", model, "--split", "experts", "-p", "512",
                          "-n", "16", "-r", "5")
    return found["prefill"]


def run(world, options):
    good = True
    for used in USED:
        model = world.model("qwen3moe-k", "Q4_K", used=used, **DIMENSIONS)
        for link in ("ipc", "1 Gbit/s, 0.2 ms"):
            if not lab.chosen(options, link):
                continue
            one, two = (prefill(world, model, link, workers) for workers in (2, 3))
            good &= used > 1 or link != "ipc" or two / one >= LEAST
            print(f"{used} of 16 a token, {link}: one host {lab.number(one)}, two hosts "
                  f"{lab.number(two)} tokens/s: {two / one:.2f}x", flush=True)
    return good
