# SPDX-License-Identifier: Apache-2.0
"""Experts on other workers: the same bits, frames as they are counted, hosts that fail."""
import signal
import urllib.request

from cluster import Cluster
from distance import Distance
from test_exact import IDS, PROMPT, logits
from test_faults import greetings, knock

# What the shapes of the issue are called on a command line.
SHAPES = {
    "a stage and 2 hosts": ["--local-workers", "3"],
    "a stage and 4 hosts with slices of 2": ["--local-workers", "5", "--expert-slices", "2"],
    "2 stages with 2 hosts each": ["--local-workers", "6", "--stages", "2"],
    "4 hosts with 2 replicas": ["--local-workers", "5", "--replicas", "2"],
    "3 stages and 2 hosts for all": ["--local-workers", "5", "--stages", "3"],
    "slices and replicas": ["--local-workers", "5", "--expert-slices", "2", "--replicas", "2"],
}
FEW = ["a stage and 4 hosts with slices of 2", "2 stages with 2 hosts each"]


def same_in_all_shapes(case, model, shapes):
    rows = logits(case, model, "-t", "1")
    text = case.generate(model, "-t", "1", prompt=PROMPT)
    for i, name in enumerate(shapes):
        how = ["--split", "experts", "-t", "1", *SHAPES[name]]
        for batch in ("512", "7"):
            found = logits(case, model, *how, "--batch", batch)
            assert found == rows, f"other logits with {name}, --batch {batch}"
        if i % 2 == 0:
            found = case.generate(model, *how, prompt=PROMPT)
            assert found == text, f"other text with {name}: {found} {text}"


def test_experts_with_blocks(case):
    model = case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=16, used=4, ffe=1024)
    same_in_all_shapes(case, model, FEW if case.world.sanitized else SHAPES)


def test_one_expert_a_row(case):
    """Llama 4: one expert of a row, whose weight multiplies its input; a shared expert beside."""
    model = case.world.model("llama4-k", "Q4_K", layers=4, ffe=1024)
    same_in_all_shapes(case, model, FEW if case.world.sanitized else SHAPES)


def test_float_experts(case):
    model = case.world.model("mixtral-tiny", "F32", layers=3)
    shapes = [name for name in SHAPES if "slices" not in name]
    same_in_all_shapes(case, model, shapes[:2])


def test_many_experts_used(case):
    model = case.world.model("qwen3moe-tiny", "Q8_0", layers=3)
    shapes = [name for name in SHAPES if "slices" not in name]
    same_in_all_shapes(case, model, shapes[:1] if case.world.sanitized else shapes)


def test_threads(case):
    """A stage and a host may have any number of threads."""
    model = case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=16, used=4, ffe=1024)
    rows = logits(case, model, "-t", "1")
    found = logits(case, model, "--split", "experts", "--local-workers", "3", "-t", "3")
    assert found == rows


# ---- what travels ----

def used_model(case):
    """All experts of a row are used, so each host is asked at each of the three layers."""
    return case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=4, used=4)


def split_cluster(case, model, workers=3, options=()):
    return Cluster(case, model, workers=workers, options=["--split", "experts", *options])


def hosts_of(status):
    return [w for w in status["workers"] if w["experts"]]


def test_frames_and_bytes(case):
    """Two frames a layer and host, and of the size that the documentation says."""
    layers, embd, used, tokens = 3, 256, 4, 24
    c = split_cluster(case, used_model(case)).start()
    c.complete(tokens)
    status = c.status()
    stage = status["workers"][0]
    assert (stage["layer_first"], stage["layer_end"]) == (0, layers) and not stage["experts"]
    assert stage["batches"] == tokens, stage
    hosts = hosts_of(status)
    assert [(w["experts"]["first"], w["experts"]["end"]) for w in hosts] == [(0, 2), (2, 4)]
    record = embd + embd // 8 + 4 * embd // 256
    for w in hosts:
        x = w["experts"]
        assert (x["layer_first"], x["layer_end"], x["n_slices"]) == (0, layers, 1), x
        assert x["requests"] == layers * stage["batches"], (x, stage)
        rows = layers * stage["rows"]
        members = used // len(hosts)
        need = 16 * x["requests"] + rows * (record + 8 * (1 + members))
        assert need <= x["bytes_in"] <= need * 1.1, (x, need)
        assert x["bytes_out"] == rows * 4 * embd, (x, rows)
        assert x["compute_ns"] > 0 and x["wire_ns"] > 0
    assert 0 < stage["expert_wait_ns"] < stage["compute_ns"]
    run = case.caravan("run", "-m", c.model, "-p", "hello", "-n", "10", "--temp", "0",
                       "--ignore-eos", "--split", "experts", "--local-workers", "3", "-t", "1",
                       "--stats")
    frames = 2 * layers * len(hosts) + 2
    assert f"on the wire: {frames:.2f} frames" in run.err, run.err


def test_usage(case):
    """How often each expert was chosen, in the status and the metrics."""
    model = case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=16, used=4, ffe=1024)
    c = split_cluster(case, model, workers=4, options=["--stages", "2"]).start()
    c.complete(40)
    rows = next(w for w in c.status()["workers"] if w["layer_end"])["rows"]

    def counted():
        usage = c.status()["expert_usage"]
        return usage if sum(sum(x["rows"]) for x in usage) == 3 * 4 * rows else None
    usage = case.until(counted, "the statistics")
    assert [layer["layer"] for layer in usage] == [0, 1, 2]
    assert all(len(layer["rows"]) == 16 and sum(layer["rows"]) == 4 * rows for layer in usage)
    assert len({tuple(layer["rows"]) for layer in usage}) == 3
    with urllib.request.urlopen(f"http://127.0.0.1:{c.http_port}/metrics") as answer:
        metrics = answer.read().decode()
    for layer in usage:
        for i, count in enumerate(layer["rows"]):
            line = f'caravan_expert_rows_total{{layer="{layer["layer"]}",expert="{i}"}} {count}\n'
            assert count == 0 or line in metrics, line
    host = hosts_of(c.status())[0]["name"]
    assert f'caravan_worker_experts{{worker="{host}"}} 16\n' in metrics
    shown = case.succeed("status", "--server", f"http://127.0.0.1:{c.http_port}").decode()
    assert "experts 0-15 of" in shown and "most used: expert" in shown, shown


# ---- faults ----

def test_host_stopped_while_loading(case):
    """A stage that waits for a host to know it is not held up when the plan starts anew."""
    c = split_cluster(case, used_model(case))
    c.start_server()
    for i in (1, 2):
        c.start_worker(i)
    case.until(lambda: len((c.status() or {}).get("workers", [])) == 2, "two workers")
    c.start_worker(3).wait_for("WORKER-JOINED")
    c.workers[3].send(signal.SIGSTOP)
    c.server.wait_for("COORD-WORKER-LOST name=w3")
    c.workers[3].send(signal.SIGCONT)
    c.wait_ready()
    assert c.complete()


def test_host_out_of_reach(case):
    """A host that the coordinator reaches and the stage does not is named, with its address."""
    c = split_cluster(case, used_model(case), workers=2)
    c.start_server()
    c.start_worker(1)
    case.until(lambda: (c.status() or {}).get("workers"), "the first worker")
    # Nobody listens at the address that it advertises.
    case.start("w2", [*c.worker_argv(2), "--expert-listen", "127.0.0.1:0", "--advertise",
                      "127.0.0.9:9"])
    assert c.server.wait() == 1
    last = c.server.err().strip().splitlines()[-1]
    for words in ('worker "w1" could not load', '"w2", which holds experts 0-3 of layers 0-2',
                  "cannot be reached at tcp://127.0.0.9:", "firewall"):
        assert words in last, last


def test_coordinator_returns(case):
    c = split_cluster(case, used_model(case)).start()
    text = c.complete()
    c.server.kill()
    c.start_server()
    c.wait_ready()
    assert c.complete() == text
    assert all(w.running() for w in c.workers.values())


def test_strangers(case):
    """Noise at the ports where experts are asked for."""
    c = split_cluster(case, used_model(case)).start()
    text = c.complete()
    ports = {int(w["expert_endpoint"].rsplit(":", 1)[1]) for w in c.status()["workers"]}
    assert len(ports) == 3
    open_ends = [knock(port, data) for port in ports for data in greetings()]
    assert c.complete() == text
    for s in open_ends:
        s.close()
    assert c.complete() == text
    assert c.status()["epoch"] == 1, "the cluster was disturbed"


# ---- what cannot be ----

def test_wrong_flags(case):
    model = case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=16, used=4, ffe=1024)
    dense = case.world.small()

    def fails(*args, words, model=model, status=1):
        result = case.caravan("run", "-m", model, "-p", "a", "-n", "1", "-t", "1", *args)
        lines = 2 if status == 2 else 1
        result.fails_with(*words, status=status, lines=lines)

    experts = ["--split", "experts", "--local-workers"]
    fails(*experts, "3", model=dense, words=["--split experts", "dense"])
    fails(*experts, "1", words=["--split experts", "1 worker", "add workers"])
    fails(*experts, "3", "--stages", "3", words=["3 workers", "3 are stages"])
    fails(*experts, "4", "--expert-slices", "2", words=["3 hosts", "2 slices", "multiple of 2"])
    fails(*experts, "9", "--expert-slices", "8", words=["--expert-slices 8", "at most 4"])
    fails(*experts, "3", "--replicas", "3", words=["3 replicas", "there are 2"])
    fails(*experts, "18", words=["17 hosts", "16 experts"])
    fails("--split", "rows", words=["--split rows", "auto, layers or experts"], status=2)
    fails("--replicas", "2", words=["--replicas", "--split experts"])
    fails("--split", "layers", "--expert-slices", "2", words=["--expert-slices"])
    fails("--stages", "0", words=["--stages 0", "1 to"], status=2)


def test_layers_of_stages(case):
    """--layers says which layers the stages have, and how many stages there are."""
    model = case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=16, used=4, ffe=1024)
    rows = logits(case, model, "-t", "1")
    for layers, n in (("0-2", 3), ("0-0,1-2", 4), ("0-0,1-1,2-2", 5)):
        found = logits(case, model, "--split", "experts", "--local-workers", str(n), "--layers",
                       layers, "-t", "1")
        assert found == rows, f"other logits with --layers {layers}"


# ---- real distances ----

def far_logits(case, distance, model, workers, *args):
    """Logits and a text of workers that are machines of their own, and join the first of them."""
    path = case.dir / "far-logits"
    distance.start_workers(workers, lambda i: case.dir / f"far-cache-{i}")
    distance.caravan("eval", "-m", model, "--ids", " ".join(map(str, IDS)), "--logits", path,
                     *args)
    run = distance.caravan("run", "-m", model, "-p", PROMPT, "-n", 12, "--temp", 0,
                           "--ignore-eos", *args)
    return path.read_bytes(), run.out


def test_distances(case):
    """Round trips of 0.2, 2 and 10 ms change no bit."""
    model = case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=16, used=4, ffe=1024)
    rows = logits(case, model, "-t", "1")
    text = case.generate(model, "-t", "1", prompt=PROMPT, n=12)
    for one_way_us, workers, shape in ((100, 3, []), (1000, 5, ["--expert-slices", "2"]),
                                       (5000, 6, ["--stages", "2"])):
        distance = Distance(case, workers + 1, one_way_us)
        try:
            found = far_logits(case, distance, model, workers, "--split", "experts", *shape)
        finally:
            distance.end()
        assert found == (rows, text), f"other logits or text with {2 * one_way_us} us RTT"
