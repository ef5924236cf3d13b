# SPDX-License-Identifier: Apache-2.0
"""Experts that are chosen more often than others get copies, by what was counted."""
from test_decide import Apart
from test_survey import surveyed


def copied(status):
    """{layer: experts that two workers or more hold}."""
    holders = {}
    for part in status["parts"]:
        for layer in range(part["layer_first"], part["layer_end"]):
            for expert in range(part["first"], part["end"]):
                holders.setdefault((layer, expert), set()).add(part["worker"])
    return {key for key, workers in holders.items() if len(workers) > 1}


def popular(case):
    """One layer of experts that no machine has room for, on a stage and two hosts."""
    model = case.world.model("qwen3moe-k", "F32", layers=1, experts=16, used=2, ffe=4096)
    return Apart(case, model, workers=3, options=["--ctx", "512", "--rebalance-gain", "0"],
                 worker_options=["--memory", "0.14"])


def test_copies_follow_usage(case):
    """The cluster looks for a better plan when it has counted, and is quiet."""
    c = popular(case).start()
    surveyed(case, c, 3)
    assert not copied(c.status()), c.status()["parts"]
    before = c.status()["epoch"]
    text = c.complete(200)
    case.until(lambda: copied(c.status()), "copies of experts")
    status = c.status()
    assert status["epoch"] > before
    [usage] = status["expert_usage"]
    mean = sum(usage["rows"]) / len(usage["rows"])
    for _, expert in copied(status):
        assert usage["rows"][expert] > mean, (usage, copied(status))
    assert c.complete(200) == text
