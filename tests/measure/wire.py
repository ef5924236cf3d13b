# SPDX-License-Identifier: Apache-2.0
"""What a token sends: the program's counters beside those of the hosts' network interfaces."""
import re

import lab
from distance import Distance

LAYERS, EMBD, USED, HOSTS = 3, 2048, 4, 2
FEW, MANY = 20, 220
PROMPT = "hello"


def generate(distance, model, n):
    """(frames, bytes) a batch as the program counts them, and the hosts' counters."""
    before = [distance.traffic(i) for i in range(1, HOSTS + 2)]
    run = distance.caravan("run", "-m", model, "-p", PROMPT, "-n", n, "--temp", 0, "--ignore-eos",
                           "--split", "experts", "--stats")
    after = [distance.traffic(i) for i in range(1, HOSTS + 2)]
    frames = float(re.search(r"on the wire: ([\d.]+) frames, (\S+ \S+)", run.err).group(1))
    return frames, [[[b - a for a, b in zip(x, y)] for x, y in zip(p, q)]
                    for p, q in zip(before, after)], run.err


def run(world, options):
    """A token more costs what MANY - FEW tokens cost more, each; all experts of a row are used, so
    that each host is asked at each layer."""
    model = world.model("qwen3moe-k", "Q4_K", layers=LAYERS, embd=EMBD, experts=USED, used=USED)
    with lab.case_of(world, "wire") as case:
        distance = Distance(case, HOSTS + 2, 100)
        try:
            distance.start_workers(HOSTS + 1, lambda i: case.dir / f"cache-{i}")
            generate(distance, model, 1)
            frames, few, _ = generate(distance, model, FEW)
            _, many, words = generate(distance, model, MANY)
        finally:
            distance.end()
    print(re.search(r"(?s)\n(worker .*)", words).group(1) if "worker" in words else words)
    tokens = MANY - FEW
    record = EMBD + EMBD // 8 + 4 * EMBD // 256
    request = 16 + record + 8 * (1 + USED // HOSTS)
    answer = 4 * EMBD
    print(f"formula: {2 * LAYERS * HOSTS + 2} frames a token; program: {frames:.2f}")
    rows = []
    for i in range(1, HOSTS + 1):
        (into, out), (packets_in, packets_out) = [
            [(b - a) / tokens for a, b in zip(x, y)] for x, y in zip(few[i], many[i])]
        rows.append([f"host {i}", "formula", LAYERS * request, LAYERS * answer, "", ""])
        rows.append(["", "interface", f"{into:.0f}", f"{out:.0f}", f"{packets_in:.1f}",
                     f"{packets_out:.1f}"])
    lab.table(["worker", "", "bytes in a token", "bytes out", "packets in", "packets out"], rows)
    print("interfaces count headers of IP and TCP (52 bytes a packet), acknowledgements, and 33 "
          "bytes or more of a frame's encryption")
    return frames == 2 * LAYERS * HOSTS + 2
