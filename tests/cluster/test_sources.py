# SPDX-License-Identifier: Apache-2.0
"""Weights from other workers: who holds them serves them, and the store's limit."""
import os
import pathlib
import re
import shutil

from cluster import Cluster, packed, pieces

MEGABYTE = 1 << 20


def experts(case):
    """Some 150 MB of experts in pieces of 1 MiB, on two hosts that have the same ones."""
    model = case.world.model("qwen3moe-k", "F32", layers=3, experts=16, used=4, ffe=1024)
    return Cluster(case, model, options=["--split", "experts", "--stages", "1", "--replicas", "2"])


def hosts(c):
    """Numbers of the workers that hold experts; which one is the stage depends on who came first."""
    return sorted(int(w["name"][1:]) for w in c.status()["workers"] if not w["layer_end"])


def came_from(worker):
    """What a worker said of where its last weights came from: {coordinator or endpoint: bytes}."""
    worker.wait_for("WORKER-LOADED ")
    worker.wait_for("to=ready")
    return {who: int(n) for who, n in
            re.findall(r"WORKER-FETCHED from=(\S+) bytes=(\d+)", worker.err())}


def restart_empty(c, i):
    c.workers[i].kill()
    shutil.rmtree(c.cache(i))
    return c.start_worker(i)


def test_workers_serve_pieces(case):
    """A worker that comes with an empty cache gets most of it from one that holds the same."""
    c = experts(case).start()
    text = c.complete()
    host = hosts(c)[0]
    total = sum(came_from(c.workers[host]).values())
    assert total > 100 * MEGABYTE, total
    restart_empty(c, host)
    c.wait_ready()
    sources = came_from(c.workers[host])
    of_coordinator = sources.pop("coordinator", 0)
    assert sum(sources.values()) + of_coordinator >= total, sources
    assert sum(sources.values()) > of_coordinator, (sources, of_coordinator)
    assert c.complete() == text
    pieces(c.cache(host))


def test_file_that_is_gone(case):
    """The coordinator's file is cut short: who holds the weights still gives them, and the
    coordinator lives."""
    c = experts(case)
    copy = case.dir / "model.gguf"
    shutil.copyfile(c.model, copy)
    c.model = copy
    c.start()
    text = c.complete()
    # Tensors of the experts are not at the very start.
    host = hosts(c)[0]
    os.truncate(copy, copy.stat().st_size // 50)
    restart_empty(c, host)
    c.wait_ready()
    sources = came_from(c.workers[host])
    assert sources.pop("coordinator", 0) < sum(sources.values()) // 10, sources
    assert c.complete() == text
    assert "COORD-MODEL-LOST" in c.server.err()


def test_source_that_dies(case):
    """The worker that serves is killed half way: the rest comes from the coordinator."""
    c = experts(case).start()
    text = c.complete()
    host, other = hosts(c)
    fetching = restart_empty(c, host)
    case.until(lambda: len(pieces(c.cache(host)) | packed(c.cache(host))) > 1, "some pieces")
    c.workers[other].kill()
    fetching.wait_for("WORKER-LOADED ")
    c.start_worker(other)
    c.wait_ready()
    assert c.complete() == text


def kept(folder):
    return sum(path.stat().st_size for path in pathlib.Path(folder).glob("*/*/*.p*"))


def test_cache_limit(case):
    """What is needed stays, what another model left goes; a limit that is too small means more
    work at the next start, and nothing else."""
    first, second = case.world.small(), case.world.model("llama4-maverick-tiny", "Q8_0")
    sizes = []
    for model, limit in ((first, "0"), (second, "0"), (first, "0.0015"), (first, "0.0005")):
        if limit == "0.0005":
            shutil.rmtree(c.cache(1))
        c = Cluster(case, model, workers=1, worker_options=["--cache-limit", limit]).start()
        text = case.generate(model)
        assert c.complete() == text.decode("utf-8", "replace")
        sizes.append(kept(c.cache(1)))
        assert limit == "0" or sizes[-1] <= float(limit) * 1e9, (limit, sizes)
        for process in c.server, c.workers[1]:
            assert process.stop() == 0
    assert sizes[0] <= sizes[2] < sizes[1], sizes
    assert c.workers[1].err().count("WORKER-UNKEPT") == 1


def test_packed_weight_cut_short(case):
    """A packed weight that is cut short under the worker: it joins anew, and packs it again."""
    c = Cluster(case, case.world.small(), workers=1).start()
    text = c.complete()
    files = packed(c.cache(1))
    path = max(files, key=lambda p: files[p].st_size)
    os.truncate(path, 4096)
    c.request("POST", "/v1/completions", {"prompt": "hello there", "max_tokens": 4})
    c.workers[1].wait_for("WORKER-WEIGHTS-LOST")
    c.wait_ready()
    assert c.complete() == text
    assert c.workers[1].running()
    assert packed(c.cache(1))[path].st_size == files[path].st_size
