"""The scenarios that are simulated, by name. Servers, rates and deadlines of the bench's own are taken from there.

Where nothing is said of it, requests come at 0.9 of what the servers can do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from bench.emulated import Emulated
from bench.emulator.spec import Batched, Failure, Lognormal, Parallel, Service
from bench.load.arrivals import Poisson, Steps
from bench.open_loop import Open
from bench.scenarios import (
    failing_endpoint,
    mixed_batches,
    overload,
    overload_classes,
    stalling_endpoint,
    uneven_endpoints,
    untuned_changes,
    untuned_servers,
)
from bench.scenarios.base import Scenario as RealScenario
from bench.simulate.scenario import Join, Kind, Scenario, capacity, slowed

LOAD: Final = 0.9
FAST, SLOW = 5, 3  # servers that do several at a time, and those that take three times as long
SLOWER = 3.0

_EVEN = (failing_endpoint.WELL,) * failing_endpoint.FLEET
_LATE_S = 10.0
# As the bench's overload has it.
_DUE = Kind(deadline_ms=overload.DEADLINE * 1e3, patience_ms=overload.PACE.timeout * 1e3)


def uneven() -> Scenario:
    """The bench's uneven-endpoints."""
    services = uneven_endpoints.SERVICES
    return Scenario(
        "uneven", "twelve servers, four of them three times slower", services, Poisson(uneven_endpoints.PACE.rate),
        capacity(services), seconds=60,
    )  # fmt: skip


def stalling() -> Scenario:
    """The bench's stalling-endpoint."""
    services = stalling_endpoint.SERVERS.services
    return Scenario(
        "stalling", "one of twelve uneven servers at a time stalls for 2 s of 5", services,
        Poisson(stalling_endpoint.PACE.rate), capacity(services), seconds=stalling_endpoint.SECONDS,
    )  # fmt: skip


def overloaded() -> Scenario:
    """The bench's overload."""
    services = uneven_endpoints.SERVICES
    return Scenario(
        "overload", "1.5 times what the servers can do, due within 250 ms", services, Poisson(overload.PACE.rate),
        capacity(services), (_DUE,), seconds=30,
    )  # fmt: skip


def classes(prioritised: bool) -> Scenario:
    """The bench's overload-classes: the routes say how urgent they are, or nothing but when an answer is due."""
    services = uneven_endpoints.SERVICES
    kinds = {
        each.name: Kind(
            each.name,
            each.deadline * 1e3,
            priority=each.priority if prioritised else "normal",
            patience_ms=overload_classes.PACE.timeout * 1e3,
        )
        for each in overload_classes.CLASSES
    }
    return Scenario(
        "classes-prioritised" if prioritised else "classes", "1.5 times what the servers can do, of two classes",
        services, Poisson(overload_classes.PACE.rate), capacity(services),
        tuple(kinds[request.label] for request in overload_classes.MIX), seconds=30, warmup_s=3,
    )  # fmt: skip


def batches() -> Scenario:
    """The bench's mixed-batches."""
    services, sizes = mixed_batches.SERVERS.services, mixed_batches.BATCHES
    return Scenario(
        "mixed-batches", "eight servers whose time goes by the batch: 1, 16 and 32 items", services,
        Poisson(mixed_batches.PACE.rate), capacity(services, sum(sizes) / len(sizes)),
        tuple(Kind(units=size) for size in sizes), seconds=60,
    )  # fmt: skip


def concurrent(slots: int) -> Scenario:
    """Servers that do `slots` at a time, each the longer the more: all such scenarios have the same capacity."""

    def server(times: float) -> Service:
        return Service(Parallel(Lognormal(10.0 * slots * times, 0.5), slots))

    services = (server(1),) * FAST + (server(SLOWER),) * SLOW
    most = capacity(services)
    return Scenario(
        f"concurrent-{slots}", f"servers that do {slots} at a time, 5 fast and 3 three times slower", services,
        Poisson(LOAD * most), most, seconds=60, warmup_s=5,
    )  # fmt: skip


def unlimited() -> Scenario:
    """Servers that do any number at a time: their capacity is none, the rate that of the others."""
    fast, slow = (Service(Parallel(Lognormal(40.0 * times, 0.5), 100_000)) for times in (1, SLOWER))
    rate = concurrent(1).arrivals
    assert isinstance(rate, Poisson)
    return Scenario(
        "concurrent-unlimited", "servers that do any number at a time, 5 fast and 3 three times slower",
        (fast,) * FAST + (slow,) * SLOW, rate, rate.rate, seconds=60, warmup_s=5,
    )  # fmt: skip


def of_bench(name: str, real: RealScenario, title: str) -> Scenario:
    """The servers and requests of one of the bench's scenarios at a fixed rate."""
    services = _services(real)
    (pace,) = real.generators
    assert isinstance(pace, Open)
    return Scenario(name, title, services, Poisson(pace.rate), capacity(services), seconds=60, warmup_s=5)


def _services(real: RealScenario) -> tuple[Service, ...]:
    servers = real.servers["grpc"]
    assert isinstance(servers, Emulated)
    return servers.services


def batches_of(most: int) -> Scenario:
    """Servers that execute batches, of which one takes little longer than one request."""

    def server(times: float) -> Service:
        return Service(Batched(max_batch=most, max_wait_ms=2.0, fixed_ms=8.0 * times, per_item_ms=0.5 * times))

    services = (server(1),) * FAST + (server(SLOWER),) * SLOW
    able = capacity(services)
    return Scenario(
        f"batches-{most}", f"servers that do batches of {most}, 5 fast and 3 three times slower", services,
        Poisson(LOAD * able), able, seconds=30,
    )  # fmt: skip


def slowed_down() -> Scenario:
    """One server takes five times as long for a while: all together could still do what comes."""
    late = replace(_EVEN[0], antagonists=(slowed(5, _LATE_S, 10),))
    services = (*_EVEN[:3], late, *_EVEN[4:])
    most = capacity(services)
    return Scenario(
        "slowed", "eight servers, one takes five times as long for 10 s; 0.8 of the capacity", services,
        Poisson(0.8 * most), most, seconds=30,
    )  # fmt: skip


def halved() -> Scenario:
    """The bench's untuned-capacity-halved."""
    change, base = untuned_changes.HALVING, uneven_endpoints.SERVICES
    slow = slowed(change.factor, change.after, change.seconds)
    services = tuple(replace(each, antagonists=(slow,)) for each in base)
    return Scenario(
        "halved", "twelve uneven servers, all take twice as long for 20 s; due within 250 ms", services,
        Poisson(untuned_changes.HALVED_PACE.rate), capacity(base), (_DUE,), seconds=change.after + change.seconds + 5,
    )  # fmt: skip


def flash_crowd() -> Scenario:
    """The bench's untuned-flash-crowd."""
    steps = untuned_changes.CROWD_PACE.schedule
    assert isinstance(steps, Steps)
    services = uneven_endpoints.SERVICES
    return Scenario(
        "flash-crowd", "twelve uneven servers, five times as many requests for 6 s; due within 250 ms", services, steps,
        capacity(services), (_DUE,), seconds=sum(seconds for _, seconds in steps.steps),
    )  # fmt: skip


def cold() -> Scenario:
    """The bench's untuned-cold-server."""
    bench = untuned_changes
    warm = bench.COLD_SERVERS.services[: bench.WARM]
    late = replace(warm[0], antagonists=(slowed(bench.COLD_FACTOR, bench.JOINS_AFTER, bench.COLD_SECONDS),))
    return Scenario(
        "cold", "seven servers; an eighth joins, ten times slower for 5 s", (*warm, late),
        Poisson(bench.COLD_PACE.rate), capacity((*warm, late)), seconds=bench.JOINED_SECONDS,
        join=Join(bench.WARM, bench.JOINS_AFTER),
    )  # fmt: skip


def failing(kind: failing_endpoint.Kind) -> Iterator[Scenario]:
    """One of eight fails at once: from the start, late, until it is well again, and from when it joins."""
    name = failing_endpoint.KINDS[kind]
    hour = failing_endpoint.HOUR_MS

    def scenario(when: str, start_s: float, length_ms: float, join: Join | None = None) -> Scenario:
        bad = replace(failing_endpoint.WELL, failures=(Failure(start_s * 1e3, length_ms, how=kind),))
        services = (*_EVEN[:-1], bad)
        return Scenario(
            f"failing-{name}{when and '-' + when}", f"one of eight servers fails at once: {name} {when}".rstrip(),
            services, Poisson(failing_endpoint.PACE.rate), capacity(_EVEN[:-1]), seconds=30, join=join,
            warmup_s=0 if not start_s else 2,
        )  # fmt: skip

    yield scenario("", 0.0, hour)
    yield scenario("late", _LATE_S, hour)
    yield scenario("healing", _LATE_S, 5_000.0)
    yield scenario("joining", 0.5, hour, Join(len(_EVEN) - 1, _LATE_S))


def two_daemons(one: Scenario) -> Scenario:
    """The same, its requests over two daemons that know nothing of each other."""
    return replace(one, name=f"{one.name}-two-daemons", title=f"{one.title}; two daemons", daemons=2)


SCENARIOS: dict[str, Scenario] = {
    each.name: each
    for each in (
        uneven(),
        stalling(),
        overloaded(),
        classes(prioritised=False),
        classes(prioritised=True),
        batches(),
        concurrent(1),
        concurrent(4),
        concurrent(16),
        of_bench("concurrent-8", untuned_servers.CONCURRENT, "servers that do 8 at a time; 0.75 of the capacity"),
        unlimited(),
        of_bench("batching", untuned_servers.BATCHING, "servers that do long batches of 16; 0.75 of the capacity"),
        batches_of(16),
        slowed_down(),
        halved(),
        flash_crowd(),
        cold(),
        two_daemons(uneven()),
        two_daemons(overloaded()),
        two_daemons(concurrent(4)),
        *(scenario for kind in failing_endpoint.KINDS for scenario in failing(kind)),
    )
}
