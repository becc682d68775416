"""Whether a canary is worse than its baseline: by errors, by latency, and by answers that differ.

Each is a share of answers: those that failed, those that took longer than a limit, those that differ. The canary is
worse where even the least share that its answers leave possible (lb.control.canary.evidence) is beyond the limit. It
looks worse where the share itself is. Between the two more answers decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from lb.config.schema.routes.canary import CanaryConfig
from lb.control.canary.evidence import lower_bound, upper_bound
from lb.shared.words import BOUNDS_US

BUCKETS = len(BOUNDS_US) + 1


class Tally(Struct, frozen=True):
    """Attempts of a pool that are over. `durations` are counted by the buckets of BOUNDS_US."""

    requests: int = 0
    errors: int = 0
    durations: tuple[int, ...] = (0,) * BUCKETS

    def __add__(self, other: Tally) -> Tally:
        durations = tuple(a + b for a, b in zip(self.durations, other.durations, strict=True))
        return Tally(self.requests + other.requests, self.errors + other.errors, durations)

    @property
    def error_rate(self) -> float:
        """The share of errors; 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0


class Compared(Struct, frozen=True):
    """Answers of the canary that were compared with those of the baseline, and how many of them differ."""

    answers: int = 0
    different: int = 0

    def __add__(self, other: Compared) -> Compared:
        return Compared(self.answers + other.answers, self.different + other.different)

    def since(self, before: Compared) -> Compared:
        """What has come since then; nothing where the counts have begun anew."""
        if self.answers < before.answers:
            return Compared()
        return Compared(self.answers - before.answers, self.different - before.different)


class Observed(Struct, frozen=True):
    """What happened in a span of time."""

    canary: Tally = Tally()
    baseline: Tally = Tally()
    compared: Compared = Compared()

    def __add__(self, other: Observed) -> Observed:
        return Observed(self.canary + other.canary, self.baseline + other.baseline, self.compared + other.compared)


class Finding(Struct, frozen=True):
    """Something that is beyond its limit; `proven`: more answers would not change that."""

    what: Literal["errors", "latency", "difference"]
    proven: bool
    text: str


def judge(seen: Observed, limits: CanaryConfig, before: Tally) -> list[Finding]:
    """What is wrong with the canary. `before` is the baseline of earlier, for a canary that gets all requests."""
    baseline = seen.baseline if seen.baseline.requests >= limits.min_requests else seen.baseline + before
    return [
        *_errors(seen.canary, baseline, limits),
        *_latency(seen.canary, baseline, limits),
        *_difference(seen.compared, limits),
    ]


def _errors(canary: Tally, baseline: Tally, limits: CanaryConfig) -> Iterator[Finding]:
    allowed = limits.max_error_increase / 100
    if canary.error_rate <= baseline.error_rate + allowed:
        return
    most = upper_bound(baseline.errors, baseline.requests) if baseline.requests else 0.0
    text = (
        f"{_share(canary.errors, canary.requests)} of its answers failed,"
        f" {_share(baseline.errors, baseline.requests)} of the baseline's"
    )
    yield Finding("errors", lower_bound(canary.errors, canary.requests) > most + allowed, text)


def _latency(canary: Tally, baseline: Tally, limits: CanaryConfig) -> Iterator[Finding]:
    if limits.max_latency_ratio is None or sum(baseline.durations) < limits.min_requests:
        return
    quantile = limits.latency_quantile / 100
    place = bucket_of(baseline.durations, quantile)
    if place >= len(BOUNDS_US):
        return  # the baseline's own is beyond what the histogram tells apart
    limit = limits.max_latency_ratio * BOUNDS_US[place]
    count = sum(canary.durations)
    slow = sum(n for i, n in enumerate(canary.durations) if (BOUNDS_US[i - 1] if i else 0) >= limit)
    if slow <= (1 - quantile) * count:
        return
    text = (
        f"{_share(slow, count)} of its answers took more than {limit / 1000:g} ms,"
        f" {limits.max_latency_ratio:g} times the baseline's p{limits.latency_quantile:g}"
    )
    yield Finding("latency", lower_bound(slow, count) > 1 - quantile, text)


def _difference(compared: Compared, limits: CanaryConfig) -> Iterator[Finding]:
    if limits.max_difference is None:
        return
    allowed = limits.max_difference / 100
    if compared.different <= allowed * compared.answers:
        return
    text = f"{_share(compared.different, compared.answers)} compared answers differ"
    yield Finding("difference", lower_bound(compared.different, compared.answers) > allowed, text)


def bucket_of(durations: Sequence[int], quantile: float) -> int:
    """The bucket in which the share `quantile` of the durations is reached."""
    left = quantile * sum(durations)
    for place, n in enumerate(durations):
        left -= n
        if n and left <= 0:
            return place
    return len(durations) - 1


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} % of {whole}" if whole else "none"
