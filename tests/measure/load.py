# SPDX-License-Identifier: Apache-2.0
"""The simulator beside real clients."""
import lab

# (model, plan, workers, options, link, clients, tokens of a prompt, of an answer)
LOADS = [
    ("llama-1b:Q4_0", "1 worker", 1, [], "ipc", 4, 64, 48),
    ("llama-1b:Q4_0", "2 by layers", 2, [], "1 Gbit/s, 0.2 ms", 4, 64, 48),
    ("llama-1b:Q4_0", "2 by layers", 2, [], "1 Gbit/s, 10 ms", 4, 64, 48),
    ("qwen3moe-3b:Q4_K", "stage and 2 hosts", 3, ["--split", "experts"], "1 Gbit/s, 0.2 ms", 1,
     16, 48),
    ("qwen3moe-3b:Q4_K", "stage and 2 hosts", 3, ["--split", "experts"], "1 Gbit/s, 2 ms", 1, 16,
     48),
    ("llama-1b:Q4_0", "3 by layers", 3, [], "1 Gbit/s, 2 ms", 2, 16, 48),
    ("llama-1b:Q4_0", "4 by layers", 4, [], "1 Gbit/s, 2 ms", 2, 16, 48),
    ("llama-1b:Q4_0", "5 by layers", 5, [], "1 Gbit/s, 10 ms", 2, 16, 48),
]


def measure(world, number, load):
    model, name, workers, how, link, clients, prompt, answer = load
    with lab.case_of(world, f"load-{number}") as case:
        found = lab.bench(case, link, workers, 1, "--synthetic", model, "-p", str(prompt), "-n",
                          str(answer), "--clients", str(clients), "--requests", str(8 * clients),
                          *how)
    return {"plan": f"{model}, {name}, {clients} clients", "link": link, **found}


def print_table(rows):
    cells, errors = [], {"answer_tokens_s": [], "token_s": [], "request_s": []}
    for row in rows:
        line = [row["plan"], row["link"]]
        for what, list_ in errors.items():
            simulated, measured = row["simulated"][what], row["measured"][what]
            list_.append(lab.error(simulated, measured))
            unit = 1e3 if what == "token_s" else 1
            line += [lab.number(simulated * unit), lab.number(measured * unit),
                     lab.percent(list_[-1])]
        cells.append(line)
    lab.table(["plan", "link", "tokens/s simulated", "measured", "error", "between tokens ms",
               "measured", "error", "request s", "measured", "error"], cells)
    for what, name in (("answer_tokens_s", "tokens/s"), ("token_s", "between tokens"),
                       ("request_s", "request")):
        lab.summary(name, errors[what])


def show(path):
    print_table(lab.saved(path))


def run(world, options):
    lab.measure_all(options, [
        (f"{number}: {load[0]}, {load[1]}, {load[4]}",
         lambda number=number, load=load: measure(world, number, load))
        for number, load in enumerate(LOADS)], print_table)
    return True
