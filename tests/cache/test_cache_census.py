"""The most requested entries, and purges of all."""

from __future__ import annotations

import random

import pytest
from compiled.result_cache import Fill, get_bytes, put_bytes

from lb.cache.store import ResultCache

LIFE = 1 << 40


def entries(cache: ResultCache, most: int = 1000, now: int = 0):
    return [entry for shard in range(cache.shard_count) for entry in cache.top(shard, most, now)]


def test_an_entry_says_what_it_is(make_cache, key):
    cache = make_cache()
    fill = Fill(cache, b"pool:p", b"model:p/m")
    put_bytes(cache, key(1), b"x" * 600, 5_000, LIFE, fill, cost_us=7, flags=1)
    (entry,) = entries(cache, now=6_000)
    assert entry == {
        "key": key(1), "requests": 1, "bytes": 1024, "size": 600, "age_ns": 1_000, "fresh_ns": LIFE - 1_000,
        "cost_us": 7, "negative": True, "slots": [cache.slot_of(b"pool:p"), cache.slot_of(b"model:p/m")],
        "start": b"x" * 256,
    }  # fmt: skip


def test_the_most_requested_come_first_and_of_as_many_the_dearest(make_cache, key):
    cache = make_cache()
    for number, cost in enumerate((5, 9, 7)):
        put_bytes(cache, key(number), b"%d" % number, 0, LIFE, cost_us=cost)
    put_bytes(cache, key(2), b"2", 0, LIFE, cost_us=7)  # asked for once more
    get_bytes(cache, key(0), 0)  # a visit
    put_bytes(cache, key(0), b"0", 0, LIFE, cost_us=5)
    put_bytes(cache, key(0), b"0", 0, LIFE, cost_us=5)
    assert [(e["start"], e["requests"]) for e in entries(cache)] == [(b"0", 3), (b"2", 2), (b"1", 1)]
    assert [e["start"] for e in entries(cache, most=2)] == [b"0", b"2"]


def test_what_nobody_would_find_is_not_there(make_cache, key):
    cache = make_cache()
    put_bytes(cache, key(1), b"old", 0, 10)
    put_bytes(cache, key(2), b"purged", 0, LIFE, Fill(cache, b"t"))
    put_bytes(cache, key(3), b"dropped", 0, LIFE)
    put_bytes(cache, key(4), b"", 0, LIFE)
    cache.purge(b"t")
    cache.drop(key(3), 0)
    assert [e["start"] for e in entries(cache, now=10)] == [b""]


def test_the_same_as_sorting_all_of_them(make_cache, key):
    cache, chosen = make_cache(size=4 << 20), random.Random(4)
    costs = {}
    for number in range(1500):
        costs[key(number)] = chosen.randrange(1 << 20)
        put_bytes(cache, key(number), b"x", 0, LIFE, cost_us=costs[key(number)])
    held = entries(cache, most=10_000)
    assert len(held) == cache.stats()["entries"] == 1500
    best = sorted(held, key=lambda e: (-e["requests"], -e["cost_us"]))
    for most in (1, 2, 17, 1500):
        assert [e["cost_us"] for e in entries(cache, most)] == [e["cost_us"] for e in best[:most]]
    assert all(costs[e["key"]] == e["cost_us"] for e in held)


def test_a_shard_that_there_is_not(make_cache):
    cache = make_cache()
    for shard, most in ((-1, 1), (cache.shard_count, 1), (0, 0), (0, 10_001)):
        with pytest.raises(ValueError, match="entries of shard"):
            cache.top(shard, most, 0)
    with pytest.raises(ValueError, match="no shard"):
        cache.purge_shard(cache.shard_count)


def test_a_purge_of_all(make_cache, key):
    cache = make_cache()
    early = Fill(cache, b"any")
    put_bytes(cache, key(1), b"tagged", 0, LIFE, Fill(cache, b"t"))
    put_bytes(cache, key(2), b"untagged", 0, LIFE)
    cache.purge_all()
    assert [get_bytes(cache, key(n), 0) for n in (1, 2)] == [None, b"untagged"]
    assert put_bytes(cache, key(3), b"late", 0, LIFE, early) == 0, "a purge during the fill wins"
    for shard in range(cache.shard_count):
        cache.purge_shard(shard)
    assert get_bytes(cache, key(2), 0) is None
    assert put_bytes(cache, key(1), b"new", 0, LIFE, Fill(cache, b"t")) == 1
    assert get_bytes(cache, key(1), 0) == b"new"
    assert cache.stats()["purges"] == 1
