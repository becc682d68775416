"""The result cache: found, not found, stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import cycle

import pytest
from compiled.result_cache import get_bytes, put_bytes
from pytest_benchmark.fixture import BenchmarkFixture

from lb.cache.store import ResultCache
from lb.shared.segment import Segment

VALUE = bytes(range(256)) * 4
LIFE_NS = 10**15
KEYS = [hashlib.blake2b(b"%d" % number, digest_size=32).digest() for number in range(4096)]


@pytest.fixture
def cache() -> Iterator[ResultCache]:
    """With room for all of KEYS; the first half of them is in it."""
    segment = Segment.create(1, endpoint_capacity=1, series_capacity=1, cache_size=32 << 20)
    made = ResultCache(segment, 1 << 20)
    for key in KEYS[:2048]:
        put_bytes(made, key, VALUE, 1, LIFE_NS)
    yield made
    segment.close()


def test_hit(benchmark: BenchmarkFixture, cache: ResultCache) -> None:
    keys = cycle(KEYS[:2048])
    assert benchmark(lambda: get_bytes(cache, next(keys), 2)) == VALUE


def test_miss(benchmark: BenchmarkFixture, cache: ResultCache) -> None:
    keys = cycle(KEYS[2048:])
    assert benchmark(lambda: get_bytes(cache, next(keys), 2)) is None


def test_insert(benchmark: BenchmarkFixture, cache: ResultCache) -> None:
    keys = cycle(KEYS)
    assert benchmark(lambda: put_bytes(cache, next(keys), VALUE, 2, LIFE_NS)) == 1
    assert get_bytes(cache, KEYS[0], 2) == VALUE
