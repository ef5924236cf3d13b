# SPDX-License-Identifier: Apache-2.0
"""Workers over TCP: weights travel into caches, requests share the stages."""
import concurrent.futures
import os
import pathlib
import shutil
import subprocess

from cluster import Cluster, Skip, Stream, pieces

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
    before = {i: pieces(c.cache(i)) for i in c.workers}
    assert all(before.values()), "a worker has no pieces"
    for process in [c.server, *c.workers.values()]:
        assert process.stop() == 0, f"{process.name} did not end well"
    c.start()
    assert c.complete() == text
    for i in c.workers:
        after = pieces(c.cache(i))
        assert before[i].keys() <= after.keys()
        assert all(after[p].st_mtime_ns == s.st_mtime_ns for p, s in before[i].items()), \
            "a piece was written again"


def test_second_start_fetches_nothing(case):
    c = Cluster(case, case.world.large(), workers=1).start()
    first = c.workers[1].written_bytes()
    assert first > 100 * MEGABYTE, f"{first} bytes written at the first start"
    c.workers[1].stop()
    c.start_worker(1)
    c.wait_ready()
    again = c.workers[1].written_bytes()
    assert again < MEGABYTE, f"{again} bytes written at the second start"


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


def test_interrupted_transfer(case):
    """A worker that dies while it fetches goes on where it stopped."""
    c = Cluster(case, case.world.large(), workers=1)
    c.start_server()
    worker = c.start_worker(1)
    cache = c.cache(1)
    case.until(lambda: len(list(cache.glob("pieces/*/*.piece"))) > 8 and
               list(cache.glob("pieces/*/*.part")), "a transfer in the middle")
    worker.kill()
    whole = pieces(cache)
    there = sum(s.st_size for s in whole.values())
    # Half of a piece, as a death in the middle of it leaves behind.
    half = max(whole, key=lambda path: whole[path].st_size)
    size = whole.pop(half).st_size
    part = half.with_suffix(".part")
    half.rename(part)
    os.truncate(part, size // 2)
    c.start_worker(1)
    c.wait_ready()
    after = pieces(cache)
    assert not list(cache.glob("pieces/*/*.part")), "a part is left"
    for path, was in whole.items():
        assert after[path].st_ino == was.st_ino and after[path].st_mtime_ns == was.st_mtime_ns, \
            "a piece that was there was written again"
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
    """A piece whose bytes rotted on the disk is fetched again."""
    c = Cluster(case, case.world.small(), workers=1).start()
    text = c.complete()
    c.workers[1].stop()
    path, size = next((p, s.st_size) for p, s in pieces(c.cache(1)).items() if s.st_size > 1000)
    path.chmod(0o600)
    with open(path, "r+b") as f:
        f.seek(size // 2)
        f.write(b"rotten")
    c.start_worker(1)
    c.wait_ready()
    assert c.complete() == text
    pieces(c.cache(1))


def small_disk(folder, megabytes):
    """The start of a command line that runs a program with a full disk mounted on folder."""
    for unshare in (["unshare", "-m"], ["unshare", "-Urm"]):
        argv = unshare + ["sh", "-c", f"mount -t tmpfs -o size={megabytes}m tmpfs '{folder}' && "
                                      'exec "$@"', "sh"]
        if shutil.which("unshare") and subprocess.run(argv + ["true"], check=False,
                                                      capture_output=True).returncode == 0:
            return argv
    raise Skip("no small disk can be mounted here")


def test_full_disk(case):
    """A worker whose cache does not fit says so; the coordinator says who and why."""
    c = Cluster(case, case.world.large(), workers=2)
    c.cache(2).mkdir()
    prefix = small_disk(c.cache(2), 20)
    c.start_server()
    c.start_worker(1)
    c.workers[2] = case.start("w2", prefix + c.worker_argv(2))
    assert c.server.wait() == 1
    last = c.server.err().strip().splitlines()[-1]
    for word in ('worker "w2"', "disk", str(c.cache(2))):
        assert word in last, last
    said = c.workers[2].wait_for("WORKER-LOAD-FAILED.*").group(0)
    assert str(c.cache(2)) in said, said
    assert c.workers[2].running(), "the worker gave up for ever"
    mounted = pathlib.Path(f"/proc/{c.workers[2].pid}/root{c.cache(2)}")
    pieces(mounted)
