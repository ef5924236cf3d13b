# SPDX-License-Identifier: Apache-2.0
"""Predicted beside measured: the planner's cost model on profiles taken just before."""
import lab

FAR = ["1 Gbit/s, 0.2 ms", "1 Gbit/s, 2 ms", "1 Gbit/s, 10 ms"]
EXPERTS = ["--split", "experts"]
SLICES = [*EXPERTS, "--expert-slices", "2"]

# (model, plan, workers, threads of each, options, links)
PLANS = [
    ("llama-1b:Q4_0", "1 worker", 1, 1, [], ["ipc"]),
    ("llama-1b:Q8_0", "1 worker of 2 threads", 1, 2, [], ["ipc"]),
    ("llama4-5b:Q4_K", "1 worker of 2 threads", 1, 2, [], ["ipc"]),
    ("llama-1b:Q4_0", "2 by layers", 2, 1, [], ["ipc", *FAR]),
    ("llama-1b:Q8_0", "2 by layers", 2, 1, [], ["100 Mbit/s, 2 ms"]),
    ("llama4-5b:Q4_K", "stage and 1 host", 2, 1, EXPERTS, ["ipc", FAR[0], FAR[1]]),
    ("qwen3moe-3b:Q4_K", "stage and 1 host", 2, 1, EXPERTS, ["100 Mbit/s, 2 ms"]),
    ("qwen3moe-3b:Q4_K", "stage and 2 hosts", 3, 1, EXPERTS, ["ipc", *FAR]),
    ("llama4-5b:Q4_K", "stage and 2 hosts", 3, 1, EXPERTS, [FAR[2]]),
    ("qwen3moe-3b:Q4_K", "stage and 2 hosts, slices of 2", 3, 1, SLICES, [FAR[0], FAR[1]]),
]


def measure(world, number, plan, link, rounds):
    model, name, workers, threads, how, _ = plan
    found = []
    for i in range(rounds):
        with lab.case_of(world, f"plan-{number}-{i}") as case:
            found.append(lab.bench(case, link, workers, threads, "--synthetic", model, "-p", "512",
                                   "-n", "64", "-r", "5", *how))
    return {"model": model, "plan": name, "link": link,
            "prefill": lab.median(found, "prefill"), "decode": lab.median(found, "decode"),
            "predicted": {what: lab.median(found, "predicted", what)
                          for what in ("prefill", "decode")}, "rounds": found}


def print_table(rows):
    cells, errors = [], {"prefill": [], "decode": []}
    for row in rows:
        line = [f"{row['model']}, {row['plan']}", row["link"]]
        for what, list_ in errors.items():
            off = lab.error(row["predicted"][what], row[what])
            list_.append(off)
            line += [lab.number(row["predicted"][what]), lab.number(row[what]), lab.percent(off)]
        cells.append(line)
    lab.table(["plan", "link", "prefill predicted", "measured", "error", "decode predicted",
               "measured", "error"], cells)
    for what, list_ in errors.items():
        lab.summary(what, list_)
    lab.summary("both", errors["prefill"] + errors["decode"])


def show(path):
    print_table(lab.saved(path))


def run(world, options):
    cases = [(plan, link) for plan in PLANS for link in plan[5]]
    lab.measure_all(options, [
        (f"{number}: {plan[0]}, {plan[1]}, {link}",
         lambda number=number, plan=plan, link=link:
             measure(world, number, plan, link, options.rounds))
        for number, (plan, link) in enumerate(cases)], print_table)
    return True
