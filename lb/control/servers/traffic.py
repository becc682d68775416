"""The traffic of a pool, from the counters that its workers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from lb.config.plan.plan import PoolPlan
from lb.scaling.scaler import Traffic
from lb.shared.segment import Segment
from lb.shared.words import BOUNDS_US, ENDPOINT, QUEUE
from lb.telemetry.series import Series


class EndpointCounts(NamedTuple):
    """Of one endpoint, over all workers: attempts that are over, by the buckets of their durations, and what is in
    flight now. `served` is ns."""

    durations: tuple[int, ...]
    failed: int
    served: int
    in_flight: int

    @property
    def over(self) -> int:
        return sum(self.durations)


class Counts(Struct, frozen=True):
    """Of a pool, over all workers, since each of its series began. `waited` is ns."""

    dispatched: int  # requests that were sent to an endpoint for the first time
    refused: int  # requests that the queue gave up, or whose clients gave up waiting
    waited: int
    waiting: int  # now
    endpoints: Mapping[str, EndpointCounts]

    @property
    def arrived(self) -> int:
        """Requests that came to the pool."""
        return self.dispatched + self.refused + self.waiting


def read_counts(pool: PoolPlan, segment: Segment) -> Counts | None:
    """The counts of now; None for a pool whose protocol counts no requests."""
    if pool.series < 0:
        return None
    queue = Series(QUEUE, segment.series_total(pool.series))
    endpoints = {}
    for endpoint in pool.endpoints:
        series = Series(ENDPOINT, segment.series_total(endpoint.series))
        endpoints[endpoint.address] = EndpointCounts(
            series.buckets("request_duration"),
            series["errors"],
            series.sum_ns("request_duration"),
            segment.inflight(endpoint.slot),
        )
    return Counts(queue["requests"], queue["ended"], queue.sum_ns("wait"), queue.running, endpoints)


class TrafficMeter:
    """Traffic from look to look. What an endpoint finished between its last look and its end is not seen. `durations`
    are those of the attempts in the last traffic, counted by the buckets of BOUNDS_US."""

    def __init__(self) -> None:
        self.durations: tuple[int, ...] = (0,) * (len(BOUNDS_US) + 1)
        self._at = 0
        self._before: Counts | None = None

    def look(self, counts: Counts | None, now: int) -> Traffic | None:
        """The traffic since the look before; None if that, or this one, found nothing. `now` is monotonic ns."""
        before, span = self._before, now - self._at
        self._before, self._at = counts, now
        if counts is None or before is None or span <= 0:
            return None
        if counts.dispatched < before.dispatched:
            return None  # the pool is another one with the same name
        failed = served = 0
        durations = [0] * (len(BOUNDS_US) + 1)
        for address, found in counts.endpoints.items():
            last = before.endpoints.get(address)
            if last is None or found.over < last.over:
                last = EndpointCounts((0,) * len(durations), 0, 0, 0)  # its series began since
            durations = [n + a - b for n, a, b in zip(durations, found.durations, last.durations, strict=True)]
            failed += found.failed - last.failed
            served += found.served - last.served
        self.durations = tuple(durations)
        return Traffic(
            span,
            # The words are not read at one moment.
            arrived=max(0, counts.arrived - before.arrived),
            answered=max(0, sum(durations) - failed),
            failed=failed,
            refused=counts.refused - before.refused,
            waited=counts.waited - before.waited,
            served=served,
            in_flight=(_in_flight(before) + _in_flight(counts)) / 2,
            waiting=(before.waiting + counts.waiting) / 2,
        )


def _in_flight(counts: Counts) -> int:
    return sum(endpoint.in_flight for endpoint in counts.endpoints.values())
