# SPDX-License-Identifier: Apache-2.0
"""An expert that rows choose more often than others gets a copy, by what was counted."""
import concurrent.futures
import hashlib
import signal
import struct
import urllib.request

from cluster import text_of
from test_decide import Apart
from test_survey import surveyed

EXPERTS = 16
# Two of three tokens are the same and choose the same expert, mostly.
PROMPT = [300 if i % 3 else 260 + i % 240 for i in range(1500)]
TOKENS = 8

# What a machine is said to compute in a second: so little that links count for nothing, whatever
# they are measured to be on a busy machine. Predictions, and so plans, are always the same then.
OPERATIONS_S = 1e7
ENOUGH = 1e12  # of all else
F32, F16 = 0, 1


def field(number, kind, data):
    """A field of a protobuf message."""
    key = number << 3 | kind
    return (bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])) + data


def profile():
    """A message of the wire (proto/wire.proto): what machines with such rates would measure."""
    rates = bytes([16]) + struct.pack("<2d", OPERATIONS_S, OPERATIONS_S)
    body = b"".join([field(2, 1, struct.pack("<d", ENOUGH)), field(3, 1, struct.pack("<d", ENOUGH)),
                     field(7, 2, bytes([2, F32, F16])), field(8, 2, rates), field(9, 2, rates)])
    return field(25, 2, bytes([len(body)]) + body)


class Slow(Apart):
    """Workers of machines that are as slow as that: in their caches is a profile that says so, in
    place of the measured one, of which the name and the first line stay."""

    def start_worker(self, i, *options):
        self.case.world.put_profile(self.cache(i))
        [path] = self.cache(i).glob("profiles/*.bin")
        whole = path.read_bytes().split(b"\n")[0] + b"\n" + profile()
        path.write_bytes(whole + hashlib.blake2b(whole, digest_size=32).digest())
        return super().start_worker(i, *options)


def cluster(case):
    """One worker can be a stage and no more, so that two hold the experts, and these have room for
    copies. No expert can be cut."""
    model = case.world.model("qwen3moe-k", "F16", layers=1, experts=EXPERTS, used=1, ffe=1000,
                             heads=1, kv=1, hd=32, ctx=16384)
    return Slow(case, model, workers=3, worker_options=["--memory", "0.0235"],
                options=["-v", "--ctx", "14336", "--parallel", "4", "--batch", "256",
                         "--deadline", "30"])


def holders(status, expert):
    return {part["worker"] for part in status["parts"] if part["first"] <= expert < part["end"]}


def copied(status):
    """Experts that two workers or more hold, in a plan that is in force."""
    return {x for x in range(EXPERTS) if status["ready"] and len(holders(status, x)) > 1}


def hottest(status):
    rows = status["expert_usage"][0]["rows"]
    return rows.index(max(rows))


def asked(status, worker):
    """Bytes that stages sent to the worker for its experts."""
    [found] = [w for w in status["workers"] if w["name"] == worker]
    return found["experts"]["bytes_in"]


def test_copies_follow_usage(case):
    """The cluster finds a better plan by what it has counted, and goes over to it with a request
    under way."""
    c = cluster(case).start()
    before = surveyed(case, c, 3)
    assert all(w["profile"]["read_bytes_s"] == ENOUGH for w in before["workers"]), before
    assert all(len(holders(before, x)) == 1 for x in range(EXPERTS)), before["parts"]
    text = c.complete(TOKENS, PROMPT)
    hosts = [w for i, w in c.workers.items() if i not in c.order()]
    # Hosts that stand still do not load, so that the next request finds the change half done.
    for host in hosts:
        host.send(signal.SIGSTOP)
    c.server.wait_for(rf"COORD-PREPARE epoch={before['epoch'] + 1} ")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        meanwhile = pool.submit(c.complete, TOKENS, PROMPT)
        case.until(lambda: c.status()["active"], "the request")
        for host in hosts:
            host.send(signal.SIGCONT)
        case.until(lambda: copied(c.status()), "copies of experts")
        assert meanwhile.result() == text
    check_copies(case, c, before)
    check_shared(c, text)


def check_copies(case, c, before):
    """In a plan of a later epoch the expert that is chosen most has one more holder, and only those
    above the mean have. The metrics tell the same."""
    status = c.status()
    rows, hot = status["expert_usage"][0]["rows"], hottest(status)
    assert hot in copied(status), status
    assert all(rows[x] > sum(rows) / EXPERTS for x in copied(status)), status
    assert status["epoch"] > before["epoch"]
    case.until(lambda: metrics_agree(c), "metrics that agree with the status")


def metrics_agree(c):
    """Counts of the last request may arrive between the two."""
    status = c.status()
    with urllib.request.urlopen(f"http://127.0.0.1:{c.http_port}/metrics") as answer:
        lines = text_of(answer.read()).splitlines()
    hot, rows = hottest(status), max(status["expert_usage"][0]["rows"])
    return {f"caravan_epoch {status['epoch']}",
            f'caravan_expert_rows_total{{layer="0",expert="{hot}"}} {rows}'} <= set(lines)


def check_shared(c, text):
    """Its holders share the next prompt's rows."""
    before = c.status()
    assert c.complete(TOKENS, PROMPT) == text
    after = c.status()
    more = [asked(after, w) - asked(before, w) for w in holders(after, hottest(after))]
    assert min(more) > max(more) / 2, more
