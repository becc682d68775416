"""Freshness: fresh, stale while it is made anew, good in the place of an error; and when it is made anew early."""

import math
import random

import pytest
from compiled.result_cache import Fill, find, get_bytes, put_bytes, xfetch
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.cache.store import ResultCache
from lb.shared.segment import Segment

NEGATIVE = 1


def test_what_a_read_says(make_cache, key):
    cache = make_cache()
    put_bytes(cache, key(1), b"v", 100, 50, stale_ns=30, error_ns=80, cost_us=7000, flags=NEGATIVE)
    facts = {"cost_us": 7000, "flags": NEGATIVE}
    assert find(cache, key(1), 110) == (
        b"v",
        {"state": "fresh", "age": 10, "fresh": 40, "stale": 70, "error": 120, **facts},
    )
    assert find(cache, key(1), 150) == (
        b"v",
        {"state": "stale", "age": 50, "fresh": 0, "stale": 30, "error": 80, **facts},
    )
    assert find(cache, key(1), 179)[1]["state"] == "stale"
    assert find(cache, key(1), 180) is None
    assert find(cache, key(1), 180, last_resort=True) == (
        b"v",
        {"state": "last resort", "age": 80, "fresh": 0, "stale": 0, "error": 50, **facts},
    )
    assert find(cache, key(1), 230, last_resort=True) is None
    assert [cache.has(key(1), now) for now in (149, 150, 180)] == [True, False, False]
    stats = cache.stats()
    assert (stats["hits"], stats["stale"], stats["misses"], stats["saved_us"]) == (1, 3, 2, 4 * 7000)


def test_a_negative_answer_is_told_by_its_flag(make_cache, key):
    cache = make_cache()
    put_bytes(cache, key(1), b"no such thing", 0, 50, flags=NEGATIVE)
    put_bytes(cache, key(2), b"an answer", 0, 50)
    assert [find(cache, key(n), 0)[1]["flags"] for n in (1, 2)] == [NEGATIVE, 0]


def test_times_do_not_overflow(make_cache, key):
    cache = make_cache()
    most = 2**64 - 1
    put_bytes(cache, key(1), b"v", 5, most, stale_ns=most, error_ns=most, cost_us=2**32 - 1)
    assert find(cache, key(1), 2**63)[1]["state"] == "fresh"
    put_bytes(cache, key(1), b"v", 5, 10, stale_ns=most, error_ns=most)
    assert find(cache, key(1), 2**63)[1]["state"] == "stale"


def test_stale_answers_are_dropped_and_purged_as_others(make_cache, key):
    cache = make_cache()
    for number in (1, 2):
        put_bytes(cache, key(number), b"v", 0, 10, Fill(cache, b"model a"), stale_ns=100, error_ns=100)
    cache.drop(key(1), 20)
    assert find(cache, key(1), 20, last_resort=True) is None
    cache.purge(b"model a")
    assert find(cache, key(2), 20, last_resort=True) is None


def test_stale_answers_stay_until_they_are_of_no_use(make_cache, key):
    """The broom takes what nobody can use, not what may be needed in the place of an error."""
    cache = make_cache(size=64 << 10)
    capacity = cache.stats()["capacity"] // 512
    for number in range(capacity):
        put_bytes(cache, key(number), b"x", 0, 10, error_ns=0 if number % 2 else 100)
        get_bytes(cache, key(number), 0)
    for number in range(capacity // 2):
        put_bytes(cache, key(("new", number)), b"x", 20, 1000)
    assert (cache.stats()["expired"], cache.stats()["evictions"]) == (capacity // 2, 0)
    assert all(find(cache, key(number), 20, last_resort=True) for number in range(0, capacity, 2))


@settings(max_examples=200)
@given(
    times=st.tuples(*[st.integers(0, 100)] * 3), now=st.integers(0, 50), at=st.integers(0, 400), resort=st.booleans()
)
def test_against_a_model(key, times, now, at, resort):
    segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, cache_size=1 << 20)
    cache = ResultCache(segment, 1 << 16)
    fresh, stale, error = times
    assert put_bytes(cache, key(1), b"v", now, fresh, stale_ns=stale, error_ns=error) == (fresh > 0)
    until = now + fresh
    state = None
    if fresh and at < until:
        state = "fresh"
    elif fresh and at < until + stale:
        state = "stale"
    elif fresh and at < until + error and resort:
        state = "last resort"
    found = find(cache, key(1), at, resort)
    assert (None if found is None else found[1]["state"]) == state
    if found is not None:
        left = (found[1]["fresh"], found[1]["stale"], found[1]["error"])
        assert left == tuple(max(0, until + more - at) for more in (0, stale, error))
    segment.close()


@pytest.mark.parametrize(("left", "probability"), [(0, 1), (1, math.exp(-1)), (3, math.exp(-3)), (40, 0)])
def test_early_refresh_has_the_probability_of_the_paper(left, probability):
    """P(-cost * ln(random) >= left) = exp(-left / cost)."""
    cost_us, rng, draws = 20_000, random.Random(5), 20_000
    early = sum(xfetch(left * cost_us * 1000, cost_us, 1 - rng.random()) for _ in range(draws))
    assert abs(early / draws - probability) < 4 * math.sqrt(probability * (1 - probability) / draws) + 1e-9


def test_early_refresh_at_the_limits():
    assert not xfetch(2**64 - 1, 2**32 - 1, 0.5)
    assert not xfetch(1, 0, 1e-300)  # what costs nothing is made when it is asked for
    assert xfetch(1000, 1, math.exp(-1.01))
    assert not xfetch(1000, 1, math.exp(-0.99))


def test_one_of_many_readers_refreshes_before_the_end():
    """A thousand reads a second of an answer that takes 100 ms: the first refresh begins well before the end, not long
    before it, and only a few begin in the time that it takes."""
    rng, cost_us, step = random.Random(3), 100_000, 1_000_000
    for _ in range(50):
        left = 60_000_000_000
        while not xfetch(left, cost_us, 1 - rng.random()):
            left -= step
            assert left > 0
        assert left < 20 * cost_us * 1000
