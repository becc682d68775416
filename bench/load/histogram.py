"""Latency histograms: counted in a plain dictionary while it is hot, an HdrHistogram (Gil Tene) in the end.

1 µs to 10 minutes with three significant digits; hdrh's own recording takes microseconds per value, this a fraction
of one.
"""

from __future__ import annotations

from collections import defaultdict

from hdrh.histogram import HdrHistogram

LOWEST_US = 1
HIGHEST_US = 600_000_000
DIGITS = 3
# Values below are exact: with three digits the first bucket of an HdrHistogram has 2,048 units of 1.
_EXACT_BITS = 11
_EXACT = 1 << _EXACT_BITS


class Recording:
    """Counts of values by bucket. Its size is bounded by the range of values, some 20,000 buckets."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: defaultdict[int, int] = defaultdict(int)

    def record(self, ns: int) -> None:
        """A duration in nanoseconds, rounded down to whole µs; above 10 minutes it counts as 10 minutes."""
        us = ns // 1000
        if us >= _EXACT:
            shift = us.bit_length() - _EXACT_BITS  # drops what the bucket does not tell apart
            us = us >> shift << shift
        self.counts[us] += 1

    def histogram(self) -> HdrHistogram:
        found = empty()
        for us, count in self.counts.items():
            found.record_value(min(max(us, 0), HIGHEST_US), count)
        return found


def empty() -> HdrHistogram:
    """Values in µs."""
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


def encode(histogram: HdrHistogram) -> str:
    """Base64 of the compressed V2 format, which HdrHistogram's tools in other languages read too."""
    blob: bytes = histogram.encode()
    return blob.decode("ascii")


def decode(text: str) -> HdrHistogram:
    return HdrHistogram.decode(text)
