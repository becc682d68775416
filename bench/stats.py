"""Medians and their spread, and ratios of interleaved runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


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
        return max(self.high - self.median, self.median - self.low) / self.median if self.median else 0.0


def summarize(values: Sequence[float]) -> Summary:
    """Raises ValueError for no values."""
    if not values:
        raise ValueError("no values to summarize")
    return Summary(median(values), min(values), max(values), len(values))


def paired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Summary | None:
    """The ratio ours/theirs of each round that both have, summarized; None if there is no such round.

    The two runs of a round follow each other at once, so what slows the machine for minutes slows both and cancels out.
    """
    ratios = [ours[r] / theirs[r] for r in sorted(ours.keys() & theirs.keys()) if theirs[r]]
    return summarize(ratios) if ratios else None
