"""What a run found, as JSON and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

from hdrh.histogram import HdrHistogram
from pydantic import ConfigDict, TypeAdapter, ValidationError

from bench.errors import BenchError
from bench.load import histogram as histograms

BIN_NS = 100_000_000
LATE_US = 1_000
BUSY = 0.9
HistogramName = Literal["latency", "service", "lateness", "failure"]


@dataclass
class Series:
    """Figures per `bin_ns` since the warm-up's end: `sent` by intended time, all else by the time that it ended.

    `sum_us` is of the completed ones' latencies (for their mean), `max_us` the highest. `in_time` are those of the
    completed ones that came within the deadline; it is empty where the run has none.
    """

    bin_ns: int = BIN_NS
    sent: list[int] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    max_us: list[int] = field(default_factory=list)
    sum_us: list[int] = field(default_factory=list)
    in_time: list[int] = field(default_factory=list)


@dataclass
class Labelled:
    """Figures of the requests with one label, as those of `Report`; `failed` is of all kinds together."""

    sent: int = 0
    completed: int = 0
    failed: int = 0
    latency: str = ""

    def histogram(self) -> HdrHistogram:
        return histograms.decode(self.latency)

    def merge(self, other: Labelled) -> Labelled:
        found = self.histogram()
        found.add(other.histogram())
        return Labelled(
            self.sent + other.sent,
            self.completed + other.completed,
            self.failed + other.failed,
            histograms.encode(found),
        )


@dataclass
class Report:
    """Figures of the measured part of a run; histograms are base64 HDR V2 strings with values in µs.

    `sent` requests were taken on, and each ended in `completed` or, by kind, in `failed`; `dropped` ones were not
    taken on, because too many were outstanding; `retried` were sent twice, since the server refused their stream
    unread. `latency` runs from the intended time to the whole right answer, `service` from the actual sending,
    `lateness` from the intended time to when the generator got to it; `failure` is the latency of what failed.
    `began_ns` is CLOCK_MONOTONIC; bytes are those above TCP and TLS; `cpu_ns` is the generator's own.
    """

    sent: int
    completed: int
    failed: dict[str, int]
    dropped: int
    retried: int
    began_ns: int
    duration_ns: int
    cpu_ns: int
    bytes_in: int
    bytes_out: int
    latency: str
    service: str
    lateness: str
    failure: str
    series: Series
    interrupted: bool = False
    labels: dict[str, Labelled] = field(default_factory=dict)

    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def offered_rate(self) -> float:
        """Requests per second that the schedule asked for."""
        return (self.sent + self.dropped) * 1e9 / self.duration_ns

    @property
    def completed_rate(self) -> float:
        """Right answers per second."""
        return self.completed * 1e9 / self.duration_ns

    def histogram(self, which: HistogramName = "latency") -> HdrHistogram:
        return histograms.decode(getattr(self, which))

    def percentile(self, q: float, which: HistogramName = "latency") -> float:
        """µs at or below which `q` percent (0 to 100) of the values are; 0 if there are none."""
        return self.percentiles([q], which)[0]

    def percentiles(self, qs: Sequence[float], which: HistogramName = "latency") -> list[float]:
        """As `percentile`, for several at once."""
        found = self.histogram(which)
        at = found.get_percentile_to_value_dict(list(qs))
        return [float(at[q]) if found.get_total_count() else 0.0 for q in qs]

    def doubts(self) -> list[str]:
        """What makes the figures doubtful, one line each."""
        found = []
        late = self.percentile(99, "lateness")
        if late > LATE_US:
            found.append(f"the load generator was late: 1 % of the requests by {late / 1000:.1f} ms or more")
        busy = self.cpu_ns / self.duration_ns
        if busy > BUSY:
            found.append(f"the load generator used {busy:.0%} of a core: it may be what limits")
        if self.dropped:
            found.append(f"{self.dropped} requests were dropped: too many were outstanding")
        if failures := sum(self.failed.values()):
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.failed.items()))
            found.append(f"{failures} of {self.sent} requests failed: {kinds}")
        if self.interrupted:
            found.append("the run was ended early")
        return found

    def to_json(self) -> str:
        return _ADAPTER.dump_json(self).decode()

    @staticmethod
    def from_json(text: str | bytes) -> Report:
        """Raises BenchError if it is none."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise BenchError(f"no report of the load generator: {error.errors()[0]['msg']}") from error

    def merge(self, other: Report) -> Report:
        """Both as one run of generators that ran side by side: counts add up, the time does not.

        Raises BenchError if their series do not fit together.
        """
        if self.series.bin_ns != other.series.bin_ns:
            raise BenchError("reports with bins of different length cannot be merged")

        def both(which: HistogramName) -> str:
            found = self.histogram(which)
            found.add(other.histogram(which))
            return histograms.encode(found)

        def added(mine: list[int], theirs: list[int]) -> list[int]:
            return [a + b for a, b in zip_longest(mine, theirs, fillvalue=0)]

        labels = dict(self.labels)
        for name, theirs in other.labels.items():
            labels[name] = labels[name].merge(theirs) if name in labels else theirs
        a, b = self.series, other.series
        return Report(
            sent=self.sent + other.sent,
            completed=self.completed + other.completed,
            failed=dict(Counter(self.failed) + Counter(other.failed)),
            dropped=self.dropped + other.dropped,
            retried=self.retried + other.retried,
            began_ns=min(self.began_ns, other.began_ns),
            duration_ns=max(self.duration_ns, other.duration_ns),
            cpu_ns=self.cpu_ns + other.cpu_ns,
            bytes_in=self.bytes_in + other.bytes_in,
            bytes_out=self.bytes_out + other.bytes_out,
            latency=both("latency"),
            service=both("service"),
            lateness=both("lateness"),
            failure=both("failure"),
            series=Series(
                a.bin_ns,
                added(a.sent, b.sent),
                added(a.completed, b.completed),
                added(a.failed, b.failed),
                [max(pair) for pair in zip_longest(a.max_us, b.max_us, fillvalue=0)],
                added(a.sum_us, b.sum_us),
                added(a.in_time, b.in_time),
            ),
            interrupted=self.interrupted or other.interrupted,
            labels=labels,
        )


_ADAPTER = TypeAdapter(Report)
