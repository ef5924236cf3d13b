# SPDX-License-Identifier: Apache-2.0
"""What cannot work is refused with one line that says what to do, and leaves nothing behind."""
import os
import re
import socket
import struct

from cluster import Cluster, change_token, free_port

SECRET_AT, SECRET_BYTES = 32, 32  # in a token, after the cluster's public key


# ---- tokens and keys ----

def start_open_cluster(case):
    """A cluster of two that serves, and a port where strangers may try."""
    c = Cluster(case, case.world.small(), workers=2)
    return c.start()


def check_refused(c, argv, *words):
    """The worker ends with one line and knows nothing of the model."""
    result = c.case.run(argv, c.case.world.patience_s)
    result.fails_with(*words)
    assert "llama" not in result.err and not result.out, result.err


def test_token_of_another_cluster(case):
    c = start_open_cluster(case)
    c.key = case.dir / "other.key"
    other = case.succeed("keygen", "--address", f"127.0.0.1:{c.port}", "--out", c.key)
    check_refused(c, c.worker_argv(9, other.decode().strip()), "key", "caravan keygen")
    assert c.complete() and c.status()["epoch"] == 1


def test_token_with_wrong_secret(case):
    c = start_open_cluster(case)
    token = change_token(c.token, SECRET_AT, SECRET_BYTES)
    check_refused(c, c.worker_argv(9, token), "token", "caravan keygen")
    assert c.complete() and c.status()["epoch"] == 1
    assert len(c.status()["workers"]) == 2, "the refused worker is on the list"


def test_token_cut(case):
    c = start_open_cluster(case)
    for token in (c.token[:-5], c.token[:20], "caravan1-", "nonsense", ""):
        check_refused(c, c.worker_argv(9, token), "token", "keygen")


def test_token_file(case):
    c = Cluster(case, case.world.small(), workers=1)
    check_refused(c, c.worker_argv(9, f"@{case.dir}/none"), str(case.dir / "none"))
    empty = case.dir / "empty"
    empty.touch()
    check_refused(c, c.worker_argv(9, f"@{empty}"), "--token")


def test_same_key_twice(case):
    """A second worker with the key of one that lives is refused; the first goes on."""
    c = start_open_cluster(case)
    check_refused(c, c.worker_argv(1), "same key", "--key-file", '"w1"')
    assert c.complete() and c.status()["epoch"] == 1


def test_same_name_twice(case):
    """Two machines of the same name are told apart."""
    c = Cluster(case, case.world.small(), workers=2)
    c.start_server()
    c.start_worker(1)
    argv = c.worker_argv(2)
    argv[argv.index("--name") + 1] = "w1"
    case.start("w1-again", argv)
    c.wait_ready()
    assert sorted(w["name"] for w in c.status()["workers"]) == ["w1", "w1-2"]


def test_coordinator_that_is_not_there(case):
    """A worker waits for its coordinator and says so."""
    c = Cluster(case, case.world.small(), workers=1)
    worker = c.start_worker(1)
    worker.wait_for("WORKER-WAITING")
    c.start_server()
    c.wait_ready()


# ---- models ----

def check_bad_model(case, path, *words):
    """Every command that opens a model refuses this one, and no output appears."""
    out = case.dir / "logits"
    case.caravan("eval", "-m", path, "--ids", "1 2", "--logits", out).fails_with(*words)
    case.caravan("run", "-m", path, "-p", "a", "-n", "2").fails_with(*words)
    case.caravan("serve", "-m", path, "--listen", "127.0.0.1:0").fails_with(*words)
    case.caravan("inspect", path).fails_with(*words)
    left = [p.name for p in case.dir.iterdir() if p.name.startswith("logits")]
    assert not left, left


def edited(case, name, edit):
    """A copy of the small model with other bytes."""
    data = bytearray(case.world.small().read_bytes())
    path = case.dir / name
    path.write_bytes(edit(data) or data)
    return path


def set_type(data, tensor, type_):
    at = data.index(tensor) + len(tensor)
    dims = struct.unpack_from("<I", data, at)[0]
    struct.pack_into("<I", data, at + 4 + 8 * dims, type_)


def replace(data, old, new):
    assert len(old) == len(new) and old in data
    data[:] = data.replace(old, new, 1)


def test_truncated_model(case):
    whole = len(case.world.small().read_bytes())
    for keep in (whole - 100000, 5000, 20, 3):
        path = edited(case, f"cut-{keep}.gguf", lambda data, keep=keep: data[:keep])
        check_bad_model(case, path, path.name)


def test_empty_model(case):
    path = edited(case, "empty.gguf", lambda data: data.clear())
    check_bad_model(case, path, path.name)


def test_missing_model(case):
    check_bad_model(case, case.dir / "none.gguf", "none.gguf", "No such file")
    check_bad_model(case, case.dir, case.dir.name)


def test_not_a_model(case):
    path = edited(case, "other.gguf", lambda data: replace(data, b"GGUF", b"GIF8"))
    check_bad_model(case, path, "other.gguf", "GGUF")


def test_unknown_architecture(case):
    value = struct.pack("<Q", 5)
    path = edited(case, "arch.gguf",
                  lambda data: replace(data, value + b"llama", value + b"lammy"))
    check_bad_model(case, path, "lammy", "llama4")


def test_unknown_type(case):
    for type_ in (99, 16):
        path = edited(case, f"type-{type_}.gguf",
                      lambda data, type_=type_: set_type(data, b"blk.0.attn_q.weight", type_))
        check_bad_model(case, path, path.name, "blk.0.attn_q.weight")


def test_missing_metadata(case):
    path = edited(case, "meta.gguf", lambda data: replace(data, b"llama.block_count",
                                                          b"llama.block_c0unt"))
    check_bad_model(case, path, "llama.block_count")


def test_missing_tensor(case):
    path = edited(case, "tensor.gguf",
                  lambda data: replace(data, b"blk.2.attn_k.weight", b"blk.2.attn_x.weight"))
    check_bad_model(case, path, "blk.2.attn_k.weight")


def test_wrong_shape(case):
    def turn(data):
        at = data.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4
        width, height = struct.unpack_from("<QQ", data, at)
        struct.pack_into("<QQ", data, at, height, width)
    path = edited(case, "shape.gguf", turn)
    check_bad_model(case, path, "blk.1.ffn_up.weight")


def test_model_that_does_not_fit(case):
    """Too little memory: the coordinator says how much is missing."""
    c = Cluster(case, case.world.large(), workers=2, worker_options=["--memory", "0.02"])
    c.start_server()
    c.start_worker(1)
    c.start_worker(2)
    assert c.server.wait() == 1
    lines = c.server.err().strip().splitlines()
    assert lines[-1].startswith("caravan serve:"), lines
    for word in ("memory", "missing"):
        assert word in lines[-1], lines[-1]
    assert len(lines) == 1, lines


def test_layers_that_do_not_fit(case):
    model = case.world.small()
    for layers, workers in (("0-2", 1), ("0-2,4-5", 2), ("0-2,3-9", 2), ("x", 1), ("", 1),
                            ("3-5,0-2", 2), ("0-5,0-5", 2)):
        result = case.caravan("run", "-m", model, "-p", "a", "-n", "1", "--local-workers",
                              str(workers), "--layers", layers)
        lines = [line for line in result.err.splitlines() if line.startswith("caravan")]
        assert result.status == 1 and len(lines) == 1 and "layers" in lines[0], \
            (layers, result.status, result.err)
        assert not result.out


# ---- prompts ----

def check_prompt(case, *args):
    result = case.caravan("run", "-m", case.world.small(), "-n", "4", *args)
    lines = [line for line in result.err.splitlines() if line.startswith("caravan")]
    assert result.status == 1 and len(lines) == 1 and not result.out, result.err
    return lines[0]


def test_prompt_too_long(case):
    line = check_prompt(case, "-c", "16", "-p", "a word " * 20)
    assert "context is 16" in line, line
    text = case.dir / "long"
    text.write_text("a b c d e f g " * 20000)
    line = check_prompt(case, "-f", str(text))
    assert "context is 65536" in line, line
    c = Cluster(case, case.world.small(), workers=0, options=["--local-workers", "1", "-c", "16"])
    c.start_server()
    c.wait_ready()
    words = "a word " * 20
    for path, field, value in (("/v1/completions", "prompt", words),
                               ("/v1/chat/completions", "messages",
                                [{"role": "user", "content": words}])):
        for stream in (False, True):
            status, answer = c.request("POST", path, {field: value, "stream": stream})
            assert status == 400, (status, answer)
            error = answer["error"]
            assert re.search(r"prompt has \d+ tokens.*context is 16", error["message"]), error
            assert error["param"] == field and error["code"] == "context_length_exceeded", error
    # What is asked for beyond the context ends with it.
    status, answer = c.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 10000,
                                                           "ignore_eos": True})
    assert status == 200 and answer["choices"][0]["finish_reason"] == "length", answer
    assert answer["usage"]["total_tokens"] == 16, answer


def test_ctx_beyond_model(case):
    line = check_prompt(case, "-c", "70000", "-p", "a")
    assert "70000" in line and "65536" in line, line


def recommended_ctx(result_err):
    lines = [line for line in result_err.splitlines() if line.startswith("caravan")]
    assert len(lines) == 1, result_err
    found = re.search(r"needs [\d.]+ [GM]iB .* offer [\d.]+ [GM]iB: [\d.]+ [GM]iB are missing; "
                      r"lower the context \(--ctx (\d+) would fit\)", lines[0])
    assert found, lines[0]
    return int(found.group(1))


def test_ctx_beyond_memory(case):
    """The line says what is needed, what there is, and which context fits; that one does."""
    model = case.world.model("llama3-tiny", "F32", layers=6, ctx=60000000)
    for args in (["run", "-p", "a"], ["run", "-p", "a", "--local-workers", "3"],
                 ["serve", "--listen", "127.0.0.1:0"],
                 ["serve", "--listen", "127.0.0.1:0", "--local-workers", "3", "--parallel", "4096"]):
        result = case.caravan(*args, "-m", model, "--ctx", "60000000")
        assert result.status == 1 and not result.out, result.err
        assert 0 < recommended_ctx(result.err) < 60000000
    for ctx in ("10000000000", "67108865", "0", "-1"):
        case.caravan("run", "-p", "a", "-m", model, "--ctx", ctx).fails_with(
            f"--ctx {ctx}", "67108864", status=2, lines=2)
    c = Cluster(case, model, workers=2, worker_options=["--memory", "0.006"],
                options=["--ctx", "100000"])
    c.start_server()
    c.start_worker(1)
    c.start_worker(2)
    assert c.server.wait() == 1
    ctx = recommended_ctx(c.server.err())
    assert 32 <= ctx < 100000, ctx
    c.options[-1] = str(ctx)
    c.start_server()
    c.wait_ready()
    # All sequences may be as long as that at once.
    ids = [1] * (ctx - 2)
    status, answer = c.request("POST", "/v1/completions", {
        "prompt": [ids] * 4, "max_tokens": 9, "ignore_eos": True})
    assert status == 200, answer
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 4
    assert answer["usage"]["completion_tokens"] == 8, answer["usage"]
    assert len(c.status()["workers"]) == 2 and c.status()["epoch"] == 1


def test_ids_out_of_range(case):
    out = case.dir / "logits"
    def evaluate(ids):
        return case.caravan("eval", "-m", case.world.small(), "--ids", ids, "--logits", out)
    result = evaluate("1 2 512")
    assert result.status == 1 and "512" in result.err and "511" in result.err, result.err
    for ids in ("-1", "1 x", "1 99999999999", "", "1.5"):
        result = evaluate(ids)
        assert result.status == 1 and "--ids" in result.err, (ids, result.err)
    left = [p.name for p in case.dir.iterdir() if p.name.startswith("logits")]
    assert not left, left


def test_output_that_cannot_be_written(case):
    out = case.dir / "nowhere" / "logits"
    result = case.caravan("eval", "-m", case.world.small(), "--ids", "1", "--logits", out)
    assert result.status == 1 and str(out) in result.err, result.err


def test_output_into_a_pipe(case):
    """A pipe is written, not replaced by a file."""
    pipe = case.dir / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    result = case.caravan("eval", "-m", case.world.small(), "--ids", "1", "--logits", pipe)
    assert result.status == 0, result.err
    assert pipe.is_fifo() and len(os.read(reader, 1 << 20)) > 0
    os.close(reader)


def test_options(case):
    """Wrong options: what was wrong, and where to read more."""
    model = str(case.world.small())
    for args, word in ((["run", "--nonsense"], "--nonsense"),
                       (["run", "-m", model, "-n", "x"], "-n"),
                       (["run", "-m", model, "-n"], "-n"),
                       (["run", "-m", model, "stray"], "stray"),
                       (["run", "-m", model, "-p", "a", "--temp", "-1"], "--temp"),
                       (["eval", "-m", model, "--kv", "f64"], "--kv"),
                       (["eval", "-m", model, "--batch", "0"], "--batch"),
                       (["serve", "-m", model, "--local-workers", "-2"], "--local-workers")):
        result = case.caravan(*args)
        lines = result.err.strip().splitlines()
        assert result.status == 2 and word in lines[0] and len(lines) <= 2, (args, result.err)
        assert not result.out
    for args, word in ((["--nonsense"], "--nonsense"), (["stray"], "stray"),
                       (["--join", "a:1"], "--token"), (["--threads", "0"], "--threads"),
                       (["--memory", "none"], "--memory"), (["--log", "loud"], "--log")):
        result = case.run([case.world.worker, *args])
        lines = result.err.strip().splitlines()
        assert result.status == 2 and word in lines[0] and len(lines) <= 2, (args, result.err)


def test_unknown_command(case):
    result = case.caravan("nonsense")
    assert result.status == 2 and "nonsense" in result.err.splitlines()[0], result.err
    assert "caravan COMMAND" in result.err and not result.out


def test_no_model_and_no_worker(case):
    case.caravan("run", "-p", "a").fails_with("-m")
    case.caravan("serve").fails_with("-m")
    case.caravan("run", "-m", case.world.small(), "-p", "a", "--local-workers",
                 "0").fails_with("--local-workers")
    case.caravan("run", "-m", case.world.small(), "-p", "a", "--workers",
                 "2").fails_with("caravan keygen")


def test_keygen_keeps_keys(case):
    """Keys that exist are not replaced, and are their owner's alone."""
    key = case.dir / "cluster.key"
    case.succeed("keygen", "--out", key)
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    case.caravan("keygen", "--out", key).fails_with(str(key), "--force")
    assert key.read_bytes() == before
    key.chmod(0o644)
    case.caravan("run", "-m", case.world.small(), "-p", "a", "--workers", "1", "--worker-listen",
                 "127.0.0.1:0", "--cluster-key", key).fails_with("chmod")


# ---- ports ----

def test_port_taken(case):
    """HTTP's port, the port where workers join, a worker's own port."""
    c = Cluster(case, case.world.small(), workers=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        address = f"127.0.0.1:{port}"
        serve = ["serve", "-m", c.model, "--workers", "1", "--cluster-key", c.key]
        case.caravan(*serve, "--listen", address).fails_with(address, "another port")
        case.caravan(*serve, "--listen", "127.0.0.1:0", "--worker-listen",
                     address).fails_with(address, "another port")
        check_refused(c, c.worker_argv(1) + ["--listen", address], address, "another port")


def test_address_of_another_machine(case):
    c = Cluster(case, case.world.small(), workers=1)
    serve = ["serve", "-m", c.model, "--workers", "1", "--cluster-key", c.key]
    case.caravan(*serve, "--listen", f"192.0.2.1:{free_port()}").fails_with("192.0.2.1")
    case.caravan(*serve, "--listen", "127.0.0.1:0", "--worker-listen",
                 "192.0.2.1:7000").fails_with("192.0.2.1")
    case.caravan(*serve, "--listen", "nonsense").fails_with("nonsense")


def test_server_that_is_not_there(case):
    port = free_port()
    for command in (["run", "-p", "a"], ["status"], ["eval", "--ids", "1", "--logits", "out"]):
        result = case.caravan(*command, "--server", f"http://127.0.0.1:{port}")
        result.fails_with(f"127.0.0.1:{port}")
    assert not list(case.dir.glob("out*"))
