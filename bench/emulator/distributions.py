"""Service times as draws from a seeded generator, and their means."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import fmean

from bench.emulator.spec import Constant, Empirical, Exponential, Lognormal, Normal, Time
from bench.errors import BenchError

MS = 1_000_000
Draw = Callable[[], int]


def ns(ms: float) -> int:
    """Milliseconds as nanoseconds, to the nearest."""
    return round(ms * MS)


def drawing(time: Time, random: Random) -> Draw:
    """A function that draws the next service time in ns. Raises BenchError if an empirical file is unusable."""
    if isinstance(time, Constant):
        constant = ns(time.ms)
        return lambda: constant
    if isinstance(time, Exponential):
        rate = 1 / (time.mean_ms * MS)
        return lambda: round(random.expovariate(rate))
    if isinstance(time, Lognormal):
        mu, sigma = math.log(time.median_ms * MS), time.sigma
        return lambda: round(random.lognormvariate(mu, sigma))
    if isinstance(time, Normal):
        mean, deviation = time.mean_ms * MS, time.cv * time.mean_ms * MS
        return lambda: _normal(random, mean, deviation)
    values = read_empirical(Path(time.file))
    return lambda: random.choice(values)


def _normal(random: Random, mean: float, deviation: float) -> int:
    while (value := random.gauss(mean, deviation)) <= 0:
        pass
    return round(value)


def mean_ms(time: Time) -> float:
    """The mean of the times that are drawn, in ms (of a normal one to a thousandth: none is below 0). Raises BenchError
    if an empirical file is unusable."""
    if isinstance(time, Constant):
        return time.ms
    if isinstance(time, Lognormal):
        return time.median_ms * math.exp(time.sigma**2 / 2)
    if isinstance(time, Empirical):
        return fmean(read_empirical(Path(time.file))) / MS
    return time.mean_ms


def read_empirical(path: Path) -> list[int]:
    """The times of a file in ns. Raises BenchError naming file and line."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: cannot read service times: {getattr(error, 'strerror', None) or error}") from None
    values: list[int] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            raise BenchError(f"{path}:{number}: {text!r} is not a number of milliseconds") from None
        if not 0 <= value <= 3_600_000:
            raise BenchError(f"{path}:{number}: a service time is 0 to 3600000 ms, not {text}")
        values.append(ns(value))
    if not values:
        raise BenchError(f"{path}: there are no service times in it")
    return values
