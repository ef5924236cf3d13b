# SPDX-License-Identifier: Apache-2.0
"""The demo model (tests/demo) makes sense: it answers what it was never trained on, tells stories
that hold together, and says the same however it is split.
"""
import json
import pathlib
import sys

from cluster import Cluster, text_of

DEMO = pathlib.Path(__file__).resolve().parents[1] / "demo"
MODEL = DEMO / "caravan-demo.gguf"
STARTS = "One cold morning the", "On a windy day the", "It was a", "The animals had"
sys.path.append(str(DEMO))
import world  # noqa: E402


def questions():
    return [world.Question(**json.loads(line))
            for line in (DEMO / "questions.jsonl").read_text().splitlines()]


def answers(case, workers, asked):
    cluster = Cluster(case, MODEL, workers=workers).start()
    found = []
    for question in asked:
        status, answer = cluster.request("POST", "/v1/chat/completions", {
            "messages": [{"role": "user", "content": question.text}], "max_tokens": 48,
            "temperature": 0})
        assert status == 200, answer
        found.append(answer["choices"][0]["message"]["content"])
    return found


def test_questions_are_held_out(case):
    """What training had is drawn again here, in part."""
    asked = questions()
    assert len({question.text for question in asked}) == 100
    assert all(world.is_held_out(key) for question in asked for key in question.keys)
    trained = {text for passage in world.passages(5000, 1) for role, text in passage}
    for question in asked:
        assert question.text not in trained, question.text


def test_answers(case):
    asked = questions()
    found = answers(case, 1, asked)
    wrong = [f"{q.text} -> {text} (expected {q.answer})" for q, text in zip(asked, found)
             if text != q.answer]
    assert len(wrong) <= 10, f"{len(wrong)} of {len(asked)} are wrong:\n" + "\n".join(wrong)
    some = slice(None, None, 5 if case.world.sanitized else 1)
    assert answers(case, 3, asked[some]) == found[some]


def test_conversation(case):
    """A story that the model tells, and a question about it, split by layers and by experts."""
    path = case.dir / "messages"
    path.write_text("Tell me a story about Luma.\nWhere does Luma sleep?\nWhat is 7 plus 5?\n")
    outs = []
    for split in "layers", "experts":
        with open(path, "rb") as stdin:
            outs.append(text_of(case.succeed("run", "-m", MODEL, "--temp", "0", "--local-workers",
                                             "3", "--split", split, stdin=stdin)))
    out = outs[0]
    assert outs[1] == out
    story, *rest = out.splitlines()
    sentences, slips = world.slips(story)
    assert "Luma" in story and len(sentences) >= 4 and not slips, story
    assert rest == ["Luma sleeps by the fire.", "7 plus 5 is 12."], out


def test_stories(case):
    """Its sentences are the grammar's, and do not contradict what was told before."""
    told, slipped = [], []
    for seed in range(8 if case.world.sanitized else 24):
        start = STARTS[seed % len(STARTS)]
        temperature = "0" if seed < len(STARTS) else "0.7"
        text = start + text_of(case.succeed("run", "-m", MODEL, "-p", start, "--temp", temperature,
                                            "--seed", str(seed)))
        sentences, slips = world.slips(text)
        assert len(sentences) >= 3, f"{text!r} is no story"
        told, slipped = told + sentences, slipped + slips
    assert len(slipped) <= len(told) / 10, f"{len(slipped)} of {len(told)} sentences: {slipped}"
