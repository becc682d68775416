"""One run of a scenario."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

import numpy as np

from bench.emulator.distributions import ns
from bench.emulator.model import Executor
from bench.emulator.spec import Serial, Service
from bench.emulator.timeline import Span
from bench.errors import BenchError
from bench.load.arrivals import Constant, Poisson, schedule
from bench.simulate._engine import Server, Simulation, Worker
from bench.simulate.daemon import Daemon, addresses_of, configuration, mapping
from bench.simulate.result import RECORD, Result
from bench.simulate.scenario import SECOND, Scenario, timeline_of
from lb.balancing.turns import reseed as reseed_turns
from lb.config.schema.file import Config
from lb.proxy.random import reseed as reseed_worker
from lb.shared import seeds

Watch = Callable[[float, Sequence[Sequence[Worker]]], None]

DELAY_MS = 0.1
_BEGIN = 1_000 * SECOND  # of simulated time: it has been running for a while
_DRAIN_S = 120.0
_METHODS = {"GET": 1, "POST": 3}  # llhttp's numbers


def simulate(
    scenario: Scenario,
    pool: str = "",
    seconds: float | None = None,
    seed: int = 1,
    workers: int = 1,
    *,
    route: str = "",
    config: Config | None = None,
    delay_ms: float = DELAY_MS,
    watch: Watch | None = None,
    every_ms: float = 100.0,
) -> Result:
    """Runs `scenario` in simulated time.

    `pool` and `route` are YAML: what the file says of the pool and of each route besides endpoints and timeout.
    `config` is a whole file instead, whose pools have an endpoint for each server, and its first listener a route for
    each kind of request or one for all. `seconds` are measured (default: the scenario's). `workers` is per daemon.
    `delay_ms` is the network's between any two. `watch(seconds, daemons)` is called every `every_ms`, with the seconds
    since the end of the warm-up: it may look at the pools of the daemons' workers. The same arguments give the same
    result.

    Raises ConfigError for a configuration that is none, BenchError for one that does not go with the scenario and for
    arrivals that cannot be.
    """
    if seconds is not None:
        scenario = replace(scenario, seconds=seconds)
    seeds.repeat(seed)
    try:
        reseed_turns()
        reseed_worker()
        files = _files(scenario, pool, route, config, workers)
        simulation = Simulation(_BEGIN, ns(delay_ms), seed, _METHODS[scenario.method], scenario.reports)
        with ExitStack() as stack:
            stack.callback(simulation.clean)
            daemons = [stack.enter_context(closing(Daemon(simulation, workers))) for _ in range(scenario.daemons)]
            return _run(simulation, scenario, files, daemons, seed, watch, every_ms)
    finally:
        seeds.repeat(None)
        reseed_turns()
        reseed_worker()


@dataclass(frozen=True)
class _Files:
    """The file at the beginning, and when all servers are endpoints; the address of each server."""

    first: Config
    full: Config
    addresses: list[str]


def _files(scenario: Scenario, pool: str, route: str, config: Config | None, workers: int) -> _Files:
    count = len(scenario.services)
    if config is not None:
        addresses = addresses_of(config)
        if len(addresses) != count:
            raise BenchError(f"{scenario.name} has {count} servers, and the file {len(addresses)} endpoints")
        return _Files(config, config, addresses)
    addresses = [f"192.0.2.{1 + i // 250}:{9000 + i % 250}" for i in range(count)]
    options = mapping(pool), mapping(route), workers
    full = configuration(scenario, addresses, *options)
    if scenario.join is None:
        return _Files(full, full, addresses)
    return _Files(configuration(scenario, addresses[: scenario.join.first], *options), full, addresses)


def _run(
    simulation: Simulation,
    scenario: Scenario,
    files: _Files,
    daemons: Sequence[Daemon],
    seed: int,
    watch: Watch | None,
    every_ms: float,
) -> Result:
    epoch = _BEGIN + round(scenario.warmup_s * SECOND)
    servers = []
    for number, service in enumerate(scenario.services):
        servers.append(_server(simulation, number, service, seed, epoch))
        simulation.servers[files.addresses[number]] = servers[-1]
        simulation.at(epoch, servers[-1].forget_peak)
    for daemon in daemons:
        daemon.apply(files.first)
        daemon.steer()
        simulation.daemons.append(daemon.workers)
        if scenario.join is not None and files.first is not files.full:
            simulation.at(epoch + round(scenario.join.at_s * SECOND), partial(daemon.apply, files.full))
    if watch is not None:
        _look(simulation, watch, epoch, ns(every_ms))
    routes = len(next(iter(files.full.listeners.values())).routes)
    kinds = [
        (number if routes > 1 else 0, kind.units, ns(kind.patience_ms or 0))
        for number, kind in enumerate(scenario.kinds)
    ]
    if max(number for number, _, _ in kinds) >= routes:
        raise BenchError(f"{scenario.name} has {len(kinds)} kinds of requests, and the file {routes} routes")
    end = epoch + round((scenario.seconds + scenario.cooldown_s + _DRAIN_S) * SECOND)
    sent = simulation.run(_schedule(scenario, seed), kinds, end)
    records = np.frombuffer(simulation.answers(), RECORD)
    peaks = tuple(server.most_in_flight for server in servers)
    return Result(scenario, seed, epoch, scenario.seconds, sent, records, tuple(simulation.reasons), peaks)


def _look(simulation: Simulation, watch: Watch, epoch: int, every: int) -> None:
    watch((simulation.now - epoch) / SECOND, simulation.daemons)
    simulation.at(simulation.now + every, partial(_look, simulation, watch, epoch, every))


def _server(simulation: Simulation, number: int, service: Service, seed: int, epoch: int) -> Server:
    """As bench.emulator.server.ModelServer, whose windows count from `epoch`."""
    failures = [(Span(epoch + ns(f.start_ms), ns(f.length_ms), ns(f.every_ms or 0)), f.how) for f in service.failures]
    execution = service.execution
    random = Random(f"{seed}/{number}")
    executor = Executor(execution, timeline_of(service, epoch), random, service.max_queue)
    by_items = isinstance(execution, Serial) and execution.per_item
    return Server(simulation, number, executor, failures, by_items)


def _schedule(scenario: Scenario, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    duration = scenario.seconds
    if isinstance(scenario.arrivals, Constant | Poisson):
        duration += scenario.cooldown_s
    offsets = schedule(scenario.arrivals, seed, scenario.warmup_s, duration)
    return np.frombuffer(offsets, np.int64) + _BEGIN
