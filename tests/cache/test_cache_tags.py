"""Tags: a purge takes what carries the tag, and what is being made that will carry it."""

import os
import random

import pytest
from compiled.result_cache import Fill, get_bytes, put_bytes, slot_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.cache.store import ResultCache
from lb.shared.segment import Segment

LIFE = 1 << 40
MOST = 10


def test_a_purge_takes_what_carries_the_tag(make_cache, key):
    cache = make_cache()
    put_bytes(cache, key(1), b"one", 0, LIFE, Fill(cache, b"model a", b"tenant x"))
    put_bytes(cache, key(2), b"two", 0, LIFE, Fill(cache, b"model b", b"tenant x"))
    put_bytes(cache, key(3), b"three", 0, LIFE)
    cache.purge(b"model a")
    assert [get_bytes(cache, key(n), 0) for n in (1, 2, 3)] == [None, b"two", b"three"]
    assert [cache.has(key(n), 0) for n in (1, 2, 3)] == [False, True, True]
    cache.purge(b"nobody's")
    assert get_bytes(cache, key(2), 0) == b"two"
    cache.purge(b"tenant x")
    assert [get_bytes(cache, key(n), 0) for n in (1, 2, 3)] == [None, None, b"three"]
    assert cache.stats()["purges"] == 3


def test_has_sees_a_purge_before_any_read(make_cache, key):
    cache = make_cache()
    put_bytes(cache, key(1), b"one", 0, LIFE, Fill(cache, b"model a"))
    cache.purge(b"model a")
    assert not cache.has(key(1), 0)


def test_a_purge_during_the_fill_wins(make_cache, key):
    cache = make_cache()
    early = Fill(cache, b"model a")
    cache.purge(b"model a")
    late = Fill(cache, b"model a")
    assert put_bytes(cache, key(1), b"old", 0, LIFE, early) == 0
    assert get_bytes(cache, key(1), 0) is None
    assert cache.stats()["rejected_purged"] == 1
    assert put_bytes(cache, key(1), b"new", 0, LIFE, late) == 1
    assert get_bytes(cache, key(1), 0) == b"new"
    # The late answer is in its place: an early one that comes after it does not push it out.
    assert put_bytes(cache, key(1), b"old", 0, LIFE, early) == 0
    assert get_bytes(cache, key(1), 0) == b"new"


def test_an_entry_has_ten_tags_at_most(make_cache, key):
    cache = make_cache()
    tags = [b"%d" % number for number in range(MOST + 1)]
    full = Fill(cache, *tags[:MOST])
    assert full.fits
    for tag in tags[:MOST]:
        assert put_bytes(cache, key(1), b"x" * 5000, 0, LIFE, Fill(cache, *tags[:MOST])) == 1
        assert get_bytes(cache, key(1), 0) == b"x" * 5000
        cache.purge(tag)
        assert get_bytes(cache, key(1), 0) is None
    assert put_bytes(cache, key(1), b"x", 0, LIFE, full) == 0
    many = Fill(cache, *tags)
    assert not many.fits
    assert put_bytes(cache, key(1), b"x", 0, LIFE, many) == 0
    assert not cache.has(key(1), 0)


@pytest.mark.parametrize("tags", range(MOST + 1))
def test_round_trip_with_tags(make_cache, key, tags):
    cache = make_cache()
    room = 512 - 88 - 8 * tags
    for size in (0, 1, room - 1, room, room + 1, room + 512, room + 513, cache.max_object):
        value = os.urandom(size)
        before = cache.stats()["bytes"]
        assert put_bytes(cache, key(size), value, 0, LIFE, Fill(cache, *[b"%d" % n for n in range(tags)])) == 1
        assert get_bytes(cache, key(size), 0) == value
        assert cache.stats()["bytes"] - before == -(-(88 + 8 * tags + size) // 512) * 512
        cache.drop(key(size), 0)
    assert cache.stats()["corrupt"] == 0


def test_another_process_sees_a_purge_and_has_the_same_slots(make_cache, key):
    cache = make_cache()
    segment = Segment.attach(os.dup(cache.segment.fd), 1)
    other = ResultCache(segment, 1 << 20)
    assert [slot_of(cache, b"%d" % n) for n in range(50)] == [slot_of(other, b"%d" % n) for n in range(50)]
    put_bytes(cache, key(1), b"one", 0, LIFE, Fill(other, b"model a"))
    other.purge(b"model a")
    assert get_bytes(cache, key(1), 0) is None
    assert cache.stats()["purges"] == 1
    segment.close()


def test_slots_are_spread_and_differ_between_segments(make_cache):
    caches = [make_cache(), make_cache(size=512 << 20)]
    slots = [[slot_of(cache, b"tag %d" % number) for number in range(1000)] for cache in caches]
    assert max(slots[0]) < 1024
    assert 550 < len(set(slots[0])) < 700  # of 1024 slots, 1000 draws are expected to hit 638
    assert max(slots[1]) < 65536
    assert len(set(slots[1])) > 970
    assert [slot % 1024 for slot in slots[1]] != slots[0]


def test_a_generation_that_comes_round_is_told_from_the_one_before(make_cache, key):
    cache = make_cache()
    at = os.fstat(cache.segment.fd).st_size - cache.segment.cache_size + 2 * 4096 + 4 * slot_of(cache, b"model a")
    os.pwrite(cache.segment.fd, b"\xff" * 4, at)
    put_bytes(cache, key(1), b"one", 0, LIFE, Fill(cache, b"model a"))
    assert get_bytes(cache, key(1), 0) == b"one"
    cache.purge(b"model a")
    assert get_bytes(cache, key(1), 0) is None


def test_purged_entries_make_room_before_others(make_cache, key):
    cache = make_cache(size=64 << 10)
    capacity = cache.stats()["capacity"] // 512
    for number in range(capacity):
        put_bytes(cache, key(number), b"x", 0, LIFE, Fill(cache, b"odd" if number % 2 else b"even"))
        get_bytes(cache, key(number), 0)
    cache.purge(b"odd")
    for number in range(capacity // 2):
        put_bytes(cache, key(("new", number)), b"x", 0, LIFE)
    assert (cache.stats()["expired"], cache.stats()["evictions"]) == (capacity // 2, 0)
    assert all(cache.has(key(number), 0) for number in range(0, capacity, 2))


def test_a_damaged_count_of_tags_is_a_miss(make_cache, key):
    cache = make_cache(size=64 << 10)
    value = os.urandom(400)
    put_bytes(cache, key(1), value, 0, LIFE, Fill(cache, b"a"))
    memory = os.pread(cache.segment.fd, os.fstat(cache.segment.fd).st_size, 0)
    place = memory.index(value) - 10
    for rubbish in (9, 1 << 10, (1 << 16) - 1, 0, 2):
        os.pwrite(cache.segment.fd, rubbish.to_bytes(2, "little"), place)
        assert not cache.has(key(1), 0) or rubbish <= MOST
        assert get_bytes(cache, key(1), 0) is None
        assert put_bytes(cache, key(1), value, 0, LIFE, Fill(cache, b"a")) in (1, -1)


action = st.one_of(
    st.tuples(st.just("begin"), st.integers(0, 5), st.sets(st.integers(0, 4), max_size=4)),
    st.tuples(st.just("put"), st.integers(0, 5), st.just(None)),
    st.tuples(st.just("purge"), st.integers(0, 4), st.just(None)),
)


@settings(max_examples=100)
@given(actions=st.lists(action, max_size=60))
def test_against_a_model(key, actions):
    segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, cache_size=1 << 20)
    cache = ResultCache(segment, 1 << 16)
    names = [b"tag %d" % number for number in range(5)]
    assert len({slot_of(cache, name) for name in names}) <= 5
    shares = {n: {m for m in range(5) if slot_of(cache, names[m]) == slot_of(cache, names[n])} for n in range(5)}
    fills, held = {}, {}
    rng = random.Random(1)
    for what, number, tags in actions:
        if what == "begin":
            fills[number] = [Fill(cache, *[names[tag] for tag in sorted(tags)]), tags, True]
        elif what == "put" and number in fills:
            fill, of_fill, good = fills[number]
            value = rng.randbytes(rng.choice([3, 600]))
            assert put_bytes(cache, key(number), value, 0, LIFE, fill) == good
            if good:
                held[number] = value, of_fill
        elif what == "purge":
            cache.purge(names[number])
            held = {k: (value, of) for k, (value, of) in held.items() if not of & shares[number]}
            for fill in fills.values():
                fill[2] = fill[2] and not fill[1] & shares[number]
        for candidate in range(6):
            assert get_bytes(cache, key(candidate), 0) == held.get(candidate, (None,))[0]
    segment.close()


def test_a_purge_that_a_tier_does_not_know_is_marked(make_cache):
    cache = make_cache()
    tags = [b"model %d" % number for number in range(100)]
    assert not any(cache.is_purging(tag) for tag in tags)
    cache.mark_purging(tags[:2])
    assert cache.is_purging(tags[0])
    assert sum(cache.is_purging(tag) for tag in tags) < 10  # a few tags share a mark
    assert Fill(cache, b"another", tags[1]).behind(cache)
    assert not Fill(cache).behind(cache)
    # Another process sees it, and what was purged before is not.
    other = ResultCache(cache.segment, 1024)
    other.mark_purging(tags[1:3])
    assert [cache.is_purging(tag) for tag in tags[1:3]] == [True, True]
    assert cache.is_purging(tags[0]) == any(slots_meet(cache, tags[0], tag) for tag in tags[1:3])
    cache.mark_purging([])
    assert not any(cache.is_purging(tag) for tag in tags)


def slots_meet(cache, one, other):
    return slot_of(cache, one) % 8192 == slot_of(cache, other) % 8192
