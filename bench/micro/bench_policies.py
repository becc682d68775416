"""The choice of an endpoint, and the tables behind consistent hashing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from compiled.endpoint_set import acquire
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.fleet import addresses, worker_segment
from lb.balancing import registry
from lb.balancing.policy import Policy
from lb.balancing.ring import Ring
from lb.balancing.slots import SLOTS, SlotTable
from lb.config.plan.plan import PolicyPlan
from lb.endpoints.choice import Choice
from lb.endpoints.set import EndpointSet

# Odd, so that a multiple of it modulo 2**64 takes every value.
_STRIDE = 0x9E3779B97F4A7C15


# Policies, and the options that make them do more.
_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in registry.POLICIES if name != "first"},
    "first": ("first", {"fill": 2}),
    "power_of_two, 5": ("power_of_two", {"choices": 5}),
    "maglev, bounded": ("maglev", {"bounded_load": 1.25}),
    "rendezvous, bounded": ("rendezvous", {"bounded_load": 1.25}),
    "ring_hash, bounded": ("ring_hash", {"bounded_load": 1.25}),
}
_NOW = 10**12


@contextmanager
def _built(case: str, size: int) -> Iterator[tuple[EndpointSet, Policy, Callable[[], int]]]:
    """The endpoints, the policy, and a choice among them for the next of many keys."""
    name, options = _CASES[case]
    with worker_segment(size) as segment:
        endpoints = EndpointSet(segment, addresses(size), range(size))
        made = registry.build(PolicyPlan(name, options=options), endpoints)
        numbers = count()

        def pick() -> int:
            return made.pick(Choice(endpoints, _NOW, next(numbers) * _STRIDE % 2**64))

        yield endpoints, made, pick


@pytest.mark.parametrize("size", [16, 1000])
@pytest.mark.parametrize("case", sorted(_CASES))
def test_pick_idle(benchmark: BenchmarkFixture, case: str, size: int) -> None:
    with _built(case, size) as (_, _, pick):
        assert 0 <= benchmark(pick) < size
        # Nothing is in flight, so every policy spreads over all of them, but for the one that is made not to.
        chosen = Counter(pick() for _ in range(size * 100))
        assert set(chosen) == ({0} if case == "first" else set(range(size)))


@pytest.mark.parametrize("size", [16, 1000])
@pytest.mark.parametrize("case", sorted(_CASES))
def test_pick_loaded(benchmark: BenchmarkFixture, case: str, size: int) -> None:
    """One to three requests in flight at every endpoint, and latencies of about a millisecond."""
    with _built(case, size) as (endpoints, made, pick):
        for i in range(size):
            endpoints.record_latency(i, 1e6 + 1e3 * (i * 7 % size), _NOW - i)
            for _ in range(1 + i % 3):
                acquire(endpoints, i)
            if made.by_in_flight:
                made.learn(i, _NOW - i, 1_000_000 + 1_000 * (i * 7 % size), True, 1 + i % 3, 1)
        assert 0 <= benchmark(pick) < size


@pytest.mark.parametrize("size", [16, 1000])
def test_ring(benchmark: BenchmarkFixture, size: int) -> None:
    members = [(address, 1) for address in addresses(size)]
    ring = benchmark(Ring, members, 160)
    assert ring.size == 160 * size
    assert {ring.owner(n * _STRIDE % 2**64) for n in range(100 * size)} == set(range(size))


@pytest.mark.parametrize("size", [64, 1024])
def test_maglev_table(benchmark: BenchmarkFixture, size: int) -> None:
    members = [(address, 1) for address in addresses(size)]
    table = benchmark(SlotTable, members)
    shares = Counter(table.owner(slot) for slot in range(SLOTS))
    assert set(shares) == set(range(size))
    assert max(shares.values()) < 1.5 * SLOTS / size
