# SPDX-License-Identifier: Apache-2.0
"""What commands say to options that they cannot follow, and about a machine's cache."""
from cluster import Cluster, packed, pieces, text_of


def test_plan_of_a_cluster_that_runs(case):
    """What was decided when the cluster was started is not silently left out."""
    for option in (["--kv", "f16"], ["--ctx", "100"], ["--split", "layers"], ["--cpu-only"]):
        case.caravan("plan", "--server", "http://127.0.0.1:1", *option).fails_with(option[0])


def test_load_of_a_server(case):
    url = "http://127.0.0.1:1"
    case.caravan("bench", "--clients", "2", "--server", url).fails_with("--clients", url, "-m")


def test_worker_options(case):
    """The program is called by its name, wherever it lies."""
    for option in ("--nothing", "--threads"):
        result = case.run([case.world.worker, option])
        assert result.err.startswith("caravan-worker: "), result.err


def test_cache(case):
    """A worker's weights are seen, kept while it needs them, and freed after it has ended."""
    c = Cluster(case, case.world.small(), workers=1)
    c.start()

    def cache(*options):
        return text_of(case.succeed("cache", "--cache-dir", c.cache(1), *options))

    def check_listed():
        lines = cache().splitlines()
        for kind, found in (("pieces", pieces(c.cache(1))), ("packed weights", packed(c.cache(1)))):
            line = next(line for line in lines if line.startswith(kind))
            assert int(line[len(kind):].split()[0]) == len(found), lines
        return pieces(c.cache(1)) or packed(c.cache(1))

    assert check_listed()
    assert c.complete()
    cache("--evict", "all")
    assert check_listed(), "what a worker needs is gone"
    c.workers[1].stop()
    assert "nothing else may go" in cache("--evict", "1")
    assert not check_listed()
    case.caravan("cache", "--cache-dir", c.cache(1), "--evict", "0").fails_with("--evict 0")
    case.caravan("cache", "--cache-dir", case.dir / "none").fails_with("no such folder")
