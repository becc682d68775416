"""The scenarios that are simulated, by name. Servers, rates and deadlines of the bench's own are taken from there.

Where nothing is said of it, requests come at 0.9 of what the servers can do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from bench.emulator.spec import Batched, FailHow, Failure, Lognormal, Normal, Parallel, Serial, Service
from bench.load.arrivals import Poisson, Steps
from bench.scenarios import mixed_batches, overload, overload_classes, stalling_endpoint, uneven_endpoints
from bench.simulate.scenario import Join, Kind, Scenario, capacity, slowed

LOAD: Final = 0.9
FAST, SLOW = 5, 3  # servers that do several at a time, and those that take three times as long
SLOWER = 3.0
FAILURES: Final[dict[str, FailHow]] = {"500": "error", "503": "unavailable", "429": "limited", "reset": "reset"}

_EVEN = (Service(Serial(Normal(10, 0.2))),) * 8
_LATE_S = 10.0
_LONG_MS = 3_600_000.0


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
    kind = Kind(deadline_ms=overload.DEADLINE * 1e3, patience_ms=overload.PACE.timeout * 1e3)
    return Scenario(
        "overload", "1.5 times what the servers can do, due within 250 ms", services, Poisson(overload.PACE.rate),
        capacity(services), (kind,), seconds=30,
    )  # fmt: skip


def classes() -> Scenario:
    """The bench's overload-classes."""
    services = uneven_endpoints.SERVICES
    kinds = {
        each.name: Kind(
            each.name, each.deadline * 1e3, priority=each.priority, patience_ms=overload_classes.PACE.timeout * 1e3
        )
        for each in overload_classes.CLASSES
    }
    return Scenario(
        "classes", "1.5 times what the servers can do, of two classes", services, Poisson(overload_classes.PACE.rate),
        capacity(services), tuple(kinds[request.label] for request in overload_classes.MIX), seconds=30, warmup_s=3,
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


def batching() -> Scenario:
    """Servers that execute batches."""

    def server(times: float) -> Service:
        return Service(Batched(max_batch=16, max_wait_ms=2.0, fixed_ms=8.0 * times, per_item_ms=0.5 * times))

    services = (server(1),) * FAST + (server(SLOWER),) * SLOW
    most = capacity(services)
    return Scenario(
        "batching", "servers that do batches of 16, 5 fast and 3 three times slower", services, Poisson(LOAD * most),
        most, seconds=30,
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
    """Every server takes twice as long for 20 s."""
    services = tuple(replace(each, antagonists=(slowed(2, _LATE_S, 20),)) for each in _EVEN)
    most = capacity(services)
    return Scenario(
        "halved", "eight servers, all take twice as long for 20 s; due within 250 ms", services, Poisson(LOAD * most),
        most, (Kind(deadline_ms=250, patience_ms=2000),), seconds=40,
    )  # fmt: skip


def flash_crowd() -> Scenario:
    """Five times as many requests for some seconds: twice what the servers can do."""
    most = capacity(_EVEN)
    usual = 0.4 * most
    steps = ((usual, _LATE_S), (5 * usual, 5.0), (usual, 15.0))
    return Scenario(
        "flash-crowd", "eight servers, five times as many requests for 5 s; due within 250 ms", _EVEN, Steps(steps),
        most, (Kind(deadline_ms=250, patience_ms=2000),), seconds=30,
    )  # fmt: skip


def cold() -> Scenario:
    """A server joins, and takes twenty times as long for its first seconds."""
    services = (*_EVEN[:7], replace(_EVEN[7], antagonists=(slowed(20, _LATE_S, 5),)))
    return Scenario(
        "cold", "seven servers; an eighth joins after 10 s, twenty times slower for 5 s; 0.8 of the seven", services,
        Poisson(0.8 * capacity(services[:7])), capacity(services), seconds=30, join=Join(7, _LATE_S),
    )  # fmt: skip


def failing(name: str) -> Iterator[Scenario]:
    """One of eight fails at once: from the start, late, until it is well again, and from when it joins."""
    how = FAILURES[name]

    def scenario(when: str, start_s: float, length_ms: float, join: Join | None = None) -> Scenario:
        bad = replace(_EVEN[7], failures=(Failure(start_s * 1e3, length_ms, how=how),))
        most = capacity(_EVEN[:7])
        return Scenario(
            f"failing-{name}{when and '-' + when}", f"one of eight servers fails at once: {name} {when}".rstrip(),
            (*_EVEN[:7], bad), Poisson(0.7 * most), most, seconds=30, protocol="http", join=join,
            warmup_s=0 if not start_s else 2,
        )  # fmt: skip

    yield scenario("", 0.0, _LONG_MS)
    yield scenario("late", _LATE_S, _LONG_MS)
    yield scenario("healing", _LATE_S, 5_000.0)
    yield scenario("joining", _LATE_S - 1, _LONG_MS, Join(7, _LATE_S))


def two_daemons(one: Scenario) -> Scenario:
    """The same, its requests over two daemons that know nothing of each other."""
    return replace(one, name=f"{one.name}-two-daemons", title=f"{one.title}; two daemons", daemons=2)


SCENARIOS: dict[str, Scenario] = {
    each.name: each
    for each in (
        uneven(),
        stalling(),
        overloaded(),
        classes(),
        batches(),
        concurrent(1),
        concurrent(4),
        concurrent(16),
        unlimited(),
        batching(),
        slowed_down(),
        halved(),
        flash_crowd(),
        cold(),
        two_daemons(uneven()),
        two_daemons(overloaded()),
        two_daemons(concurrent(4)),
        *(scenario for name in FAILURES for scenario in failing(name)),
    )
}
