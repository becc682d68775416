"""What the answers of an interval say of endpoints, and how long an ejection lasts: decisions, and nothing else.

The rates are judged as Envoy does (source/common/upstream/outlier_detection_impl.cc): an endpoint is an outlier when
its success rate is below the mean of all by more than a multiple of the standard deviation. It has to be below by
LEAST_DIFFERENCE besides: where the others never fail the deviation is next to nothing, and one failure of a thousand
would eject.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from enum import Enum

from msgspec import Struct, field
from msgspec.structs import replace

from lb.config.schema.pools.outlier import OutlierConfig
from lb.shared.words import BOUNDS_US

WELL, EJECTED, PROBATION = 0, 1, 2  # enum tg_ejection_state
# enum tg_ejection
REASONS = {
    0: "",
    1: "consecutive_5xx",
    2: "consecutive_gateway_failure",
    3: "probation",
    4: "success_rate",
    5: "failure_percentage",
    6: "latency",
}
SUCCESS_RATE, FAILURE_PERCENTAGE, LATENCY = 4, 5, 6
LEAST_DIFFERENCE = 0.05


class Volume(Struct, frozen=True):
    """The answers of an endpoint: counters that only grow, or what was added to them in an interval. `buckets` counts
    latencies, by the bounds of lb.shared.words."""

    good: int = 0
    faults: int = 0
    buckets: tuple[int, ...] = (0,) * (len(BOUNDS_US) + 1)

    def since(self, before: Volume) -> Volume:
        """What was added. A counter that shrank was cleared: all of it is new."""
        if self.good < before.good or self.faults < before.faults:
            return self
        buckets = tuple(max(0, n - old) for n, old in zip(self.buckets, before.buckets, strict=True))
        return Volume(self.good - before.good, self.faults - before.faults, buckets)

    @property
    def total(self) -> int:
        return self.good + self.faults

    @property
    def median_us(self) -> float:
        """The median latency in µs, as if latencies were spread evenly within their bucket; 0 when there are none."""
        rank, seen, low = sum(self.buckets) / 2, 0, 0
        for bound, count in zip((*BOUNDS_US, BOUNDS_US[-1]), self.buckets, strict=True):
            if count and seen + count >= rank:
                return low + (bound - low) * (rank - seen) / count
            seen, low = seen + count, bound
        return 0.0


class Outlier(Struct, frozen=True):
    """Endpoint `index` should be ejected for `reason` (enum tg_ejection); `text` says it to people."""

    index: int
    reason: int
    text: str


def find_outliers(volumes: Sequence[Volume], settings: OutlierConfig) -> list[Outlier]:
    """Whoever stands out in the `volumes` of an interval, the worst first; each once."""
    found: dict[int, Outlier] = {}
    for outlier in (*_by_failures(volumes, settings), *_by_rate(volumes, settings), *_by_latency(volumes, settings)):
        found.setdefault(outlier.index, outlier)
    return list(found.values())


def _by_failures(volumes: Sequence[Volume], settings: OutlierConfig) -> Iterator[Outlier]:
    threshold = settings.failure_percentage_threshold
    shares = [
        (100 * v.faults / v.total, i) for i, v in enumerate(volumes)
        if v.total >= settings.failure_percentage_request_volume
    ]  # fmt: skip
    for share, i in sorted(shares, reverse=True):
        if threshold and share >= threshold:
            yield Outlier(i, FAILURE_PERCENTAGE, f"{share:.1f} % of {volumes[i].total} requests failed")


def _by_rate(volumes: Sequence[Volume], settings: OutlierConfig) -> Iterator[Outlier]:
    rates = {i: v.good / v.total for i, v in enumerate(volumes) if v.total >= settings.success_rate_request_volume}
    if not settings.success_rate_stdev_factor or len(rates) < settings.success_rate_minimum_hosts:
        return
    mean = statistics.fmean(rates.values())
    deviation = settings.success_rate_stdev_factor * statistics.pstdev(rates.values())
    floor = mean - max(deviation, LEAST_DIFFERENCE)
    for rate, i in sorted((rate, i) for i, rate in rates.items()):
        if rate < floor:
            yield Outlier(i, SUCCESS_RATE, f"success rate {100 * rate:.1f} %, of all {100 * mean:.1f} %")


def _by_latency(volumes: Sequence[Volume], settings: OutlierConfig) -> Iterator[Outlier]:
    medians = {i: v.median_us for i, v in enumerate(volumes) if v.total >= settings.latency_request_volume}
    if not settings.latency_factor or len(medians) < settings.latency_minimum_hosts:
        return
    for median, i in sorted(((median, i) for i, median in medians.items()), reverse=True):
        others = statistics.median(other for j, other in medians.items() if j != i)
        if median > settings.latency_factor * others:
            yield Outlier(i, LATENCY, f"median latency {median / 1000:.1f} ms, of the others {others / 1000:.1f} ms")


class Move(Enum):
    """What is to be done about an endpoint's ejection state."""

    NOTHING = "nothing"
    NOTE = "note"  # it was ejected: say so
    PROBE = "probe"  # the ejection is over
    REINSTATE = "reinstate"  # the probation is
    UNDO = "undo"  # one too many was ejected


class Record(Struct, frozen=True):
    """What the master knows of an endpoint's ejections. `multiplier` counts those in a row, `until` and `forgiven_at`
    are monotonic ns: when the ejection ends, and since when no ejection was forgotten."""

    ejection_state: int = WELL
    reason: int = 0
    multiplier: int = 0
    until: int = 0
    forgiven_at: int = 0
    ejections: dict[str, int] = field(default_factory=dict)  # so far, by reason


class Seen(Struct, frozen=True):
    """What the segment says of an endpoint: its ejection state, why, and the good answers of its probation. `over` is
    how many of the pool are ejected beyond the most."""

    ejection_state: int
    reason: int = 0
    good: int = 0
    over: int = 0


def follow(record: Record, seen: Seen, settings: OutlierConfig, now: int) -> tuple[Record, Move]:
    """The record after a look at the segment at `now`, and what is to be done."""
    if seen.ejection_state == EJECTED:
        if record.ejection_state != EJECTED:
            if seen.over > 0:
                return record, Move.UNDO
            return _ejected(record, seen.reason, settings, now), Move.NOTE
        if now < record.until:
            return record, Move.NOTHING
        after = PROBATION if settings.probation_requests else WELL
        return replace(record, ejection_state=after, forgiven_at=now), Move.PROBE if after else Move.REINSTATE
    if seen.ejection_state == PROBATION:
        if seen.good < settings.probation_requests:
            return replace(record, ejection_state=PROBATION), Move.NOTHING
        return replace(record, ejection_state=WELL, reason=0, forgiven_at=now), Move.REINSTATE
    if record.multiplier and now - record.forgiven_at >= settings.interval:
        record = replace(record, multiplier=record.multiplier - 1, forgiven_at=now)
    return record if record.ejection_state == WELL else replace(record, ejection_state=WELL, reason=0), Move.NOTHING


def _ejected(record: Record, reason: int, settings: OutlierConfig, now: int) -> Record:
    multiplier = record.multiplier + 1
    lasts = min(settings.base_ejection_time * multiplier, settings.max_ejection_time)
    # Beyond the longest ejection the count would only take the longer to be forgotten.
    if settings.base_ejection_time * multiplier > settings.max_ejection_time:
        multiplier = record.multiplier or 1
    name = REASONS.get(reason, "unknown")
    counts = {**record.ejections, name: record.ejections.get(name, 0) + 1}
    return Record(EJECTED, reason, multiplier, now + lasts, now, counts)
