# SPDX-License-Identifier: Apache-2.0
"""Machines and links measured by the workers of a cluster, and what is said of them."""
import urllib.request

from cluster import Cluster, text_of


def surveyed(case, c, n):
    """The status once every machine and each direction of every link has been measured."""
    def look():
        status = c.status()
        whole = (len(status["links"]) == n * (n + 1) and
                 all(w["profile"] for w in status["workers"]))
        return status if whole else None
    return case.until(look, "all machines and links to be measured")


def check_links(status):
    names = {w["name"] for w in status["workers"]} | {None}
    pairs = {(link["from"], link["to"]) for link in status["links"]}
    assert pairs == {(a, b) for a in names for b in names if a != b}, pairs
    for link in status["links"]:
        assert 0 < link["rtt_s"] < 10 and 1e3 < link["bytes_s"] < 1e12, link


def check_table(text):
    """Columns line up: the lines of each table are of one length."""
    tables = [block.splitlines() for block in text.strip().split("\n\n")[1:]]
    assert len(tables) == 4, text
    for table in tables:
        assert len({len(line) for line in table}) == 1, text
    return tables


def test_status(case):
    """Profiles and links appear in the status, its table and the metrics; requests go on."""
    c = Cluster(case, case.world.model("llama3-tiny"), workers=2).start()
    expected = c.complete()
    status = surveyed(case, c, 2)
    check_links(status)
    for worker in status["workers"]:
        profile = worker["profile"]
        assert profile["free_bytes"] > 0 and profile["read_bytes_s"] > 0, profile
        assert {t["type"] for t in profile["types"]} >= {"Q8_0", "Q4_K", "F16"}, profile
        assert all(t["row_ops_s"] > 0 and t["rows_ops_s"] > 0 for t in profile["types"])
    text = text_of(case.succeed("status", "--server", f"http://127.0.0.1:{c.http_port}"))
    machines, products, links = check_table(text)[1:]
    assert {line.split()[0] for line in machines[1:]} == {"w1", "w2"}, text
    assert "Q4_K" in products[0], text
    assert len(links) == 4 and links[3].startswith("from coordinator "), text
    with urllib.request.urlopen(f"http://127.0.0.1:{c.http_port}/metrics") as answer:
        metrics = text_of(answer.read())
    assert 'caravan_link_rtt_seconds{from="w1",to="w2"}' in metrics, metrics
    assert 'caravan_link_bytes_per_second{from="",to="w1"}' in metrics, metrics
    assert 'caravan_worker_read_bytes_per_second{worker="w2"}' in metrics, metrics
    assert c.complete() == expected


def test_rejoin(case):
    """A worker that comes back is measured anew, its links with it."""
    c = Cluster(case, case.world.model("llama3-tiny"), workers=2).start()
    surveyed(case, c, 2)
    c.workers[2].kill()
    case.until(lambda: any(w["state"] == "lost" for w in c.status()["workers"]), "w2's loss")
    c.start_worker(2)
    c.wait_ready()
    check_links(surveyed(case, c, 2))


def test_profile_is_kept(case):
    """The first worker measures, the next one with the same cache does not, and a damaged file
    counts as none."""
    c = Cluster(case, case.world.model("llama3-tiny"), workers=1)
    c.cache(1).mkdir()
    c.start()
    surveyed(case, c, 1)
    assert "WORKER-PROFILE-MEASURED" in c.workers[1].err()
    c.workers[1].stop()
    c.start_worker(1)
    c.wait_ready()
    surveyed(case, c, 1)
    assert "WORKER-PROFILE-MEASURED" not in c.workers[1].err()
    c.workers[1].stop()
    [kept] = c.cache(1).glob("profiles/*.bin")
    damaged = bytearray(kept.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    kept.write_bytes(damaged)
    c.start_worker(1)
    c.wait_ready()
    surveyed(case, c, 1)
    assert "WORKER-PROFILE-MEASURED" in c.workers[1].err()
    assert bytes(damaged) != kept.read_bytes()


def test_profile_command(case):
    said = case.run([case.world.worker, "--profile", "-t", "1", "--cache-dir",
                     case.dir / "cache"])
    for word in ("memory reads", "disk reads", "Q4_K", "IQ2_XXS", "512 rows"):
        assert word in text_of(said.out), said.out
    assert "WORKER-PROFILE-MEASURED" in said.err and "WORKER-LOADED" not in said.err, said.err


def test_many(case):
    """The links of many workers are measured several at a time, each of them."""
    c = Cluster(case, case.world.model("llama3-tiny"), workers=10).start()
    status = surveyed(case, c, 10)
    check_links(status)
