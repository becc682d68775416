"""Medians and their spread, ratios of interleaved runs, and what may be concluded from them.

The interval of a figure is Student's, at 99 %, of the mean of the logarithms ("Student", The Probable Error of a Mean,
Biometrika 6, 1908): noise multiplies, and few runs must pay for knowing the spread from so few. A full run states some
hundred intervals, and two of them are held against each other ratio by ratio: that needs intervals which seldom lie
apart at random. Those from the lowest to the highest of three runs do so in one case of ten. No interval is claimed for
a single run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import exp, log, sqrt
from statistics import mean, median, stdev
from typing import Literal

Better = Literal["lower", "higher"]

CONFIDENCE = 0.99
# Student's two-sided 99 % quantiles for 1, 2, … degrees of freedom; with more than these the last one is kept.
_STUDENT = (63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947)


class Ranking(StrEnum):
    """How ours stands to a peer: better in every pair of runs, worse in every one, neither, or of one pair only."""

    AHEAD = "ahead"
    EVEN = "even"
    BEHIND = "behind"
    ONCE = "one run"


@dataclass(frozen=True)
class Summary:
    """A median with the lowest and highest of its `count` values, and the interval `lower` to `upper` around it."""

    median: float
    low: float
    high: float
    count: int
    lower: float
    upper: float

    @property
    def spread(self) -> float:
        """The farthest value's distance from the median, as a share of the median (0 for a median of 0)."""
        return max(self.high - self.median, self.median - self.low) / abs(self.median) if self.median else 0.0


def summarize(values: Sequence[float]) -> Summary:
    """Raises ValueError for no values."""
    if not values:
        raise ValueError("no values to summarize")
    return Summary(median(values), min(values), max(values), len(values), *interval(values))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 99 % interval, as the module says; of one value that value, and of values that are not all above zero
    (counts) their lowest and highest."""
    if len(values) == 1 or min(values) <= 0:
        return min(values), max(values)
    logs = [log(value) for value in values]
    middle = mean(logs)
    half = _STUDENT[min(len(logs) - 1, len(_STUDENT)) - 1] * stdev(logs) / sqrt(len(logs))
    half = min(half, 700.0 - abs(middle))  # exp() of more overflows; two wild runs say nothing anyway
    return exp(middle - half), exp(middle + half)


def paired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Summary | None:
    """The ratio ours/theirs of each round that both have, summarized; None if there is no such round.

    The two runs of a round follow each other at once, so what slows the machine for minutes slows both and cancels out.
    A round in which theirs is 0 has no ratio.
    """
    ratios = [ours[r] / theirs[r] for r in sorted(ours.keys() & theirs.keys()) if theirs[r]]
    return summarize(ratios) if ratios else None


def ranking(ours: Mapping[int, float], theirs: Mapping[int, float], better: Better) -> Ranking | None:
    """Whether ours is better in every round that both have, or worse in every one; None if there is no such round.

    It is the two-sided sign test, at the level 2 * (1/2)**n, whatever the distribution; it also holds for counts of 0.
    """
    rounds = ours.keys() & theirs.keys()
    if not rounds:
        return None
    if len(rounds) == 1:
        return Ranking.ONCE
    sign = 1 if better == "lower" else -1
    gains = [sign * (theirs[r] - ours[r]) for r in rounds]
    if min(gains) > 0:
        return Ranking.AHEAD
    return Ranking.BEHIND if max(gains) < 0 else Ranking.EVEN


def overlap(a: Summary, b: Summary) -> bool:
    """Whether the intervals have a point in common."""
    return a.lower <= b.upper and b.lower <= a.upper
