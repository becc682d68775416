"""The hashes behind affinity and cache keys."""

from __future__ import annotations

import hashlib

import pytest
from compiled.bytes_to_values import data_digest_bytes, digest_bytes
from pytest_benchmark.fixture import BenchmarkFixture

from lb.shared.hashing import hash64_bytes

KEY = bytes(range(32))
SIZES = [700, 1 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_hash64(benchmark: BenchmarkFixture, size: int) -> None:
    data = bytes(size)
    found = benchmark(hash64_bytes, data)
    assert found == hash64_bytes(b"\0" * size)
    assert found != hash64_bytes(data[:-1] + b"\1")


@pytest.mark.parametrize("size", SIZES)
def test_digest(benchmark: BenchmarkFixture, size: int) -> None:
    data = bytes(size)
    assert benchmark(digest_bytes, KEY, data) == hashlib.blake2b(data, key=KEY, digest_size=32).digest()


@pytest.mark.parametrize("size", SIZES)
def test_tensor(benchmark: BenchmarkFixture, size: int) -> None:
    data = bytes(size)
    assert benchmark(data_digest_bytes, KEY, data) == data_digest_bytes(KEY, data) != data_digest_bytes(KEY, data[1:])
