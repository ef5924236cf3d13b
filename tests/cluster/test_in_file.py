# SPDX-License-Identifier: Apache-2.0
"""Experts that are more than memory: they stay in the model's file, and are packed as they are
used."""
import os

from test_exact import PROMPT, logits

SHAPES = (["--local-workers", "1"], ["--local-workers", "2"],
          ["--local-workers", "3", "--split", "experts"])
FEW = ["--ctx", "256", "--batch", "64", "-t", "1"]
LITTLE = [*FEW, "--map-experts", "--memory"]


def test_same_bits(case):
    """Of 16 MB of experts a few are in memory at a time."""
    model = case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=16, used=4, ffe=1024)
    rows = logits(case, model, *FEW)
    text = case.generate(model, *FEW, prompt=PROMPT)
    for shape in SHAPES:
        memory = str(0.024 * int(shape[1]))
        assert logits(case, model, *LITTLE, memory, *shape) == rows, shape
        assert case.generate(model, *LITTLE, memory, *shape, prompt=PROMPT) == text, shape


def test_sparse(case):
    """Tensors of more than 2^32 bytes in a file that takes no disk, on workers with little memory
    that map their parts of it."""
    model = case.world.model("llama4-k", "Q4_K", sparse=True, experts=128, ffe=32768, embd=2048,
                             layers=2)
    info = os.stat(model)
    assert info.st_size > 2 * 128 * 3 * 2048 * 32768 * 9 // 16 // 2, info.st_size
    assert info.st_blocks * 512 < info.st_size // 100, "the file is not sparse here"
    refused = case.caravan("run", "-m", model, "-p", "a", "-n", "1", *FEW, "--memory", "2")
    refused.fails_with("memory", "missing")
    out = case.succeed("run", "-m", model, "-p", "a", "-n", "1", "--temp", "0",
                       "--ignore-eos", *LITTLE, "2", "--local-workers", "3")
    assert out.strip() or out == b"", out


def test_refusals(case):
    model = case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=16, used=4, ffe=1024)
    few = case.caravan("run", "-m", model, "-p", "a", "-n", "1", *LITTLE, "0.002")
    few.fails_with("does not fit", "missing")
    case.caravan("run", "-m", model, "-p", "a", "--workers", "2", "--map-experts").fails_with(
        "--map-experts", "local workers", "--workers")
