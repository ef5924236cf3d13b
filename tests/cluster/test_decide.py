# SPDX-License-Identifier: Apache-2.0
"""The plan of a running cluster: chosen by search, explained, compared with the best, replaced."""
import json
import re

from cluster import Cluster, text_of

LAST = re.compile(r"predicted: [\d.]+ tokens/s prefill, [\d.]+ tokens/s decode; bottleneck: .+")


class Apart(Cluster):
    """Workers that say that each has a machine of its own."""

    def worker_argv(self, i, token=None):
        return super().worker_argv(i, token) + ["--machine", f"m{i}"]


def plan(case, c, *options):
    return text_of(case.succeed("plan", "--server", f"http://127.0.0.1:{c.http_port}", *options))


def holders(status):
    return {w["name"] for w in status["workers"] if w["layer_end"] or w["experts"]}


def test_one_machine(case):
    """Workers of one machine are all used, however small the model is."""
    c = Cluster(case, case.world.model("llama3-tiny"), workers=2).start()
    status = c.status()
    assert holders(status) == {"w1", "w2"}, status
    machines = {w["profile"]["machine"] for w in status["workers"]}
    assert len(machines) == 1 and machines != {"0" * 16}, machines


def choice(case, model):
    """The workers that a search takes, which depends on how fast this machine is, and the cluster."""
    c = Apart(case, model, workers=2).start()
    return len(holders(c.status())), c


def test_search(case):
    """On machines of their own as many work as is fastest, and the words say so."""
    model = case.world.model("llama3-tiny")
    alone = Cluster(case, model, workers=1).start()
    expected = alone.complete()
    alone.server.stop()
    n, c = choice(case, model)
    status = c.status()
    words = "1 stage, 1 worker left out" if n == 1 else "2 stages"
    assert re.search(f"^{words}; predicted [0-9]", status["plan"]), status["plan"]
    err = c.server.err()
    assert f"plan: {status['plan']}\n" in err, err
    text = text_of(case.succeed("status", "--server", f"http://127.0.0.1:{c.http_port}"))
    assert f"plan: {status['plan']}\n" in text, text
    assert c.complete() == expected
    words = plan(case, c)
    assert "== plan 1, in force ==" in words, words
    assert LAST.fullmatch(words.splitlines()[-1]), words
    assert "measured so far" in words, words


def test_compare_and_apply(case):
    """A plan that was forced is replaced by the best one; the text stays the same."""
    model = case.world.model("llama3-tiny")
    best, first = choice(case, model)
    first.server.stop()
    other = ["--split", "layers"] if best == 1 else ["--layers", "0-2"]
    c = Apart(case, model, workers=2, options=other).start()
    expected = c.complete()
    before = c.status()
    assert len(holders(before)) == 3 - best, before
    page = case.dir / "plans.html"
    words = plan(case, c, "--html", str(page))
    assert "what would change" in words and "nothing" in words, words
    assert re.search(r"predicted to be \d+% faster", words), words
    html = page.read_text()
    assert "The plan in force" in html and html.count("<svg") == 4, html
    result = json.loads(plan(case, c, "--json", "--for", "throughput"))
    assert {"in_force", "best", "measured", "gain", "same"} <= set(result), result
    assert result["in_force"]["workers"] and result["epoch"] == before["epoch"], result
    plan(case, c, "--apply")
    case.until(lambda: len(holders(c.status())) == best, "the other plan to be in force")
    assert c.status()["epoch"] > before["epoch"]
    c.wait_ready()
    assert c.complete() == expected


def test_refusals(case):
    """What cannot be compared, and words that are wrong."""
    c = Cluster(case, case.world.model("llama3-tiny"), workers=1, options=["--profile", "off"]).start()
    status, answer = c.request("POST", "/caravan/v1/cluster/plan", {"apply": False})
    assert status == 409 and "has not measured its machine" in answer["error"]["message"], answer
    status, answer = c.request("POST", "/caravan/v1/cluster/plan", {"for": "speed"})
    assert status == 400 and '"speed"' in answer["error"]["message"], answer
    status, answer = c.request("POST", "/caravan/v1/cluster/plan", {"aply": True})
    assert status == 400 and "aply" in answer["error"]["message"], answer
    case.caravan("serve", "-m", c.model, "--for", "speed").fails_with(
        "--for speed", "latency, throughput or balanced", status=2, lines=2)


def test_experts(case):
    """Statistics change plans, never texts."""
    c = Apart(case, case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=4, used=2),
              workers=3).start()
    expected = c.complete()
    assert c.complete() == expected
    words = plan(case, c)
    assert LAST.fullmatch(words.splitlines()[-1]), words


def test_too_small(case):
    """What is missing, and what would fit."""
    c = Apart(case, case.world.model("llama3-tiny"), workers=2, worker_options=["--memory", "0.001"])
    c.start_server()
    for i in 1, 2:
        c.start_worker(i)
    case.until(lambda: not c.server.running(), "the coordinator to give up")
    last = c.server.err().strip().splitlines()[-1]
    assert "are missing" in last and "quantisation" in last, last


def test_children_and_others(case):
    """A child can follow a worker from elsewhere, and hold experts for it."""
    model = case.world.model("qwen3moe-k", "Q4_K", layers=3, experts=4, used=2)
    alone = Cluster(case, model, workers=1).start()
    expected = alone.complete()
    alone.server.stop()
    c = Apart(case, model, workers=1, options=["--local-workers", "1", "-t", "1"])
    case.world.put_profile(case.dir / "cache-server")
    c.start()
    def measured():
        status = c.status()
        pairs = {(link["from"], link["to"]) for link in status["links"]}
        return {("w1", "local-1"), ("local-1", "w1")} <= pairs
    case.until(measured, "the links between the child and the worker")
    assert c.complete() == expected
    child = next(w for w in c.status()["workers"] if w["local"])
    assert child["endpoint"].startswith("tcp://127.0.0.1:"), child
    assert child["expert_endpoint"].startswith("tcp://127.0.0.1:"), child
