"""Damage in the shared memory costs entries, never a wrong value, a crash or a hang."""

import hashlib
import os
import random

import pytest
from compiled.result_cache import first_shard, get_bytes, put_bytes

from lb.cache.store import ResultCache
from lb.shared.segment import Segment

LIFE = 1 << 40
SIZE = 96 << 10
LENGTHS = [0, 5, 424, 425, 2000, 9000]


def value_of(number, length):
    return hashlib.shake_128(b"%d %d" % (number, length)).digest(length)


def fill(cache, key, rng, now):
    for number in range(60):
        put_bytes(cache, key(number), value_of(number, rng.choice(LENGTHS)), now, LIFE)
        get_bytes(cache, key(rng.randrange(60)), now)


@pytest.fixture
def region():
    segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, cache_size=SIZE)
    yield segment, first_shard(ResultCache(segment, 10_000))  # the only one
    segment.close()


def test_a_flipped_bit_of_a_value_is_a_miss_and_is_counted_once(region, key):
    segment, _ = region
    cache = ResultCache(segment, 10_000)
    value = value_of(1, 2000)
    for bit in range(0, 2000 * 8, 997):
        put_bytes(cache, key(1), value, 0, LIFE)
        byte = bit // 8
        start = 0 if byte < 424 else 424 + (byte - 424) // 512 * 512  # of what lies in the same chunk
        memory = os.pread(segment.fd, os.fstat(segment.fd).st_size, 0)
        place = memory.rindex(value[start : start + 64]) + byte - start
        os.pwrite(segment.fd, bytes([value[byte] ^ (1 << bit % 8)]), place)
        before = cache.stats()["corrupt"]
        assert get_bytes(cache, key(1), 0) is None
        assert get_bytes(cache, key(1), 0) is None
        assert cache.stats()["corrupt"] == before + 1


@pytest.mark.parametrize("seed", range(30))
def test_rubbish_anywhere_in_the_shard(region, key, seed):
    segment, start = region
    cache = ResultCache(segment, 10_000)
    rng, whole = random.Random(seed), os.fstat(segment.fd).st_size - start
    now = 0
    for _ in range(40):
        fill(cache, key, rng, now)
        for _ in range(rng.choice([1, 3, 30, 300])):
            # Half of it where the links are: state, buckets and nodes are the first tenth of a shard.
            span = whole if rng.random() < 0.5 else whole // 10
            kind = rng.randrange(3)
            if kind == 0:
                rubbish = rng.randbytes(rng.choice([1, 4, 8, 64]))
            elif kind == 1:
                rubbish = rng.randrange(200).to_bytes(4, "little")  # a number that is in bounds
            else:
                rubbish = b"\xff" * 8
            at = start + rng.randrange(span - len(rubbish)) // 4 * 4
            os.pwrite(segment.fd, rubbish, at)
        now += 10**8  # a lock that looks taken is looked into again
        for number in range(60):
            found = get_bytes(cache, key(number), now)
            # Which of its values a key still has is up to the damage.
            assert found is None or found in [value_of(number, length) for length in LENGTHS]
        for number in range(60):
            cache.drop(key(number), now)
            put_bytes(cache, key(number), value_of(number, 5), now, LIFE)
    assert cache.stats()["corrupt"] > 0


def test_a_damaged_shard_is_emptied_and_works_again(region, key):
    segment, start = region
    cache = ResultCache(segment, 10_000)
    for number in range(60):
        put_bytes(cache, key(number), value_of(number, 425), 0, LIFE)
    os.pwrite(segment.fd, b"\xff" * 4096, start + 128)  # buckets and nodes
    assert put_bytes(cache, key(1), b"x", 0, LIFE) == -1
    assert (cache.stats()["entries"], cache.stats()["bytes"], cache.stats()["corrupt"]) == (0, 0, 1)
    assert put_bytes(cache, key(1), b"x", 0, LIFE) == 1
    assert get_bytes(cache, key(1), 0) == b"x"
    capacity = cache.stats()["capacity"] // 512
    for number in range(2 * capacity):
        assert put_bytes(cache, key(("again", number)), b"x", 0, LIFE) == 1
    assert cache.stats()["entries"] == capacity
