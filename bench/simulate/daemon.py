"""A daemon in simulated time: its configuration, its master's part of balancing, and its workers."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.scenarios.untuned import PATIENCE
from bench.simulate._engine import Simulation, Worker
from bench.simulate.scenario import Scenario
from lb.balancing.policy_checks import check_policies
from lb.config.document import parse
from lb.config.load import load
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import Plan
from lb.config.schema.file import Config
from lb.control.endpoints import targets
from lb.control.endpoints.steering import LOOK, Steering
from lb.control.registry import Initial, Registry
from lb.proxy.routing.checks import check_routes
from lb.shared.segment import Segment

POOL = "servers"
WAKEUP_NS = 20_000
_CAPACITY = 4096


class SimulatedClock:
    """What the master's parts read."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def now(self) -> int:
        return self._simulation.now


class Daemon:
    """The master's segment, registry and steering, and `workers` workers."""

    def __init__(self, simulation: Simulation, workers: int) -> None:
        self._simulation = simulation
        self._segment = Segment.create(workers, _CAPACITY, _CAPACITY)
        self._registry = Registry(self._segment, _CAPACITY, _CAPACITY)
        self._clock = SimulatedClock(simulation)
        self._steering = Steering(self._segment, self._clock, lambda *_: True, lambda *_: False)
        self._generation = 0
        self.plan: Plan | None = None
        wakeups: list[Any] = []
        self.workers = [
            Worker(simulation, Segment.attach(os.dup(self._segment.fd), number), wakeups, WAKEUP_NS)
            for number in range(workers)
        ]

    def apply(self, config: Config) -> None:
        """Publishes a configuration: what lb.control.publisher does, without sockets and processes."""
        now = self._clock.now()
        self._generation += 1
        self._registry.begin()
        plan = compile_plan(
            config, generation=self._generation, workers=len(self.workers), allocator=self._registry, managed={}
        )
        initial = {slot: Initial(found.weight, up=True) for slot, found in targets.initial(plan, config)}
        self._registry.prepare(initial, now)
        self._steering.update(plan, config)
        for worker in self.workers:
            worker.adopt(plan)
        self._registry.commit(initial, now)
        self.plan = plan

    def total(self, number: int) -> list[int]:
        """The words of a series of the plan, over all workers (lb.shared.words)."""
        return self._segment.series_total(number)

    def close(self) -> None:
        """Gives the segment back, once the simulation is over."""
        for worker in self.workers:
            worker.close()
        self._segment.close()

    def steer(self) -> None:
        """The master looks, now and then for ever."""
        self._steering.look()
        self._simulation.at(self._simulation.now + int(LOOK * 1e9), self.steer)


def mapping(text: str) -> dict[str, Any]:
    """The mapping that a piece of YAML holds."""
    return dict(parse(text.encode()).data) if text.strip() else {}


def configuration(
    scenario: Scenario, addresses: Sequence[str], pool: Mapping[str, Any], route: Mapping[str, Any], workers: int
) -> Config:
    """The file with these endpoints, a route for each kind of request with its deadline (as a time limit, which is long
    where it has none) and priority, and `pool` and `route` besides. Raises ConfigError."""
    routes: list[dict[str, Any]] = []
    for kind in scenario.kinds:
        one: dict[str, Any] = {"pool": POOL, **route}
        if len(scenario.kinds) > 1:
            one["match"] = {"headers": {"x-kind": str(len(routes))}}
        one.setdefault("timeout", f"{kind.deadline_ms or PATIENCE * 1e3:g}ms")
        if kind.priority != "normal":
            one["priority"] = kind.priority
        routes.append(one)
    return read(
        {
            "workers": workers,
            "listeners": {"front": {"bind": "127.0.0.1:1", "protocol": "http", "routes": routes}},
            "pools": {POOL: {"protocol": scenario.protocol, "endpoints": list(addresses), **pool}},
        }
    )


def addresses_of(config: Config) -> list[str]:
    """Of the endpoints of all pools, in the order of the file."""
    return [endpoint.address for pool in config.pools.values() for endpoint in pool.endpoints]


def read(data: Mapping[str, Any]) -> Config:
    """As from a file, with its checks. Raises ConfigError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simulated.yaml"
        path.write_text(json.dumps(data))
        return read_file(path)


def read_file(path: Path) -> Config:
    """A file as the daemon reads it, but for names and for files that it names. Raises ConfigError."""
    return load(path, checks=(check_policies, check_routes), files=False)
