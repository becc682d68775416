"""Claims on refreshes: one process makes an answer anew, and none for a while after a failure."""

import multiprocessing
import os

from compiled.result_cache import claim, failing, settle

from lb.cache.store import ResultCache
from lb.shared.segment import Segment

SECOND = 10**9
LEASE = 10 * SECOND
STEP = SECOND // 10  # longer than the unit in which times are kept


def test_one_claim_at_a_time(make_cache, key):
    cache = make_cache()
    assert claim(cache, key(1), 0, LEASE)
    assert not claim(cache, key(1), 0, LEASE)
    assert not claim(cache, key(1), LEASE - STEP, LEASE)
    assert claim(cache, key(2), 0, LEASE)
    settle(cache, key(1), SECOND, 0, False)
    assert claim(cache, key(1), SECOND, LEASE)


def test_a_claim_ends_with_its_lease(make_cache, key):
    """Who has it may have been killed."""
    cache = make_cache()
    assert claim(cache, key(1), 0, LEASE)
    assert claim(cache, key(1), LEASE + STEP, LEASE)
    assert not claim(cache, key(1), LEASE + STEP, LEASE)


def test_after_a_failure_there_is_a_pause(make_cache, key):
    cache = make_cache()
    assert not failing(cache, key(1))
    assert claim(cache, key(1), 0, LEASE)
    assert not failing(cache, key(1))
    settle(cache, key(1), SECOND, 2 * SECOND, True)
    assert failing(cache, key(1))
    assert not failing(cache, key(2))
    assert not claim(cache, key(1), 2 * SECOND, LEASE)
    assert claim(cache, key(1), 3 * SECOND + STEP, LEASE)
    assert failing(cache, key(1))  # until it is known to be otherwise
    settle(cache, key(1), 4 * SECOND, 0, False)
    assert not failing(cache, key(1))


def test_a_failure_needs_no_claim(make_cache, key):
    """A client may have waited for it."""
    cache = make_cache()
    settle(cache, key(1), 0, SECOND, True)
    assert failing(cache, key(1))
    assert not claim(cache, key(1), SECOND // 2, LEASE)


def test_a_full_table_keeps_nobody_away(make_cache, key):
    cache = make_cache()
    taken = [number for number in range(5000) if claim(cache, key(number), 0, LEASE)]
    assert len(taken) == 5000
    again = sum(claim(cache, key(number), 0, LEASE) for number in range(5000))
    assert 5000 - 256 <= again < 5000
    # Those whose time is over make room.
    assert claim(cache, key(6000), 2 * LEASE, LEASE)
    assert not claim(cache, key(6000), 2 * LEASE, LEASE)


def _claim_all(fd, worker, keys, start, won):
    cache = ResultCache(Segment.attach(os.dup(fd), worker), 1 << 20)
    start.wait()
    won.put([number for number, each in enumerate(keys) if claim(cache, each, SECOND, LEASE)])


def test_of_several_processes_one_claims(key):
    segment = Segment.create(4, endpoint_capacity=1, series_capacity=1, cache_size=1 << 20)
    context = multiprocessing.get_context("fork")
    start, won = context.Barrier(4), context.Queue()
    keys = [key(number) for number in range(40)]  # few enough that no set of the table is full
    children = [context.Process(target=_claim_all, args=(segment.fd, worker, keys, start, won)) for worker in range(4)]
    for child in children:
        child.start()
    claimed = sorted(number for _ in children for number in won.get(timeout=60))
    for child in children:
        child.join()
    assert claimed == list(range(40))
