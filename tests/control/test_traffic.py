"""A pool's traffic and signals from its counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lb.control.servers.signals import Signals, Source
from lb.control.servers.traffic import Counts, EndpointCounts, TrafficMeter

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


def counts(dispatched: int = 0, refused: int = 0, waited: int = 0, waiting: int = 0, **endpoints: Any) -> Counts:
    return Counts(dispatched, refused, waited, waiting, {name: EndpointCounts(*row) for name, row in endpoints.items()})


def test_the_first_look_knows_of_no_span() -> None:
    meter = TrafficMeter()
    assert meter.look(counts(a=(5, 0, 0, 1)), SECOND) is None
    assert meter.look(counts(a=(5, 0, 0, 1)), SECOND) is None  # nor one at the same moment


def test_what_came_between_two_looks() -> None:
    meter = TrafficMeter()
    meter.look(counts(100, 3, 50, 2, a=(90, 1, 900 * MILLISECOND, 4), b=(5, 0, 50 * MILLISECOND, 0)), SECOND)
    traffic = meter.look(
        counts(140, 5, 80, 6, a=(110, 2, 1100 * MILLISECOND, 2), b=(20, 0, 200 * MILLISECOND, 2)), 3 * SECOND
    )
    assert traffic is not None
    assert (traffic.span, traffic.arrived) == (2 * SECOND, 40 + 2 + 4)  # sent, given up, and four more who wait
    assert (traffic.answered, traffic.failed, traffic.refused) == (34, 1, 2)
    assert (traffic.waited, traffic.served) == (30, 350 * MILLISECOND)
    assert (traffic.in_flight, traffic.waiting) == (4.0, 4.0)


def test_endpoints_come_and_go() -> None:
    meter = TrafficMeter()
    meter.look(counts(10, a=(10, 0, 100, 0), b=(7, 0, 70, 3)), SECOND)
    traffic = meter.look(counts(15, a=(12, 0, 120, 1), c=(3, 1, 30, 0)), 2 * SECOND)
    assert traffic is not None
    assert (traffic.answered, traffic.failed, traffic.served) == (4, 1, 50)
    traffic = meter.look(counts(15, a=(1, 0, 10, 0)), 3 * SECOND)  # another one at the same address
    assert traffic is not None
    assert (traffic.answered, traffic.served) == (1, 10)


def test_nothing_is_known_while_nothing_is_counted() -> None:
    meter = TrafficMeter()
    meter.look(counts(10), SECOND)
    assert meter.look(None, 2 * SECOND) is None
    assert meter.look(counts(20), 3 * SECOND) is None  # since when?
    assert meter.look(counts(21), 4 * SECOND) is not None
    assert meter.look(counts(3), 5 * SECOND) is None  # another pool of the same name


class Pool:
    def __init__(self) -> None:
        self.inflight = {"a": 3, "b": 1}
        self.cpu: Mapping[str, float] = {"a": 50.0}
        self.waiting = 4
        self.counts: Counts | None = None

    def signals(self) -> Signals:
        return Signals(
            Source(lambda a: self.inflight.get(a, 0), lambda: self.waiting, lambda: self.counts, lambda: self.cpu)
        )


def test_readings_of_the_replicas_that_are_ready() -> None:
    pool = Pool()
    traffic, readings = pool.signals().read(["a", "b"], 1, SECOND)
    assert traffic is None
    assert (readings["in_flight"].values, readings["in_flight"].unready) == ((5.0, 3.0), 1)
    assert (readings["cpu"].values, readings["cpu"].missing) == ((50.0,), 1)
    assert set(readings) == {"in_flight", "cpu"}  # the others are missing, not 0


def test_readings_of_the_traffic() -> None:
    pool = Pool()
    signals = pool.signals()
    pool.counts = counts(0, waiting=4)
    signals.read(["a", "b"], 0, SECOND)
    pool.counts = counts(10, waited=2 * SECOND, waiting=4)
    readings = signals.read(["a", "b"], 0, 3 * SECOND)[1]
    assert readings["requests_per_second"].values == (2.5, 2.5)
    assert readings["queue_length"].values == (2.0, 2.0)
    assert readings["queue_wait"].values == pytest.approx((0.2, 0.2))


def test_those_who_wait_for_nobody_wait_longer_and_longer() -> None:
    pool = Pool()
    signals = pool.signals()
    pool.counts = counts(0, waiting=10)
    signals.read(["a"], 0, SECOND)
    pool.counts = counts(0, waiting=20)  # nobody got anywhere
    assert signals.read(["a"], 0, 2 * SECOND)[1]["queue_wait"].values == (1.5,)


def test_a_pool_without_replicas_has_traffic_only() -> None:
    pool = Pool()
    signals = pool.signals()
    pool.counts = counts(0)
    signals.read([], 2, SECOND)
    pool.counts = counts(0, waiting=3)
    traffic, readings = signals.read([], 2, 2 * SECOND)
    assert readings == {}
    assert traffic is not None
    assert traffic.arrived == 3
