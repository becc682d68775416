"""Scaling of 1,000 pools: what the master does in one round of looks, and in one of decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lb.clock import ManualClock
from lb.config.schema.file import ScalingConfig
from lb.config.units import MILLISECOND, SECOND
from lb.control.servers.autoscaler import Autoscaler
from lb.control.servers.replica import Replica, State
from lb.control.servers.scaling_memory import ScalingMemory
from lb.control.servers.signals import Source
from lb.control.servers.traffic import Counts, EndpointCounts
from lb.shared.words import BOUNDS_US

POOLS = 1000
REPLICAS = 4
WARM = 60  # looks before: `auto` decides nothing until it has seen something
RULES: dict[str, dict[str, Any]] = {
    "auto": {"rule": "auto", "objective": "200ms"},
    "hpa": {"rule": "hpa", "metrics": [{"type": "in_flight", "target": 4}]},
}


class Servers:
    """In place of a supervisor: model servers that are ready at once."""

    start_time = SECOND

    def __init__(self) -> None:
        self.wanted = REPLICAS
        self._replicas = [Replica(i, i + 1, f"unix:/{i}", State.READY, 0, 0, "") for i in range(REPLICAS)]

    def replicas(self) -> Sequence[Replica]:
        return self._replicas

    def scale_to(self, n: int) -> None:
        self.wanted = n


class World:
    """Pools with the same load, which swings a little: 100 requests/s of 20 ms each."""

    def __init__(self, rule: str) -> None:
        self.now = SECOND
        self._seconds = 0
        self._requests = 0
        self._advance()
        config = ScalingConfig.model_validate(RULES[rule])
        source = Source(
            inflight=lambda address: 2,
            waiting=lambda: 0,
            counts=lambda: self.counts,
            pids=dict,
            cpu=dict,
            memory=dict,
            report=lambda address: (0.0, 0),
        )
        memory, clock = ScalingMemory("p", None), ManualClock()
        self.scalers = [Autoscaler(f"p{i}", Servers(), config, (1, 20), source, memory, clock) for i in range(POOLS)]
        for _ in range(WARM):
            self.look()

    def look(self) -> None:
        """A second later."""
        self._advance()
        for scaler in self.scalers:
            scaler.sample(self.now)

    def decide(self) -> None:
        for scaler in self.scalers:
            scaler.step(self.now)

    def _advance(self) -> None:
        self.now += SECOND
        self._seconds += 1
        self._requests += 95 + self._seconds % 11
        durations = (0,) * len(BOUNDS_US)
        each = self._requests // REPLICAS
        endpoint = EndpointCounts((*durations, each), 0, each * 20 * MILLISECOND, 2)
        self.counts = Counts(self._requests, 0, 0, 0, {f"unix:/{i}": endpoint for i in range(REPLICAS)})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("what", ["look", "decide"])
def test_round(benchmark: BenchmarkFixture, rule: str, what: str) -> None:
    world = World(rule)
    work: Callable[[], None] = getattr(world, what)
    benchmark(work)
    assert all(1 <= scaler.status()["wanted"] <= 20 for scaler in world.scalers)
