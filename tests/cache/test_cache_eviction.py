"""Eviction: exactly SIEVE, and better than FIFO on a skewed trace."""

import collections
import itertools
import random

from compiled.result_cache import get_bytes, put_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.cache.store import ResultCache
from lb.shared.segment import Segment

LIFE = 1 << 40
REGION = 64 << 10


class Sieve:
    """SIEVE as in the paper (NSDI 2024, algorithm 1), on a plain list from oldest to newest; sizes in chunks.

    Before the hand, a broom looks at the next three entries on its own way round, and takes a stale one.
    """

    def __init__(self, capacity):
        self.capacity = capacity
        self.queue = []
        self.hand = self.broom = None
        self.visited, self.size, self.expires = {}, {}, {}

    def after(self, key):
        at = self.queue.index(key) + 1
        return self.queue[at] if at < len(self.queue) else None

    def remove(self, key):
        if self.hand == key:
            self.hand = self.after(key)
        if self.broom == key:
            self.broom = self.after(key)
        self.queue.remove(key)
        for table in (self.visited, self.size, self.expires):
            del table[key]

    def evict(self, now):
        for _ in range(3):
            candidate = self.broom if self.broom is not None else self.queue[0]
            if now >= self.expires[candidate]:
                self.remove(candidate)
                return
            self.broom = self.after(candidate)
        candidate = self.hand if self.hand is not None else self.queue[0]
        while self.visited[candidate] and now < self.expires[candidate]:
            self.visited[candidate] = False
            following = self.after(candidate)
            candidate = following if following is not None else self.queue[0]
        self.hand = candidate
        self.remove(candidate)

    def put(self, key, chunks, now, ttl):
        if key in self.size:
            self.remove(key)
        while sum(self.size.values()) + chunks > self.capacity:
            self.evict(now)
        self.queue.append(key)
        self.visited[key], self.size[key], self.expires[key] = False, chunks, now + ttl

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
@given(seed=st.integers(0, 2**32), sizes=st.sampled_from([(1,), (1, 2, 3), (1, 7, 30)]), ttl=st.booleans())
def test_evicts_what_sieve_evicts(key, seed, sizes, ttl):
    segment, cache = open_cache()
    capacity = cache.stats()["capacity"] // 512
    assert capacity > 80
    model = Sieve(capacity)
    rng = random.Random(seed)
    keys = [key(number) for number in range(3 * capacity)]
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
            model.put(number, chunks, now, life)
            assert put_bytes(cache, keys[number], value_of(chunks, number), now, life) == 1
        else:
            model.drop(number)
            cache.drop(keys[number], now)
        assert cache.stats()["entries"] == len(model.queue)
        assert cache.stats()["bytes"] == 512 * sum(model.size.values())
    held = {number for number, digest in enumerate(keys) if cache.has(digest, now)}
    assert held == {number for number in model.queue if now < model.expires[number]}
    segment.close()


def test_a_visit_saves_once_and_only_once(key):
    segment, cache = open_cache()
    capacity = cache.stats()["capacity"] // 512
    for number in range(capacity):
        put_bytes(cache, key(number), b"x", 0, LIFE)
    get_bytes(cache, key(0), 0)
    put_bytes(cache, key("a"), b"x", 0, LIFE)
    assert cache.has(key(0), 0)
    assert not cache.has(key(1), 0)
    for number in [*range(2, capacity), "a"]:
        assert get_bytes(cache, key(number), 0) is not None
    put_bytes(
        cache, key("b"), b"x", 0, LIFE
    )  # the hand spares all these, comes round, and finds the first without a visit
    assert not cache.has(key(0), 0)
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
    for number in range(2):  # the hand spares all but one, and is past them
        put_bytes(cache, key(("late", number)), b"x", 0, LIFE)
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
    assert not cache.has(key(0), 0)
    assert cache.stats()["evictions"] == 1
    segment.close()


def test_hit_ratio_on_a_zipf_trace_beats_fifo(key):
    segment, cache = open_cache(512 << 10)
    capacity = cache.stats()["capacity"] // 512
    objects = 10 * capacity
    weights = list(itertools.accumulate(1 / rank for rank in range(1, objects + 1)))
    trace = random.Random(7).choices(range(objects), cum_weights=weights, k=60_000)
    keys = [key(number) for number in range(objects)]
    sieve_hits = fifo_hits = 0
    fifo, order = set(), collections.deque()
    for number in trace:
        if get_bytes(cache, keys[number], 0) is not None:
            sieve_hits += 1
        else:
            put_bytes(cache, keys[number], b"x", 0, LIFE)
        if number in fifo:
            fifo_hits += 1
        else:
            fifo.add(number)
            order.append(number)
            if len(order) > capacity:
                fifo.discard(order.popleft())
    assert sieve_hits / len(trace) > fifo_hits / len(trace) + 0.03
    segment.close()
