"""The choice of an endpoint, and the table behind consistent hashing."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.fleet import addresses, worker_segment
from lb.balancing import registry
from lb.balancing.slots import SLOTS, SlotTable
from lb.config.plan import PolicyPlan
from lb.endpoints.set import EndpointSet

# Odd, so that a multiple of it modulo 2**64 takes every value.
_STRIDE = 0x9E3779B97F4A7C15


@pytest.mark.parametrize("size", [8, 256])
@pytest.mark.parametrize("policy", sorted(registry.POLICIES))
def test_pick(benchmark: BenchmarkFixture, policy: str, size: int) -> None:
    with worker_segment(size) as segment:
        made = registry.build(PolicyPlan(policy), EndpointSet(segment, addresses(size), range(size)))
        numbers = count()

        def pick() -> int:
            return made.pick(0, next(numbers) * _STRIDE % 2**64, -1)

        assert 0 <= benchmark(pick) < size
        # Nothing is in flight, so every policy spreads over all of them.
        chosen = Counter(pick() for _ in range(size * 100))
        assert set(chosen) == set(range(size))


@pytest.mark.parametrize("size", [64, 1024])
def test_maglev_table(benchmark: BenchmarkFixture, size: int) -> None:
    members = [(address, 1) for address in addresses(size)]
    table = benchmark(SlotTable, members)
    shares = Counter(table.owner(slot) for slot in range(SLOTS))
    assert set(shares) == set(range(size))
    assert max(shares.values()) < 1.5 * SLOTS / size
