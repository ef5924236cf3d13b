# SPDX-License-Identifier: Apache-2.0
"""Every architecture and every block type: one worker or one for each layer, a row or a prompt at a
time, the logits are the same bytes. That they are the right ones is tests/worker/test_golden.c's
matter, whose cases these are.
"""
import json
import pathlib
import re

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"


def cases(folder):
    """(folder of a case, case), in the order of names."""
    return [(path.parent, json.loads(path.read_text()))
            for path in sorted((GOLDEN / folder).glob("*/case.json"))]


def shortest(found):
    """One case of each preset."""
    presets = {}
    for folder, golden in sorted(found, key=lambda entry: len(entry[1]["tokens"])):
        presets.setdefault(golden["preset"], (folder, golden))
    return list(presets.values())


def n_layers(case, model):
    shown = case.succeed("inspect", model).decode()
    blocks, skipped = (re.search(rf"\.{key}\s+(\d+)", shown)
                       for key in ("block_count", "nextn_predict_layers"))
    return int(blocks.group(1)) - (int(skipped.group(1)) if skipped else 0)


def logits(case, model, ids, workers, batch):
    path = case.dir / "logits"
    case.succeed("eval", "-m", model, "--ids", " ".join(map(str, ids)), "--logits", path, "--batch",
                 str(batch), "--local-workers", str(workers), "-t", "1")
    return path.read_bytes()


def check(case, name, model, golden):
    """Complaints about a model."""
    ids, many = golden["tokens"], n_layers(case, model)
    rows = logits(case, model, ids, 1, 512)
    wrong = []
    if len(rows) != len(ids) * golden["vocab"] * 4:
        wrong.append(f"{name}: {len(rows)} bytes of logits")
    for workers, batch in ((1, 1), (many, 512), (many, 1)):
        if logits(case, model, ids, workers, batch) != rows:
            wrong.append(f"{name}: other logits with {workers} workers and --batch {batch}")
    return wrong


def test_made(case):
    """Models of mkmodel; one of each preset where processes start slowly."""
    wrong = []
    found = cases("cases")
    for folder, golden in shortest(found) if case.world.sanitized else found:
        model = case.world.model(golden["preset"], golden["type"], seed=golden["seed"],
                                 **golden["set"])
        wrong += check(case, folder.name, model, golden)
    assert not wrong, "\n".join(wrong)


def test_in_files(case):
    wrong = []
    for folder, golden in cases("models"):
        wrong += check(case, folder.name, folder / "model.gguf", golden)
    assert not wrong, "\n".join(wrong)
