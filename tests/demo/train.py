#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the demo model, on a CPU or a GPU, and writes checkpoints to a folder; started again, it
goes on from the last one. Needs PyTorch (on Debian: apt-get install python3-torch, run with
/usr/bin/python3).

usage: train.py FOLDER [--seed S] [--threads N] [--pause-after MINUTES]
"""
import argparse
import json
import os
import pathlib
import platform
import random
import shutil
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f"train.py: {error}: install PyTorch (Debian: apt-get install python3-torch) and run "
             "this with /usr/bin/python3")

import model as architecture
import tokeniser
import world

N_TOKENS = 1024          # of the vocabulary
BATCH_TOKENS = 2048      # positions of a batch, about
WEIGHTS = 0.3, 1.0       # of what the model reads of a chat, and of texts; answers count 1
LATE_WEIGHTS = 0.05, 0.3 # the same from ASK_FROM on
BALANCE = 0.01           # weight of the loss of uneven experts
# (step, rate of learning); between these it goes straight.
RATES = [(-1, 0.0), (99, 2.5e-3), (100, 2.5e-3), (1050, 2.0162e-3), (2800, 5e-5), (2800, 1e-3),
         (3250, 5e-5)]
STEPS = RATES[-1][0]
ASK_FROM = 1700          # the step from which answers weigh more
PASSAGES, LATE_FROM = 84000, 38912
CHECKPOINT_EVERY = 50
DISK_BYTES = 200 << 20


def prepare(folder, options):
    """The tokeniser, trained once, and the passages as ids."""
    path = folder / "merges.json"
    if not path.exists():
        passages = world.passages(PASSAGES, options.seed)
        texts = (part for passage in passages for turn in passage for part in (*turn, "\n\n"))
        path.write_text(json.dumps(tokeniser.train(texts, N_TOKENS)))
    words = tokeniser.Tokeniser(json.loads(path.read_text()))
    passages = world.passages(PASSAGES, options.seed, LATE_FROM)
    return words, [words.passage(passage) for passage in passages]


def batches(encoded, seed):
    """Lists of passages of about one length, in about the order of the passages."""
    rng, found = random.Random(seed), []
    for start in range(0, len(encoded), 1024):
        batch, near = [], []
        for passage in sorted(encoded[start:start + 1024], key=lambda passage: len(passage[0])):
            if batch and (len(batch) + 1) * len(passage[0]) > BATCH_TOKENS:
                near.append(batch)
                batch = []
            batch.append(passage)
        near.append(batch)
        rng.shuffle(near)
        found += near
    return found


def tensors_of(batch, device, read, texts):
    """[passages, positions]: ids, weights of their losses, which are the model's, which are real"""
    shape = len(batch), max(len(ids) for ids, _ in batch)
    ids, weights = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
    own, real = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for row, (passage, mine) in enumerate(batch):
        n = len(passage)
        ids[row, :n], real[row, :n] = torch.tensor(passage), True
        own[row, :n] = torch.tensor(mine, dtype=torch.float)
        weights[row, :n] = own[row, :n].clamp(min=read if any(mine) else texts)
    return [x.to(device) for x in (ids, weights, own, real)]


def losses(model, batch, device, weights=WEIGHTS):
    """(mean loss with weights, unevenness, mean loss of answers, tokens an expert)"""
    ids, weights, own, real = tensors_of(batch, device, *weights)
    logits, uneven, used = model(ids, real)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights, own = weights[:, 1:].flatten(), own[:, 1:].flatten()
    return ((loss * weights).sum() / weights.sum(), uneven,
            (loss * own).sum() / own.sum().clamp(min=1), used)


def rate_of(step):
    for (first, before), (last, after) in zip(RATES, RATES[1:]):
        if step < last:
            return before + (after - before) * (step - first) / (last - first)
    return RATES[-1][1]


def save(path, state):
    """Whole or not at all."""
    torch.save(state, str(path) + ".part")
    os.replace(str(path) + ".part", path)


def train(folder, options):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words, encoded = prepare(folder, options)
    plan = batches(encoded, options.seed)
    model = architecture.Model(len(words.tokens), options.seed).to(device)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05},
                                   {"params": vectors, "weight_decay": 0.0}],
                                  lr=RATES[0][1], betas=(0.9, 0.97))
    path, first, spent = folder / "checkpoint.pt", 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=device)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, spent = state["step"], state["seconds"]
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(encoded)} passages, "
          f"{sum(len(ids) for ids, _ in encoded)} tokens, {STEPS} of {len(plan)} steps "
          f"from {first}, {device}",
          flush=True)
    began, smooth, smooth_own, used_by = time.time(), None, None, 0
    for step in range(first, STEPS):
        for group in optimiser.param_groups:
            group["lr"] = rate_of(step)
        loss, uneven, own, used = losses(
            model, plan[step], device, WEIGHTS if step < ASK_FROM else LATE_WEIGHTS)
        optimiser.zero_grad(set_to_none=True)
        (loss + BALANCE * uneven).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        smooth_own = own.item() if smooth_own is None else 0.98 * smooth_own + 0.02 * own.item()
        used_by = used + 0.98 * used_by
        seconds = spent + time.time() - began
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == STEPS:
            share = used_by / used_by.sum(1, keepdim=True)
            print(f"step {step + 1} loss {smooth:.4f} own {smooth_own:.4f} experts "
                  f"{share.min():.3f} to {share.max():.3f} {seconds:.0f} s", flush=True)
            save(path, {"model": model.state_dict(), "optimiser": optimiser.state_dict(),
                        "step": step + 1, "seconds": seconds, "loss": smooth, "own": smooth_own,
                        "options": vars(options), "device": device,
                        "torch": torch.__version__, "python": platform.python_version()})
        if time.time() - began > options.pause_after * 60:
            break


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].strip())
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pause-after", type=float, default=float("inf"))
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(options.folder).free < DISK_BYTES:
            sys.exit(f"train.py: {options.folder} has less than {DISK_BYTES >> 20} MB free; give a "
                     "folder on another disk")
        train(options.folder, options)
    except OSError as error:
        sys.exit(f"train.py: {error}; expected a folder to write checkpoints to")


if __name__ == "__main__":
    main()
