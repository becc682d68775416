"""Scenarios that nobody has thought of: servers, requests and what changes, drawn by a seed."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from bench.emulator.spec import (
    Antagonist,
    Batched,
    Constant,
    Exponential,
    FailHow,
    Failure,
    Lognormal,
    Normal,
    Parallel,
    Serial,
    Service,
    Stall,
    Time,
)
from bench.load import arrivals as arriving
from bench.load.arrivals import Arrivals
from bench.simulate.scenario import Kind, Scenario, capacity, rate, slowed

SECONDS = 30.0
_CHANGES = ("nothing", "nothing", "a slow time", "stalls", "a noisy neighbour", "a failure", "all slower")
_HOW: tuple[FailHow, ...] = ("unavailable", "error", "reset")


def drawn(seed: int) -> Scenario:
    """The same seed gives the same scenario."""
    random = Random(f"drawn/{seed}")
    base = _services(random, random.choice((100.0, 300.0, 1000.0, 2000.0)))
    load = random.choice((0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.2, 1.5))
    able = capacity(base)
    deadline = random.choice((3, 6, 20)) * _slowest_ms(base) if load > 1 or random.random() < 0.3 else None
    change, services = _changed(random, base)
    return Scenario(
        name=f"drawn-{seed}",
        title=f"{_described(base)}; {change}; {load:g} of the capacity"
        + (f" within {deadline:g} ms" if deadline else ""),
        services=services,
        arrivals=_arrivals(random, load * able),
        capacity=able,
        kinds=(Kind(deadline_ms=deadline, patience_ms=2000.0 if deadline else None),),
        seconds=SECONDS,
        warmup_s=5.0,
        daemons=random.choice((1, 1, 1, 2)),
    )


def _services(random: Random, able: float) -> tuple[Service, ...]:
    """Servers of one kind, some of them slower, that do `able` requests per second together."""
    count = random.randint(2, 16)
    slots = random.choice((2, 4, 8, 16, 32))
    kind = random.choice(("serial", "serial", "parallel", "parallel", "batched"))
    shape = random.choice(("constant", "normal", "lognormal", "heavy", "exponential"))
    slower = random.choice((1.0, 1.5, 2.0, 3.0, 5.0))
    slow = random.randint(0, count - 1)

    def services(mean_ms: float) -> tuple[Service, ...]:
        return tuple(_service(kind, shape, slots, mean_ms * (slower if i < slow else 1.0)) for i in range(count))

    return services(round(capacity(services(1.0)) / able, 2))


def _service(kind: str, shape: str, slots: int, mean_ms: float) -> Service:
    if kind == "batched":
        return Service(Batched(slots, 2.0, fixed_ms=mean_ms, per_item_ms=mean_ms / 20))
    time: Time = Lognormal(mean_ms, 0.5 if shape == "lognormal" else 1.2)
    if shape == "constant":
        time = Constant(mean_ms)
    elif shape == "normal":
        time = Normal(mean_ms, 0.2)
    elif shape == "exponential":
        time = Exponential(mean_ms)
    return Service(Serial(time) if kind == "serial" else Parallel(time, slots))


def _slowest_ms(services: tuple[Service, ...]) -> float:
    """The mean time of a request, or of a full batch, at the slowest server, rounded."""

    def slots(execution: object) -> int:
        if isinstance(execution, Parallel):
            return execution.slots
        return execution.max_batch if isinstance(execution, Batched) else 1

    return round(max(1e3 * slots(service.execution) / rate(service) for service in services), 1)


def _arrivals(random: Random, mean: float) -> Arrivals:
    """Independent of each other, evenly spaced, or in bursts."""
    kind = random.choice(("poisson", "poisson", "constant", "bursts"))
    if kind == "constant":
        return arriving.Constant(mean)
    if kind == "poisson":
        return arriving.Poisson(mean)
    return arriving.Steps(tuple((mean * factor, 1.0) for _ in range(round(SECONDS / 2)) for factor in (0.6, 1.4)))


def _changed(random: Random, services: tuple[Service, ...]) -> tuple[str, tuple[Service, ...]]:
    """What happens meanwhile, in words, and the servers with it."""
    first, *rest = services
    what = random.choice(
        ("nothing", "nothing", "a slow time", "stalls", "a noisy neighbour", "a failure", "all slower")
    )
    if what == "a slow time":
        return what, (*rest, replace(first, antagonists=(slowed(5.0, 10.0, 10.0),)))
    if what == "stalls":
        return what, (*rest, replace(first, stalls=(Stall(3000.0, 1000.0, 5000.0),)))
    if what == "a noisy neighbour":
        return what, (*rest, replace(first, antagonists=(Antagonist(period_ms=200.0, duty=0.5, factor=3.0),)))
    if what == "a failure":
        failure = Failure(8000.0, 8000.0, how=random.choice(_HOW))
        return what, (*rest, replace(first, failures=(failure,)))
    if what == "all slower":
        return what, tuple(replace(each, antagonists=(slowed(2.0, 10.0, 10.0),)) for each in services)
    return what, services


def _described(services: tuple[Service, ...]) -> str:
    kinds = dict.fromkeys(services)
    return " and ".join(f"{sum(each == kind for each in services)} {_kind(kind)}" for kind in kinds)


def _kind(service: Service) -> str:
    execution = service.execution
    if isinstance(execution, Batched):
        return f"batching up to {execution.max_batch} in {execution.fixed_ms:g} ms"
    assert isinstance(execution, Serial | Parallel)
    time = execution.time
    ms = getattr(time, "ms", None) or getattr(time, "mean_ms", None) or getattr(time, "median_ms", None)
    slots = f" {execution.slots} at a time" if isinstance(execution, Parallel) else ""
    return f"of {time.kind} {ms:g} ms{slots}"
