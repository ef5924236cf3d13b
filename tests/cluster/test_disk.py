# SPDX-License-Identifier: Apache-2.0
"""Disks that are full: the model is served all the same, and they are used again when they are not."""
import re

from cluster import Cluster, packed, pieces
from disk import OnDisks

MEGABYTE = 1 << 20


def text_of_one(case, model):
    with_one = Cluster(case, model, workers=1).start()
    text = with_one.complete()
    with_one.server.stop()
    with_one.workers[1].stop()
    return text


def unkept(worker):
    """What the worker said of weights that it does not keep."""
    return re.findall("WORKER-UNKEPT.*", worker.err())


def kept(c, i):
    """Bytes of weights that a worker's store has, which are right."""
    found = pieces(c.cache(i)) | packed(c.cache(i))
    return sum(stat.st_size for stat in found.values())


def check_said_once(c, i):
    said = unkept(c.workers[i])
    assert len(said) == 1 and "room" in said[0], said


def test_full_in_the_middle(case):
    """A worker whose disk fills up while it fetches serves from memory, and says so once."""
    model = case.world.large()
    text = text_of_one(case, model)
    c = OnDisks(case, model, {2: 20 << 10}, workers=2).start()
    assert c.complete() == text
    check_said_once(c, 2)
    assert 10 * MEGABYTE < kept(c, 2) <= 20 * MEGABYTE


def test_full_at_the_first_byte(case):
    """Nothing can be written at all; once there is room the store is used again, by the next plan
    and by the next process."""
    model = case.world.large()
    text = text_of_one(case, model)
    c = OnDisks(case, model, {2: 400 << 10}, workers=2)
    c.disks[2].fill()
    c.start()
    assert c.complete() == text
    check_said_once(c, 2)
    assert kept(c, 2) == 0
    c.disks[2].free()
    c.workers[1].kill()
    case.until(lambda: c.status()["epoch"] == 2, "the other worker's part to be taken over")
    c.wait_ready()
    assert c.complete() == text
    first = kept(c, 2)
    assert first > 50 * MEGABYTE, first
    check_said_once(c, 2)
    c.workers[2].stop()
    c.start_worker(2)
    c.wait_ready()
    assert c.complete() == text
    assert not unkept(c.workers[2]) and kept(c, 2) > first
