"""Eviction and admission: exactly what the model does, and better than LRU on skewed traces."""

import math
import random

import pytest
from compiled.result_cache import AWAITED, find, get_bytes, put_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.caching.policies import Lru
from bench.caching.replay import chunks_of
from bench.caching.traces import zipf
from lb.cache.store import ResultCache
from lb.shared.segment import Segment

LIFE = 1 << 40
REGION = 64 << 10


class Sketch:
    """Four rows of 4-bit counters, as many in each as the shard has buckets; all are halved after ten requests for
    each entry held and 64 more. Where a key is counted follows from its first four bytes."""

    def __init__(self, width):
        self.width = width
        self.rows = [[0] * width for _ in range(4)]
        self.added = 0

    def places(self, tag):
        first, step = tag * 0x9E3779B97F4A7C15, (tag ^ 0x5BD1E995) * 0xC2B2AE3D27D4EB4F | 1
        return [(first + row * step & 2**64 - 1) >> 32 & self.width - 1 for row in range(4)]

    def add(self, tag, entries):
        for row, at in zip(self.rows, self.places(tag), strict=True):
            row[at] = min(row[at] + 1, 15)
        self.added += 1
        if self.added >= 10 * entries + 64:
            self.added = 0
            self.rows = [[count // 2 for count in row] for row in self.rows]

    def count(self, tag):
        return min(row[at] for row, at in zip(self.rows, self.places(tag), strict=True))


class Sieve:
    """SIEVE as in the paper (NSDI 2024, algorithm 1), on a plain list from oldest to newest; sizes in chunks.

    Before the hand, a broom looks at the next three entries on its own way round, and takes a stale one. The hand
    spares 64 entries at most. What it comes to goes only if it is worth no more than the newcomer: requests, times
    cost, by chunks.
    """

    def __init__(self, capacity, tags):
        self.capacity = capacity
        self.tags = tags
        self.sketch = Sketch(1 << (capacity - 1).bit_length())
        self.queue = []
        self.hand = self.broom = None
        self.visited, self.size, self.expires, self.cost = {}, {}, {}, {}

    def after(self, key):
        at = self.queue.index(key) + 1
        return self.queue[at] if at < len(self.queue) else None

    def remove(self, key):
        if self.hand == key:
            self.hand = self.after(key)
        if self.broom == key:
            self.broom = self.after(key)
        self.queue.remove(key)
        for table in (self.visited, self.size, self.expires, self.cost):
            del table[key]

    def count(self, key):
        self.sketch.add(self.tags[key], len(self.queue))

    def worth(self, key, cost, chunks):
        return self.sketch.count(self.tags[key]) * max(cost, 1) / chunks

    def evict(self, now, newcomer):
        """Whether something has gone."""
        for _ in range(3):
            candidate = self.broom if self.broom is not None else self.queue[0]
            if now >= self.expires[candidate]:
                self.remove(candidate)
                return True
            self.broom = self.after(candidate)
        candidate = self.hand if self.hand is not None else self.queue[0]
        looks = 64
        while self.visited[candidate] and now < self.expires[candidate] and looks:
            self.visited[candidate] = False
            self.count(candidate)
            looks -= 1
            following = self.after(candidate)
            candidate = following if following is not None else self.queue[0]
        if now < self.expires[candidate] and newcomer < self.worth(
            candidate, self.cost[candidate], self.size[candidate]
        ):
            self.hand = self.after(candidate)
            return False
        self.hand = candidate
        self.remove(candidate)
        return True

    def put(self, key, chunks, now, ttl, cost=0):
        """Whether it is kept."""
        known = key in self.size
        if known:
            self.remove(key)
        self.count(key)
        newcomer = math.inf if known else self.worth(key, cost, chunks)
        while sum(self.size.values()) + chunks > self.capacity:
            if not self.evict(now, newcomer):
                return False
        self.queue.append(key)
        self.visited[key], self.size[key], self.expires[key], self.cost[key] = False, chunks, now + ttl, cost
        return True

    def get(self, key, now):
        hit = key in self.size and now < self.expires[key]
        if hit:
            self.visited[key] = True
        return hit

    def drop(self, key):
        if key in self.size:
            self.remove(key)


def open_cache(size=REGION):
    segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, cache_size=size)
    return segment, ResultCache(segment, 1 << 20)


def value_of(chunks, number):
    return bytes([number & 255]) * (chunks * 512 - 88)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.sampled_from([(1,), (1, 2, 3), (1, 7, 30)]),
    costs=st.sampled_from([(0,), (1000,), (0, 300, 7000, 2**32 - 1)]),
    ttl=st.booleans(),
)
def test_evicts_what_the_model_evicts(key, seed, sizes, costs, ttl):
    segment, cache = open_cache()
    capacity = cache.stats()["capacity"] // 512
    assert capacity > 70
    rng = random.Random(seed)
    keys = [key(number) for number in range(3 * capacity)]
    model = Sieve(capacity, [int.from_bytes(digest[:4], "little") for digest in keys])
    now = 0
    for _ in range(600):
        number = min(int(rng.expovariate(4 / len(keys))), len(keys) - 1)
        now += rng.randrange(3)
        action = rng.random()
        if action < 0.55:
            hit = model.get(number, now)
            assert (get_bytes(cache, keys[number], now) is not None) == hit
            if hit:
                continue
        if action < 0.97:
            chunks = rng.choice(sizes)
            life = rng.choice([50, 1000]) if ttl else LIFE
            cost = rng.choice(costs)
            kept = model.put(number, chunks, now, life, cost)
            assert put_bytes(cache, keys[number], value_of(chunks, number), now, life, cost_us=cost) == kept
        else:
            model.drop(number)
            cache.drop(keys[number], now)
        assert cache.stats()["entries"] == len(model.queue)
        assert cache.stats()["bytes"] == 512 * sum(model.size.values())
    held = {number for number, digest in enumerate(keys) if cache.has(digest, now)}
    assert held == {number for number in model.queue if now < model.expires[number]}
    segment.close()


def test_a_visit_saves_and_counts(key):
    segment, cache = open_cache()
    capacity = cache.stats()["capacity"] // 512 // 4
    size = 4 * 512 - 88
    digest, key = (
        key,
        lambda name: digest((3, name)),
    )  # none of these looks asked for twice by a collision in the sketch
    for number in range(capacity):
        put_bytes(cache, key(number), bytes(size), 0, LIFE)
    get_bytes(cache, key(0), 0)
    assert put_bytes(cache, key("a"), bytes(size), 0, LIFE) == 1
    assert cache.has(key(0), 0)
    assert not cache.has(key(1), 0)
    # The hand comes round to the first, which was asked for twice: a newcomer asked for once does not take its place.
    for number in [*range(2, capacity), "a"]:
        assert get_bytes(cache, key(number), 0) is not None
    assert put_bytes(cache, key("b"), bytes(size), 0, LIFE) == 0
    assert cache.has(key(0), 0)
    assert cache.stats()["rejected_value"] == 1
    assert put_bytes(cache, key("b"), bytes(size), 0, LIFE) == 1
    assert cache.has(key("b"), 0)
    assert cache.has(key(0), 0)
    segment.close()


def test_what_other_workers_wait_for_is_kept_whatever_it_is_worth(key):
    segment, cache = open_cache()
    capacity = cache.stats()["capacity"] // 512
    for _ in range(3):
        for number in range(capacity):
            put_bytes(cache, key(number), b"x", 0, LIFE)
    assert put_bytes(cache, key("a"), b"x", 0, LIFE) == 0
    assert cache.stats()["rejected_value"] == 1
    assert put_bytes(cache, key("a"), b"x", 0, LIFE, flags=AWAITED) == 1
    assert find(cache, key("a"), 0)[1]["flags"] == 0
    segment.close()


def test_a_huge_answer_does_not_push_out_many_that_save_more(key):
    segment, cache = open_cache()
    capacity = cache.stats()["capacity"] // 512
    for number in range(capacity):
        put_bytes(cache, key(number), b"x", 0, LIFE, cost_us=10_000)
    huge = bytes(cache.max_object)
    for _ in range(3):
        assert put_bytes(cache, key("huge"), huge, 0, LIFE, cost_us=10_000) == 0
    assert sum(cache.has(key(number), 0) for number in range(capacity)) == capacity
    # It saves more than all that have to go for it.
    assert put_bytes(cache, key("costly"), huge, 0, LIFE, cost_us=10_000 * capacity) == 1
    assert cache.has(key("costly"), 0)
    segment.close()


def test_what_takes_the_place_of_an_older_answer_is_kept(key):
    segment, cache = open_cache()
    capacity = cache.stats()["capacity"] // 512
    for number in range(capacity):
        put_bytes(cache, key(number), b"x", 0, LIFE, cost_us=10_000)
    assert put_bytes(cache, key(7), bytes(cache.max_object), 0, LIFE) == 1
    assert len(get_bytes(cache, key(7), 0)) == cache.max_object
    segment.close()


def test_a_stale_entry_goes_first_when_the_hand_meets_it_and_is_not_counted_as_evicted(key):
    segment, cache = open_cache()
    capacity = cache.stats()["capacity"] // 512
    for number in range(capacity):
        put_bytes(cache, key(number), b"x", 0, 10 if number < 5 else LIFE)
        get_bytes(cache, key(number), 0)
    for number in range(5):
        put_bytes(cache, key(("new", number)), b"x", 20, LIFE)
    assert all(cache.has(key(number), 20) for number in range(5, capacity))
    assert (cache.stats()["expired"], cache.stats()["evictions"]) == (5, 0)
    segment.close()


def test_what_was_spared_and_went_stale_does_not_stay_behind_the_hand(key):
    segment, cache = open_cache()
    capacity = cache.stats()["capacity"] // 512
    for number in range(capacity):
        put_bytes(cache, key(number), b"x", 0, 10)
        get_bytes(cache, key(number), 0)
    for number in range(2):  # the hand spares 64 each time, and is past them
        assert put_bytes(cache, key(("late", number)), b"x", 0, LIFE, cost_us=1000) == 1
        get_bytes(cache, key(("late", number)), 0)
    assert sum(cache.has(key(number), 0) for number in range(capacity)) == capacity - 2
    for number in range(capacity):  # nothing of this is ever asked for again
        put_bytes(cache, key(("flood", number)), b"x", 20, LIFE)
    assert cache.stats()["expired"] == capacity - 2
    assert sum(cache.has(key(("flood", number)), 20) for number in range(capacity)) >= capacity - 2
    segment.close()


def test_everything_visited_still_ends(key):
    segment, cache = open_cache()
    capacity = cache.stats()["capacity"] // 512
    for number in range(capacity):
        put_bytes(cache, key(number), b"x", 0, LIFE)
        get_bytes(cache, key(number), 0)
    assert put_bytes(cache, key("one more"), b"x", 0, LIFE) == 1
    assert not cache.has(key(64), 0)
    assert all(cache.has(key(number), 0) for number in range(64))
    assert cache.stats()["evictions"] == 1
    segment.close()


@pytest.mark.parametrize(("alpha", "scans"), [(0.7, False), (0.9, True), (1.1, True)])
@pytest.mark.parametrize("mixed", [False, True])
def test_hit_ratio_is_a_tenth_above_lru(key, alpha, scans, mixed):
    """The promise of the cache, on the real store: at the same bytes, on Zipf's law with and without scans."""
    trace = zipf(alpha, scans=scans, mixed=mixed, objects=3000, requests=30_000, largest=100_000)
    segment, cache = open_cache(max(512 << 10, trace.footprint() // 20))
    keys = {access.key: key(access.key) for access in trace.accesses}
    hits = 0
    for access in trace.accesses:
        if get_bytes(cache, keys[access.key], 0) is not None:
            hits += 1
        else:
            put_bytes(cache, keys[access.key], bytes(access.size), 0, LIFE, cost_us=access.cost)
    lru = Lru(cache.stats()["capacity"] // 512)
    lru_hits = sum(lru.access(one.key, chunks_of(one.size), one.cost) for one in trace.accesses)
    assert cache.stats()["corrupt"] == 0
    assert hits >= 1.1 * lru_hits
    segment.close()
