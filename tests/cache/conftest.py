"""Shared by the cache's tests: small caches and keys as they occur, that is digests."""

import hashlib

import pytest

from lb.cache.store import ResultCache
from lb.shared.segment import Segment


@pytest.fixture
def make_cache():
    """Factory of caches, each in a segment of its own."""
    segments = []

    def make(size=1 << 20, max_object=1 << 20, workers=2):
        segment = Segment.create(workers, endpoint_capacity=1, series_capacity=1, cache_size=size)
        segments.append(segment)
        return ResultCache(segment, max_object)

    yield make
    for segment in segments:
        segment.close()


@pytest.fixture
def key():
    return lambda number: hashlib.blake2b(str(number).encode(), digest_size=32).digest()
