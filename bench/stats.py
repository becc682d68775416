"""Medians and their spread, ratios of interleaved runs, and what may be concluded from them.

The interval from the lowest to the highest of n independent values misses the true median only if all n lie on the same
side of it, which has the probability 2 * (1/2)**n, whatever the distribution (H. A. David and H. N. Nagaraja, Order
Statistics, 3rd edition, 2003, section 7.1). No interval is claimed for a single run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import comb
from statistics import median
from typing import Literal

Better = Literal["lower", "higher"]


class Standing(StrEnum):
    """How ours stands to a peer: better in every pair of runs, worse in every one, neither, or of one pair only."""

    AHEAD = "ahead"
    EVEN = "even"
    BEHIND = "behind"
    ONCE = "one run"


@dataclass(frozen=True)
class Summary:
    """A median with the lowest and highest of its `count` values."""

    median: float
    low: float
    high: float
    count: int

    @property
    def spread(self) -> float:
        """The farthest value's distance from the median, as a share of the median (0 for a median of 0)."""
        return max(self.high - self.median, self.median - self.low) / abs(self.median) if self.median else 0.0


def summarize(values: Sequence[float]) -> Summary:
    """Raises ValueError for no values."""
    if not values:
        raise ValueError("no values to summarize")
    return Summary(median(values), min(values), max(values), len(values))


def paired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Summary | None:
    """The ratio ours/theirs of each round that both have, summarized; None if there is no such round.

    The two runs of a round follow each other at once, so what slows the machine for minutes slows both and cancels out.
    A round in which theirs is 0 has no ratio.
    """
    ratios = [ours[r] / theirs[r] for r in sorted(ours.keys() & theirs.keys()) if theirs[r]]
    return summarize(ratios) if ratios else None


def standing(ours: Mapping[int, float], theirs: Mapping[int, float], better: Better) -> Standing | None:
    """Whether ours is better in every round that both have, or worse in every one; None if there is no such round.

    For figures above zero this is whether the interval of the paired ratios excludes 1; it also holds for counts of 0.
    It is the two-sided sign test at the level 1 - coverage(n).
    """
    rounds = ours.keys() & theirs.keys()
    if not rounds:
        return None
    if len(rounds) == 1:
        return Standing.ONCE
    sign = 1 if better == "lower" else -1
    gains = [sign * (theirs[r] - ours[r]) for r in rounds]
    if min(gains) > 0:
        return Standing.AHEAD
    return Standing.BEHIND if max(gains) < 0 else Standing.EVEN


def coverage(count: int) -> float:
    """The probability that the interval from the lowest to the highest of `count` independent values has the median.

    0 for one value: a point covers nothing. Raises ValueError for less than one.
    """
    if count < 1:
        raise ValueError("no values")
    return 1 - 2 * 0.5**count


def overlap(a: Summary, b: Summary) -> bool:
    """Whether the intervals from lowest to highest have a point in common."""
    return a.low <= b.high and b.low <= a.high


def chance_apart(a: int, b: int) -> float:
    """The probability that the intervals of `a` and `b` values do not overlap though all are drawn alike.

    Of the comb(a + b, a) equally likely orders of the values two keep the groups apart: the most extreme outcome of the
    two-sided rank-sum test (F. Wilcoxon, Individual Comparisons by Ranking Methods, Biometrics Bulletin 1, 1945).
    """
    return min(1.0, 2 / comb(a + b, a))
