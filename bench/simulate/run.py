"""One run of a scenario."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from bench.emulator.distributions import ns
from bench.emulator.model import Executor
from bench.emulator.spec import Serial, Service
from bench.emulator.timeline import Span
from bench.load.arrivals import Constant, Poisson, schedule
from bench.simulate._engine import Server, Simulation
from bench.simulate.daemon import Daemon, configuration, mapping
from bench.simulate.result import Answer, Result
from bench.simulate.scenario import SECOND, Scenario, timeline_of
from lb.balancing.turns import reseed as reseed_turns
from lb.config.schema.file import Config
from lb.proxy.random import reseed as reseed_worker
from lb.shared import seeds

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
) -> Result:
    """Runs `scenario` in simulated time.

    `pool` and `route` are YAML: what the file says of the pool and of each route besides endpoints and timeout.
    `config` is a whole file instead, whose first pool has an endpoint for each server. `seconds` are measured (default:
    the scenario's). `workers` is per daemon. `delay_ms` is the network's between any two. The same arguments give the
    same result. Raises ConfigError for a configuration that is none, BenchError for arrivals that cannot be.
    """
    if seconds is not None:
        scenario = replace(scenario, seconds=seconds)
    seeds.repeat(seed)
    try:
        reseed_turns()
        reseed_worker()
        return _run(scenario, mapping(pool), mapping(route), config, seed, workers, delay_ms)
    finally:
        seeds.repeat(None)
        reseed_turns()
        reseed_worker()


def _run(
    scenario: Scenario,
    pool: Mapping[str, Any],
    route: Mapping[str, Any],
    config: Config | None,
    seed: int,
    workers: int,
    delay_ms: float,
) -> Result:
    simulation = Simulation(_BEGIN, ns(delay_ms), seed, _METHODS[scenario.method])
    epoch = _BEGIN + round(scenario.warmup_s * SECOND)
    addresses = [f"192.0.2.{1 + i // 250}:{9000 + i % 250}" for i in range(len(scenario.services))]
    if config is not None:
        addresses = [each.address for each in config.pools[next(iter(config.pools))].endpoints]
    servers = [_server(simulation, i, service, seed, epoch, addresses) for i, service in enumerate(scenario.services)]
    full = config or configuration(scenario, addresses, pool, route, workers)
    first = full
    if scenario.join is not None and config is None:
        first = configuration(scenario, addresses[: scenario.join.first], pool, route, workers)
    for _ in range(scenario.daemons):
        daemon = Daemon(simulation, workers)
        daemon.apply(first)
        daemon.steer()
        simulation.daemons.append(daemon.workers)
        if first is not full:
            assert scenario.join is not None
            simulation.at(epoch + round(scenario.join.at_s * SECOND), partial(daemon.apply, full))
    for server in servers:
        simulation.at(epoch, server.forget_peak)
    kinds = [(number, kind.units, ns(kind.patience_ms or 0)) for number, kind in enumerate(scenario.kinds)]
    times = _schedule(scenario, seed)
    end = epoch + round((scenario.seconds + scenario.cooldown_s + _DRAIN_S) * SECOND)
    sent = simulation.run(times, kinds, end)
    everything = [Answer(*one) for one in simulation.answers()]
    until = epoch + round(scenario.seconds * SECOND)
    counted = [one for one in everything if epoch <= one.intended < until]
    result = Result(
        scenario, seed, epoch, scenario.seconds, counted, tuple(simulation.reasons),
        tuple(server.most_in_flight for server in servers), sent, everything,
    )  # fmt: skip
    simulation.clean()
    return result


def _server(
    simulation: Simulation, index: int, service: Service, seed: int, epoch: int, addresses: list[str]
) -> Server:
    """As bench.emulator.server.ModelServer, whose windows count from `epoch`."""
    failures = [(Span(epoch + ns(f.start_ms), ns(f.length_ms), ns(f.every_ms or 0)), f.how) for f in service.failures]
    execution = service.execution
    executor: Executor[Any] = Executor(
        execution, timeline_of(service, epoch), Random(f"{seed}/{index}"), service.max_queue
    )
    by_items = isinstance(execution, Serial) and execution.per_item
    server = Server(simulation, index, executor, failures, by_items)
    simulation.servers[addresses[index]] = server
    return server


def _schedule(scenario: Scenario, seed: int) -> array[int]:
    duration = scenario.seconds
    if isinstance(scenario.arrivals, Constant | Poisson):
        duration += scenario.cooldown_s
    offsets = schedule(scenario.arrivals, seed, scenario.warmup_s, duration)
    return array("q", [_BEGIN + offset for offset in offsets])
