"""What a counter series says: its words, summed over all workers, by the names of their table (lb.shared.words)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lb.shared.words import BOUNDS_US, HISTOGRAM, SIZE, Kind


class Series:
    """The totals of one series. `series["retries"]` is a counter, `series["requests.2xx"]` one of several, and
    `series["requests"]` their sum; of a histogram it is how many durations there were. KeyError for another name."""

    __slots__ = ("kind", "words")

    def __init__(self, kind: Kind, words: Sequence[int]) -> None:
        """`words` are those of `Segment.series_total`."""
        if len(words) != SIZE:
            raise ValueError(f"a series has {SIZE} words, not {len(words)}")
        self.kind = kind
        self.words = words

    def __getitem__(self, name: str) -> int:
        if "." in name:
            return self.words[self.kind.place(name)]
        at, word = self.kind.find(name)
        return sum(self.words[at + (word.type == HISTOGRAM) : at + word.size])

    def __add__(self, other: Series) -> Series:
        """Both together, word by word."""
        return Series(self.kind, [a + b for a, b in zip(self.words, other.words, strict=True)])

    @property
    def running(self) -> int:
        """What is under way. The words are not read at one moment: there may seem to be less than nothing."""
        return max(0, self["started"] - self["finished"])

    def values(self, name: str) -> dict[str, int]:
        """A counter by its label, that of most meaning where it has two."""
        at, word = self.kind.find(name)
        return {labels[-1]: self.words[at + i] for i, labels in enumerate(word.values)}

    def sum_ns(self, name: str) -> int:
        """The durations of a histogram, together."""
        return self.words[self.kind.find(name)[0]]

    def buckets(self, name: str) -> tuple[int, ...]:
        """A histogram's counts by BOUNDS_US, and of what is above the last."""
        at, word = self.kind.find(name)
        return tuple(self.words[at + 1 : at + word.size])

    def cumulative(self, name: str) -> list[tuple[str, float]]:
        """Prometheus' buckets: (upper bound in seconds, count at or below it), ending with +Inf."""
        rows, count = [], 0
        for bound, n in zip((*BOUNDS_US, None), self.buckets(name), strict=True):
            count += n
            rows.append(("+Inf" if bound is None else repr(bound / 1e6), float(count)))
        return rows

    def describe(self) -> dict[str, Any]:
        """All that has a metric: a number, by label those that are not 0, of durations their count and sum."""
        found: dict[str, Any] = {}
        if self.kind.running is not None:
            found[self.kind.running.name] = self.running
        if self.kind.begun is not None:
            found[self.kind.begun.name] = self["started"]
        for at, word in self.kind.shown_in(self.kind.views[0]):
            if word.type == HISTOGRAM:
                found[word.name] = {"count": self[word.name], "sum_s": self.words[at] / 1e9}
            elif word.values:
                found[word.name] = {value: n for value, n in self.values(word.name).items() if n}
            else:
                found[word.name] = self.words[at]
        return found


# Of each kind, by the labels of its first view.
Totals = Mapping[Kind, Mapping[tuple[str, ...], Series]]


def summed(rows: Mapping[tuple[str, ...], Series], labels: int) -> dict[tuple[str, ...], Series]:
    """Those that have their first `labels` labels in common, together."""
    found: dict[tuple[str, ...], Series] = {}
    for key, series in rows.items():
        whole = key[:labels]
        found[whole] = found[whole] + series if whole in found else series
    return found
