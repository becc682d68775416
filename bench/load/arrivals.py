"""When requests are to be sent: schedules as offsets in nanoseconds, decided before the first one is sent.

All functions are pure: the same arguments and seed give the same schedule.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal

from pydantic import ConfigDict

from bench.errors import BenchError
from bench.load import traces
from bench.load.traces import Bins

_SECOND = 1_000_000_000
# 8 bytes each; more than an hour at the highest rate that the generator reaches.
LIMIT = 100_000_000
_CLOSED = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Constant:
    """`rate` requests per second at equal distances."""

    rate: float
    kind: Literal["constant"] = "constant"
    __pydantic_config__ = _CLOSED


@dataclass(frozen=True)
class Poisson:
    """`rate` requests per second on average, independent of each other: exponential gaps."""

    rate: float
    kind: Literal["poisson"] = "poisson"
    __pydantic_config__ = _CLOSED


@dataclass(frozen=True)
class Steps:
    """One rate after another: (requests per second, seconds) each."""

    steps: tuple[tuple[float, float], ...]
    poisson: bool = True
    kind: Literal["step"] = "step"
    __pydantic_config__ = _CLOSED


@dataclass(frozen=True)
class Trace:
    """The rate of a recorded trace (see `traces.read` for the columns), played `speed` times as fast.

    `start` and `stop` choose a part, in seconds of the trace. `factor` multiplies the requests of each bin; `mean_rate`
    chooses the factor that gives this many requests per second on average over what is played instead. Speed keeps the
    number of requests and so raises the rate.
    """

    path: str
    time: str | None = None
    count: str = "requests"
    unit: str | None = None
    where: str | None = None
    start: float = 0.0
    stop: float | None = None
    speed: float = 1.0
    factor: float = 1.0
    mean_rate: float | None = None
    kind: Literal["trace"] = "trace"
    __pydantic_config__ = _CLOSED


Arrivals = Constant | Poisson | Steps | Trace


def schedule(arrivals: Arrivals, seed: int, warmup_s: float = 0.0, duration_s: float | None = None) -> array[int]:
    """Offsets from the start of the warm-up, ascending.

    The warm-up runs at the first rate (a trace's mean rate). `duration_s` cuts a step or a trace short; it is required
    for the others, which have no end of their own. Raises BenchError for impossible values.
    """
    rng = Random(seed)
    if isinstance(arrivals, (Constant, Poisson)):
        if duration_s is None:
            raise BenchError(f"{arrivals.kind} arrivals need a duration")
        steps = Steps(((arrivals.rate, warmup_s), (arrivals.rate, duration_s)), isinstance(arrivals, Poisson))
        return step(steps.steps, steps.poisson, rng)
    if isinstance(arrivals, Steps):
        if not arrivals.steps:
            raise BenchError("step arrivals need at least one step of (rate, seconds)")
        warmup = step([(arrivals.steps[0][0], warmup_s)], arrivals.poisson, rng)
        measured = step(arrivals.steps, arrivals.poisson, rng)
    else:
        if duration_s is not None:  # so that a mean rate is that of what is played
            played = arrivals.start + duration_s * arrivals.speed
            arrivals = replace(arrivals, stop=played if arrivals.stop is None else min(played, arrivals.stop))
        measured = replay(arrivals, rng)
        seconds = length(arrivals)
        warmup = poisson(len(measured) / seconds, warmup_s, rng)
    limit = _SECOND * (length(arrivals) if duration_s is None else duration_s)
    begin = round(warmup_s * _SECOND)
    warmup.extend(begin + at for at in measured if at < limit)
    return warmup


def length(arrivals: Arrivals) -> float:
    """Seconds that the schedule lasts of itself. Raises BenchError for one without an end."""
    if isinstance(arrivals, Steps):
        return sum(seconds for _, seconds in arrivals.steps)
    if isinstance(arrivals, Trace):
        bins = _part(arrivals)
        return (bins.rows[-1][0] + bins.width) / arrivals.speed
    raise BenchError(f"{arrivals.kind} arrivals need a duration")


def constant(rate: float, seconds: float) -> array[int]:
    """`rate` per second at equal distances, the first at 0; computed from the index, so that nothing drifts."""
    number = _check(rate, seconds)
    return array("q", [round(i * _SECOND / rate) for i in range(number)])


def poisson(rate: float, seconds: float, rng: Random) -> array[int]:
    """A Poisson process: gaps are exponential with mean 1/rate."""
    _check(rate, seconds)
    found = array("q")
    if rate == 0:
        return found
    gap, at, end = rng.expovariate, 0.0, seconds * _SECOND
    per_ns = rate / _SECOND
    while (at := at + gap(per_ns)) < end:
        found.append(int(at))
    return found


def step(steps: Sequence[tuple[float, float]], random: bool, rng: Random) -> array[int]:
    """(rate, seconds) one after another. The gaps have no memory, so that each step may start afresh."""
    found, begin = array("q"), 0.0
    for rate, seconds in steps:
        part = poisson(rate, seconds, rng) if random else constant(rate, seconds)
        offset = round(begin * _SECOND)
        found.extend(offset + at for at in part)
        begin += seconds
    return found


def trace(bins: Bins, speed: float, factor: float, rng: Random) -> array[int]:
    """Each bin's requests times `factor`, spread over the bin as a Poisson process of that many is: uniformly.

    With factor 1 every bin has exactly its requests, so that the trace's burstiness is kept and none is added; of other
    products the fraction is rounded up or down at random, so that the mean is kept.
    """
    if speed <= 0 or factor < 0:
        raise BenchError("a trace's speed must be above 0 and its factor 0 or more")
    _limit(sum(count for _, count in bins.rows) * factor)
    width = bins.width / speed * _SECOND
    found = array("q")
    for start, count in bins.rows:
        mean = count * factor
        number = int(mean) + (rng.random() < mean % 1)
        begin = start / speed * _SECOND
        found.extend(sorted(int(begin + rng.random() * width) for _ in range(number)))
    return found


def replay(arrivals: Trace, rng: Random) -> array[int]:
    """A trace's own schedule, without warm-up. Raises BenchError if the file or a value is wrong."""
    bins = _part(arrivals)
    factor = arrivals.factor
    if arrivals.mean_rate is not None:
        total = sum(count for _, count in bins.rows)
        if total == 0 or arrivals.mean_rate <= 0:
            raise BenchError(f"{arrivals.path}: a mean rate needs requests in the trace and a rate above 0")
        factor *= arrivals.mean_rate * length(arrivals) / total
    return trace(bins, arrivals.speed, factor, rng)


def _part(arrivals: Trace) -> Bins:
    if arrivals.speed <= 0:
        raise BenchError("a trace's speed must be above 0")
    bins = traces.read(Path(arrivals.path), arrivals.time, arrivals.count, arrivals.unit, arrivals.where)
    stop = float("inf") if arrivals.stop is None else arrivals.stop
    rows = tuple((at - arrivals.start, count) for at, count in bins.rows if arrivals.start <= at < stop)
    if not rows:
        raise BenchError(f"{arrivals.path}: no rows from second {arrivals.start:g} to {stop:g}")
    return Bins(bins.width, rows)


def _check(rate: float, seconds: float) -> int:
    if not 0 <= rate < float("inf") or not 0 <= seconds < float("inf"):
        raise BenchError(f"rate and seconds must be 0 or more: {rate:g}/s for {seconds:g} s")
    return _limit(rate * seconds)


def _limit(number: float) -> int:
    if number > LIMIT:
        raise BenchError(f"{number:.0f} requests are too many for one run (at most {LIMIT})")
    return round(number)
