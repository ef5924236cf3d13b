# SPDX-License-Identifier: Apache-2.0
"""Workers over TCP: weights travel into caches, requests share the stages."""
import concurrent.futures
import os
import re
import shutil

from cluster import Cluster, Stream, packed, pieces

MEGABYTE = 1 << 20


def test_weights_and_cache(case):
    """The first start fetches the weights, the second finds them; the text is the local one."""
    model = case.world.model("llama4-maverick-tiny", "Q8_0")
    with_one = Cluster(case, model, workers=1).start()
    text = with_one.complete()
    with_one.server.stop()
    with_one.workers[1].stop()
    c = Cluster(case, model)
    shutil.rmtree(c.cache(1))
    c.start()
    assert c.complete() == text, "another text with three workers"
    before = {i: pieces(c.cache(i)) | packed(c.cache(i)) for i in c.workers}
    assert all(packed(c.cache(i)) for i in c.workers), "a worker has no packed weights"
    for process in [c.server, *c.workers.values()]:
        assert process.stop() == 0, f"{process.name} did not end well"
    c.start()
    assert c.complete() == text
    for i in c.workers:
        after = pieces(c.cache(i)) | packed(c.cache(i))
        assert before[i].keys() <= after.keys()
        assert all(after[p].st_mtime_ns == s.st_mtime_ns for p, s in before[i].items()), \
            "a file was written again"


def loaded(worker):
    """What a worker said of the weights that it loaded, in bytes: {where they came from: bytes}."""
    said = worker.wait_for("WORKER-LOADED .*").group(0)
    return {name: int(n) for name, n in re.findall(r"(\w+)=(\d+)", said)}


def test_second_start_fetches_and_packs_nothing(case):
    c = Cluster(case, case.world.large(), workers=1).start()
    first = c.workers[1].written_bytes()
    assert first > 100 * MEGABYTE, f"{first} bytes written at the first start"
    was = loaded(c.workers[1])
    assert was["packed"] > 100 * MEGABYTE and was["mapped"] == 0, was
    raw = sum(s.st_size for s in pieces(c.cache(1)).values())
    assert raw < MEGABYTE, f"{raw} bytes are kept as fetched beside those packed"
    c.workers[1].stop()
    c.start_worker(1)
    c.wait_ready()
    again = c.workers[1].written_bytes()
    assert again < MEGABYTE, f"{again} bytes written at the second start"
    found = loaded(c.workers[1])
    assert found["mapped"] == was["packed"] and found["packed"] == found["fetched"] == 0, found
    assert found["memory"] == was["memory"] < MEGABYTE, found


def test_second_start_from_a_file(case):
    """`caravan run` keeps packed weights where it is asked to, and takes them the next time."""
    model, cache = case.world.small(), case.dir / "cache-run"
    argv = ["run", "-m", model, "-p", "hello there", "-n", "16", "--temp", "0", "--ignore-eos",
            "--cache-dir", cache]
    text = case.succeed(*argv)
    assert not packed(cache)
    argv += ["--keep-packed", "on"]
    assert case.succeed(*argv) == text
    before = packed(cache)
    assert before and not pieces(cache)
    assert case.succeed(*argv) == text
    after = packed(cache)
    assert {p: s.st_mtime_ns for p, s in after.items()} == \
        {p: s.st_mtime_ns for p, s in before.items()}, "a file was written again"
    for path, stat in before.items():
        os.truncate(path, stat.st_size // 2)
    assert case.succeed(*argv) == text
    assert {p: s.st_size for p, s in packed(cache).items()} == \
        {p: s.st_size for p, s in before.items()}
    # No place for a cache is no reason not to run.
    nowhere = case.dir / "a file"
    nowhere.write_text("")
    assert case.succeed(*argv, "--cache-dir", nowhere) == text


def test_text_as_local(case):
    """What arrives over HTTP from three machines is what `caravan run` writes on one."""
    c = Cluster(case, case.world.small()).start()
    expected = case.generate(case.world.small(), n=64)
    assert c.complete(64) == expected.decode("utf-8", "replace")
    found = case.succeed("run", "--server", f"http://127.0.0.1:{c.http_port}", "-p", "hello there",
                         "-n", "64", "--temp", "0", "--ignore-eos")
    assert found.decode("utf-8", "replace") == expected.decode("utf-8", "replace")


def test_logits_as_local(case):
    model, ids = case.world.small(), "1 5 9 200 13"
    c = Cluster(case, model).start()
    near, far = case.dir / "near", case.dir / "far"
    case.succeed("eval", "-m", model, "--ids", ids, "--logits", near)
    case.succeed("eval", "--server", f"http://127.0.0.1:{c.http_port}", "--ids", ids, "--logits",
                 far)
    assert near.read_bytes() == far.read_bytes()


def test_many_requests(case):
    """Requests at the same time get the texts that they get alone."""
    c = Cluster(case, case.world.small()).start()
    prompts = [f"prompt number {i}, {'long ' * (5 * i)}" for i in range(8)]
    alone = [c.complete(40, prompt) for prompt in prompts]
    assert len(set(alone)) == len(prompts)
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        for _ in range(2):
            together = list(pool.map(lambda prompt: c.complete(40, prompt), prompts))
            assert together == alone


def test_sequences_share_stages(case):
    """As many sequences as stages generate at the same time; one that is abandoned makes room."""
    c = Cluster(case, case.world.small()).start()
    text = c.complete()
    streams = [Stream(c, 40000) for _ in range(3)]
    for stream in streams:
        assert "choices" in stream.next()
    assert c.status()["active"] >= 3
    assert c.complete() == text, "another text beside three long requests"
    for stream in streams:
        stream.close()
    case.until(lambda: c.status()["active"] == 0, "abandoned requests to end")
    assert c.complete() == text


def test_status(case):
    """`caravan status` names the workers and their layers."""
    c = Cluster(case, case.world.small()).start()
    shown = case.succeed("status", "--server", f"http://127.0.0.1:{c.http_port}").decode()
    for name in ("w1", "w2", "w3", "ready"):
        assert name in shown, shown
    assert "caches:" not in shown, shown


def test_interrupted_transfer(case):
    """A worker that dies while it fetches goes on where it stopped."""
    c = Cluster(case, case.world.large(), workers=1)
    c.start_server()
    worker = c.start_worker(1)
    cache = c.cache(1)
    case.until(lambda: len(list(cache.glob("pieces/*/*.piece"))) > 8 and
               list(cache.glob("pieces/*/*.part")), "a transfer in the middle")
    worker.kill()
    whole, ready = pieces(cache), packed(cache)
    there = sum(s.st_size for s in [*whole.values(), *ready.values()])
    # Half of a piece, as a death in the middle of it leaves behind.
    half = max(whole, key=lambda path: whole[path].st_size)
    size = whole.pop(half).st_size
    part = half.with_suffix(".part")
    half.rename(part)
    os.truncate(part, size // 2)
    c.start_worker(1)
    c.wait_ready()
    after = pieces(cache) | packed(cache)
    assert not list(cache.glob("*/*/*.part")), "a part is left"
    for path, was in (whole | ready).items():
        # Pieces whose weight is packed now are no longer there.
        assert path not in after and path in whole or after[path].st_ino == was.st_ino and \
            after[path].st_mtime_ns == was.st_mtime_ns, "a file that was there was written again"
    total = sum(s.st_size for s in after.values())
    written = c.workers[1].written_bytes()
    assert written < total - there + size // 2 + MEGABYTE, \
        f"{written} bytes written; {there} of {total} were there, a half of {size} among them"
    assert c.complete() == Cluster(case, c.model, workers=1).start().complete()


def test_shared_cache(case):
    """Workers of one machine may share a cache."""
    c = Cluster(case, case.world.model("llama4-maverick-tiny", "Q8_0"))
    c.cache = lambda i: case.dir / "cache-server"
    c.start()
    assert c.complete() == Cluster(case, c.model, workers=1).start().complete()


def test_damaged_piece(case):
    """A piece, or a packed weight, whose bytes rotted on the disk is fetched again."""
    c = Cluster(case, case.world.small(), workers=1).start()
    text = c.complete()
    c.workers[1].stop()
    for files in pieces(c.cache(1)), packed(c.cache(1)):
        path = max(files, key=lambda p: files[p].st_size)
        path.chmod(0o600)
        with open(path, "r+b") as f:
            f.seek(files[path].st_size // 2)
            f.write(b"rotten")
    c.start_worker(1)
    c.wait_ready()
    assert c.complete() == text
    pieces(c.cache(1))
