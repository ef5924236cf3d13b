# SPDX-License-Identifier: Apache-2.0
"""The same bytes whatever the split, the batch and the threads."""
import json
import re

from cluster import Skip

PROMPT = "Three workers read this prompt in pieces, and write on as one would."
IDS = [(37 * i + 11) % 500 + 3 for i in range(45)]

# (local workers, rows of a batch, threads)
PLAIN = (1, 512, 1)
SPLITS = [(1, 1, 2), (1, 7, 1), (2, 7, 2), (2, 512, 1), (3, 1, 1), (3, 512, 2), (5, 7, 1),
          (5, 512, 2)]


def options(split):
    workers, batch, threads = split
    return ["--local-workers", str(workers), "--batch", str(batch), "-t", str(threads)]


def logits(case, model, *args, ids=IDS):
    path = case.dir / "logits"
    case.succeed("eval", "-m", model, "--ids", " ".join(map(str, ids)), "--logits", path, *args)
    return path.read_bytes()


def same_everywhere(case, model, n_vocab=512):
    for isa in case.world.some_isas():
        text = case.generate(model, *options(PLAIN), "--isa", isa, prompt=PROMPT)
        rows = logits(case, model, *options(PLAIN), "--isa", isa)
        assert len(rows) == len(IDS) * n_vocab * 4, f"{len(rows)} bytes of logits"
        for i, split in enumerate(SPLITS[::2] if case.world.sanitized else SPLITS):
            found = logits(case, model, *options(split), "--isa", isa)
            assert found == rows, f"other logits with {isa} and {split}"
            if i % 3 == 0:
                found = case.generate(model, *options(split), "--isa", isa, prompt=PROMPT)
                assert found == text, f"other text with {isa} and {split}: {found} {text}"


def test_dense(case):
    same_everywhere(case, case.world.small())


def test_experts(case):
    same_everywhere(case, case.world.model("llama4-maverick-tiny", "Q8_0"))


def test_k_blocks(case):
    same_everywhere(case, case.world.model("llama4-k", "Q4_K", layers=5))


def test_inputs_of_layers(case):
    """Rows between stages hold more than the residual."""
    same_everywhere(case, case.world.model("gemma4-e-tiny", "F32"))


def test_kv_f16(case):
    model = case.world.small()
    rows = logits(case, model, *options(PLAIN), "--kv", "f16")
    assert rows != logits(case, model, *options(PLAIN)), "--kv f16 changes nothing"
    for split in SPLITS[1::2]:
        found = logits(case, model, *options(split), "--kv", "f16")
        assert found == rows, f"other logits with {split}"


def test_inexact(case):
    """--exact off: the same bits for any threads and cut of the same batches."""
    model = case.world.small()
    # So many that a pipeline of three still reads the prompt in chunks of 64 rows.
    ids = [(37 * i + 11) % 500 + 3 for i in range(600)]
    for isa in case.world.some_isas():
        same = ["--isa", isa, "--batch", "64"]
        off = [*same, "--exact", "off"]
        exact, rows = logits(case, model, *same, ids=ids), logits(case, model, *off, ids=ids)
        # OpenBLAS serves where it is faster.
        assert (rows != exact) == (isa in ("portable", "avx2")), f"--exact off with {isa}"
        for workers, threads in ((1, 2), (2, 1), (3, 2)):
            found = logits(case, model, *off, "--local-workers", str(workers), "-t", str(threads),
                           ids=ids)
            assert found == rows, f"other logits with {isa} and {workers} workers"


def test_layers_by_hand(case):
    """--layers changes who computes what, and no bit."""
    model = case.world.small()
    rows = logits(case, model)
    for layers in ("0-0,1-5", "0-3,4-4,5-5"):
        workers = str(layers.count(",") + 1)
        found = logits(case, model, "--local-workers", workers, "--layers", layers)
        assert found == rows, f"other logits with --layers {layers}"


def test_sampled_text_repeats(case):
    """A seed gives the same text with one worker and with three."""
    argv = ["run", "-m", case.world.small(), "-p", PROMPT, "-n", "40", "--ignore-eos", "--temp",
            "1", "--seed", "5"]
    text = case.succeed(*argv)
    assert case.succeed(*argv, "--local-workers", "3") == text
    assert case.succeed(*argv[:-1], "6") != text, "another seed, the same text"


def test_stories(case):
    """A trained model writes what its reference wrote, however it is split."""
    model = case.world.shared_file("models/stories260K.gguf")
    expected = json.loads(case.world.shared_file("models/stories260K.greedy.json").read_text())
    splits = [(w, b) for w in (1, 2, 3, 5) for b in (1, 7, 512)]
    if case.world.sanitized:
        splits = splits[::4]
    for workers, batch in splits:
        for story in expected:
            found = case.succeed("run", "-m", model, "-p", story["prompt"], "-n",
                                 str(len(story["ids"])), "--temp", "0", "--local-workers",
                                 str(workers), "--batch", str(batch), "-t", "1")
            assert found == story["text"].encode(), \
                f"{workers} workers, batch {batch}, prompt {story['prompt']!r}: {found}"


def test_perplexity(case):
    model = case.world.shared_file("models/stories260K.gguf")
    sample = case.world.shared_file("text/tinystories_sample.txt")
    shown = set()
    for workers in ("1", "3"):
        shown.add(case.succeed("eval", "-m", model, "--perplexity", sample, "-c", "256", "--kv",
                               "f32", "--local-workers", workers))
    assert len(shown) == 1, shown
    value = float(re.search(rb"perplexity: ([0-9.]+)", shown.pop()).group(1))
    assert abs(value - 6.8979) <= 0.0005, value


def test_unknown_isa(case):
    """Every name of --isa works or says that this machine lacks it."""
    every = {"portable", "avx2", "avx512", "amx", "neon", "i8mm"}
    lacking = every - set(case.world.isas())
    for isa in sorted(lacking):
        result = case.caravan("run", "-m", case.world.small(), "-p", "a", "--isa", isa)
        assert result.status == 1 and f"--isa {isa}" in result.err, result.err
    if not lacking:
        raise Skip("this machine has every instruction set")
