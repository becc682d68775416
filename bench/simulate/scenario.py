"""What is simulated: servers, the requests that come, and for how long. Data, as far as the bed of the bench has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench import emulated
from bench.emulator.distributions import ns
from bench.emulator.spec import Antagonist, Parallel, Serial, Service
from bench.emulator.timeline import Span, Timeline
from bench.load.arrivals import Arrivals, Steps, Trace

SECOND = 1_000_000_000

Priority = Literal["high", "normal", "low"]


@dataclass(frozen=True)
class Kind:
    """One kind of request. An answer counts within `deadline_ms` (None: whenever it comes), which its route has as its
    timeout; `units` are the items of its batch; the client leaves after `patience_ms` (None: never)."""

    name: str = ""
    deadline_ms: float | None = None
    priority: Priority = "normal"
    units: int = 1
    patience_ms: float | None = None


@dataclass(frozen=True)
class Join:
    """The servers from number `first` on are no endpoints before `at_s` seconds of the run."""

    first: int
    at_s: float


@dataclass(frozen=True)
class Scenario:
    """`services` are the servers, whose windows count from the end of the warm-up; `arrivals` the requests, of the
    `kinds` in turn. `capacity` is what the servers can do, requests per second, for shares of it.

    With `reports` servers tell of their load: utilization and answers per second with each answer, and requests in
    flight to a probe. The bench's do not. `daemons` share the servers; each request comes to one of them at random.
    """

    name: str
    title: str
    services: tuple[Service, ...]
    arrivals: Arrivals
    capacity: float
    kinds: tuple[Kind, ...] = (Kind(),)
    seconds: float = 30.0
    warmup_s: float = 2.0
    cooldown_s: float = 1.0
    protocol: Literal["http", "http2", "grpc", "oip"] = "oip"
    method: Literal["GET", "POST"] = "POST"
    daemons: int = 1
    join: Join | None = None
    reports: bool = False


def rate(service: Service, units: float = 1.0) -> float:
    """Requests per second that a server can do at full speed, of `units` items on average. Raises ValueError for one
    that has no limit."""
    execution = service.execution
    if isinstance(execution, Serial) and execution.per_item:
        return emulated.rate(Service(Serial(execution.time))) / units
    return emulated.rate(Service(execution))


def capacity(services: Sequence[Service], units: float = 1.0) -> float:
    """Requests per second that all can do together, at full speed."""
    return sum(rate(service, units) for service in services)


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """With `factor` times as many requests. Raises BenchError for arrivals that are impossible then."""
    arrivals = scenario.arrivals
    if factor == 1:
        return scenario
    if isinstance(arrivals, Steps):
        changed: Arrivals = replace(arrivals, steps=tuple((rate * factor, seconds) for rate, seconds in arrivals.steps))
    elif isinstance(arrivals, Trace):
        changed = replace(arrivals, factor=arrivals.factor * factor)
        if arrivals.mean_rate is not None:
            changed = replace(arrivals, mean_rate=arrivals.mean_rate * factor)
    else:
        changed = replace(arrivals, rate=arrivals.rate * factor)
    return replace(scenario, arrivals=changed, title=f"{scenario.title}; {factor:g} times as many requests")


def capacity_per_second(scenario: Scenario) -> list[float]:
    """What the servers can do in each measured second, by their stalls, slow times, failures and joins; where they have
    no limit, the scenario's capacity."""
    seconds = round(scenario.seconds)
    if isinstance(scenario.services[0].execution, Parallel) and scenario.services[0].execution.slots >= 100_000:
        return [scenario.capacity] * seconds
    units = sum(kind.units for kind in scenario.kinds) / len(scenario.kinds)
    found = [0.0] * seconds
    for number, service in enumerate(scenario.services):
        most, timeline = rate(service, units), timeline_of(service, 0)
        away = Timeline([Span(ns(f.start_ms), ns(f.length_ms), ns(f.every_ms or 0)) for f in service.failures])
        joined = scenario.join.at_s if scenario.join is not None and number >= scenario.join.first else 0.0
        for second in range(seconds):
            begin, end = second * SECOND, (second + 1) * SECOND
            if second >= joined:
                found[second] += most * min(timeline.progress(begin, end), away.progress(begin, end)) / SECOND
    return found


def timeline_of(service: Service, epoch: int) -> Timeline:
    """The speed of a server whose windows count from `epoch`, as bench.emulator.server has it."""
    stalls = [Span(epoch + ns(s.start_ms), ns(s.length_ms), ns(s.every_ms or 0)) for s in service.stalls]
    slow = [
        Span(epoch + ns(a.start_ms), ns(a.period_ms * a.duty), ns(a.period_ms), a.factor) for a in service.antagonists
    ]
    return Timeline([*stalls, *slow])


def slowed(factor: float, start_s: float, seconds: float) -> Antagonist:
    """Everything takes `factor` times as long for so many seconds, once."""
    hour = 3_600_000.0
    return Antagonist(period_ms=hour, duty=seconds * 1e3 / hour, factor=factor, start_ms=start_s * 1e3)
