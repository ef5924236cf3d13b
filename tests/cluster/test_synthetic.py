# SPDX-License-Identifier: Apache-2.0
"""`caravan bench --synthetic`: models without a file, whose weights workers make themselves."""
import json

from cluster import Cluster, pieces

SHAPE = "llama4-k:Q4_K"
SHORT = ("-p", "24", "-n", "6", "-r", "1", "--json")


def bench(case, *args):
    case.world.put_profile(case.dir / "cache")
    if "--cache-dir" not in args:
        args += ("--cache-dir", case.dir / "cache")
    return json.loads(case.succeed("bench", "--synthetic", SHAPE, *SHORT, *args))


def test_local(case):
    result = bench(case, "--local-workers", "2", "-t", "1")
    assert result["prefill"] > 0 and result["decode"] > 0, result
    stages = result["stages"]
    assert [s["layer_first"] for s in stages] == [0, stages[0]["layer_end"]], stages
    assert all(s["weight_bytes"] > 0 for s in stages), stages
    predicted = result["predicted"]
    assert predicted["prefill"] > 0 and predicted["decode"] > 0, predicted
    assert predicted["bottleneck"], predicted


def test_experts(case):
    """Experts on other workers are made there."""
    result = bench(case, "--local-workers", "3", "-t", "1", "--split", "experts")
    assert len(result["stages"]) == 1 and len(result["hosts"]) == 2, result
    assert all(h["weight_bytes"] > 0 for h in result["hosts"]), result
    assert result["predicted"]["decode"] > 0, result


def test_clients(case):
    """Many requests, and what the simulator expects of them."""
    many = ("--clients", "3", "--requests", "7", "--local-workers", "2", "-t", "1")
    result = bench(case, *many)
    assert (result["clients"], result["requests"]) == (3, 7), result
    for rates in (result["measured"], result["simulated"]):
        assert rates["answer_tokens_s"] > 0 and rates["first_s"] > 0, result
        assert rates["token_s"] < rates["request_s"], result
    text = case.succeed("bench", "--synthetic", SHAPE, *SHORT[:-1], *many).decode()
    assert "7 requests of 24 and 6 tokens, 3 always under way" in text, text
    assert "simulated" in text and "between tokens, ms" in text, text


def test_workers_make_their_weights(case):
    """Over TCP: no weight travels, none is kept, and the coordinator has no file."""
    c = Cluster(case, SHAPE, workers=2)
    for i in (1, 2):
        c.start_worker(i)
    result = bench(case, "--workers", "2", "--cluster-key", c.key, "--cache-dir",
                   case.dir / "cache-server")
    assert len(result["stages"]) == 2 and result["decode"] > 0, result
    for i in (1, 2):
        assert not pieces(c.cache(i)), "a worker keeps pieces"
        c.workers[i].wait_for("WORKER-STATE .*to=ready")


def test_another_model_after_it(case):
    """A synthetic slice does not stand for a file's of the same shape."""
    same = ("--ctx", "256", "--parallel", "2", "--batch", "64")
    c = Cluster(case, case.world.model("llama4-k", "Q4_K", seed=3), workers=1, options=same)
    c.start_worker(1)
    bench(case, "--workers", "1", "--cluster-key", c.key, "--cache-dir", case.dir / "cache-server",
          *same)
    c.start_server()
    c.wait_ready()
    expected = case.generate(c.model, n=24)
    assert c.complete() == expected.decode("utf-8", "replace")


def test_refusals(case):
    def fails(*args):
        return case.caravan("bench", *args, *SHORT)
    fails("--synthetic", "maverick").fails_with("maverick", "quantisation", "maverick:Q4_K")
    fails("--synthetic", "nobody:Q4_K").fails_with("nobody", "maverick")
    fails("--synthetic", "llama-k:Q77").fails_with("Q77", "Q4_K")
    fails("--synthetic", SHAPE, "-m", "x.gguf").fails_with("--synthetic", "leave out --model")
    fails("--synthetic", SHAPE, "--requests", "9").fails_with("--requests", "--clients")
    fails("--synthetic", SHAPE, "--clients", "9", "--requests", "3").fails_with("9 clients", "3 req")
    fails("--clients", "2", "--server", "http://127.0.0.1:1").fails_with("leave out --server")
    fails("--synthetic", SHAPE, "--server", "http://127.0.0.1:1").fails_with("leave out --server")
