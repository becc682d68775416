"""Outlier ejection: what the volumes of an interval say, and how an endpoint's record follows its ejection_state."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.config.schema.pools.outlier import OutlierConfig
from lb.health.outlier import (
    EJECTED,
    FAILURE_PERCENTAGE,
    LATENCY,
    PROBATION,
    SUCCESS_RATE,
    WELL,
    Move,
    Record,
    Seen,
    Volume,
    find_outliers,
    follow,
)

SECOND = 1_000_000_000
PLAIN = OutlierConfig()


def histogram(bucket: int, count: int) -> tuple[int, ...]:
    return tuple(count if i == bucket else 0 for i in range(24))


def found(volumes, config=PLAIN):
    return [(o.index, o.reason) for o in find_outliers(volumes, config)]


def test_success_rate_as_envoy_computes_it():
    volumes = [Volume(100, 0)] * 5 + [Volume(80, 20)]
    rates = [1.0] * 5 + [0.8]
    assert statistics.fmean(rates) - 1.9 * statistics.pstdev(rates) > 0.8
    assert found(volumes) == [(5, SUCCESS_RATE)]


@pytest.mark.parametrize(("faults", "ejected"), [(1, False), (4, False), (6, False), (7, True)])
def test_a_rate_that_is_nearly_that_of_all_ejects_nobody(faults: int, ejected: bool):
    """Where the others never fail, the standard deviation alone would eject for one failure."""
    rates = [1.0] * 5 + [1 - faults / 100]
    assert statistics.fmean(rates) - 1.9 * statistics.pstdev(rates) > rates[-1]
    assert found([Volume(100, 0)] * 5 + [Volume(100 - faults, faults)]) == [(5, SUCCESS_RATE)] * ejected


def test_success_rate_needs_hosts_and_volume():
    bad = Volume(50, 50)
    assert found([Volume(100, 0)] * 3 + [bad]) == [], "four hosts of five"
    assert found([Volume(99, 0)] * 5 + [bad]) == [], "too few requests for all but one"
    assert found([Volume(100, 0)] * 5 + [bad], OutlierConfig(success_rate_stdev_factor=0)) == []
    config = OutlierConfig(success_rate_minimum_hosts=4, success_rate_stdev_factor=1.5)
    assert found([Volume(100, 0)] * 3 + [bad], config) == [(3, SUCCESS_RATE)]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=12))
def test_whoever_is_found_is_below_the_floor_and_never_all(pairs):
    volumes = [Volume(*pair) for pair in pairs]
    rates = {i: v.good / v.total for i, v in enumerate(volumes) if v.total >= 100}
    outliers = {i for i, _ in found(volumes)}
    if len(rates) < 5:
        assert not outliers
        return
    floor = statistics.fmean(rates.values()) - 1.9 * statistics.pstdev(rates.values())
    assert outliers == {i for i, rate in rates.items() if rate < floor}
    assert len(outliers) < len(rates)


def test_failure_percentage_needs_no_others_and_takes_the_worst_first():
    config = OutlierConfig(failure_percentage_threshold=50)
    assert found([Volume(25, 25), Volume(10, 90), Volume(60, 40), Volume(0, 49)], config) == [
        (1, FAILURE_PERCENTAGE),
        (0, FAILURE_PERCENTAGE),
    ]
    assert found([Volume(0, 1000)]) == [], "off unless it is asked for"


def test_latency_is_compared_with_the_median_of_the_others():
    fast, slow = Volume(200, 0, histogram(8, 200)), Volume(200, 0, histogram(13, 200))
    config = OutlierConfig(latency_factor=3)
    assert found([fast, fast, slow, fast], config) == [(2, LATENCY)]
    assert found([fast, fast, slow, fast]) == [], "off unless it is asked for"
    assert found([fast, slow], config) == [], "two of three hosts"
    assert found([fast, fast, Volume(99, 0, histogram(13, 99))], config) == []


@pytest.mark.parametrize(
    ("buckets", "median"),
    [
        (histogram(0, 0), 0),
        (histogram(0, 1), 50),
        (histogram(3, 10), 750),
        (tuple(1 if i in (0, 1) else 0 for i in range(24)), 100),
        (histogram(23, 5), 60_000_000),
    ],
)
def test_median_within_its_bucket(buckets, median):
    assert math.isclose(Volume(buckets=buckets).median_us, median)


def test_what_an_interval_added():
    before, after = Volume(5, 1, histogram(2, 6)), Volume(9, 3, histogram(2, 12))
    assert after.since(before) == Volume(4, 2, histogram(2, 6))
    assert after.since(Volume()) == after
    assert before.since(after) == before, "the counters were cleared"


EJ = Seen(EJECTED, 1)


def test_ejections_grow_and_shrink_and_have_a_limit():
    config = OutlierConfig(base_ejection_time=30 * SECOND, max_ejection_time=70 * SECOND, interval=10 * SECOND)
    record, now, lasted = Record(), 0, []
    for _ in range(4):
        record, move = follow(record, EJ, config, now)
        assert move is Move.NOTE
        lasted.append((record.until - now) // SECOND)
        assert follow(record, EJ, config, record.until - 1) == (record, Move.NOTHING)
        now = record.until
        record, move = follow(record, EJ, config, now)
        assert (record.ejection_state, move) == (PROBATION, Move.PROBE)
    assert lasted == [30, 60, 70, 70]
    assert record.ejections == {"consecutive_5xx": 4}
    record, move = follow(record, Seen(PROBATION, good=5), config, now)
    assert (record.ejection_state, move) == (WELL, Move.REINSTATE)
    multipliers = []
    for _ in range(4):
        now += 10 * SECOND
        record, move = follow(record, Seen(WELL), config, now)
        assert move is Move.NOTHING
        multipliers.append(record.multiplier)
    assert multipliers == [1, 0, 0, 0]


def test_a_failure_on_probation_ejects_for_longer():
    record, _ = follow(Record(), EJ, PLAIN, 0)
    record, _ = follow(record, EJ, PLAIN, 30 * SECOND)
    record, move = follow(record, Seen(PROBATION, good=4), PLAIN, 31 * SECOND)
    assert move is Move.NOTHING
    record, move = follow(record, Seen(EJECTED, 3), PLAIN, 32 * SECOND)
    assert (move, record.until, record.ejections) == (Move.NOTE, 52 * SECOND, {"consecutive_5xx": 1, "probation": 1})


def test_no_probation_when_it_is_0():
    config = OutlierConfig(probation_requests=0)
    record, _ = follow(Record(), EJ, config, 0)
    record, move = follow(record, EJ, config, 30 * SECOND)
    assert (record.ejection_state, move) == (WELL, Move.REINSTATE)


def test_one_too_many_is_undone():
    record, move = follow(Record(), Seen(EJECTED, 1, over=1), PLAIN, 5)
    assert (record, move) == (Record(), Move.UNDO)
    known, _ = follow(Record(), EJ, PLAIN, 0)
    assert follow(known, Seen(EJECTED, 1, over=1), PLAIN, 5) == (known, Move.NOTHING), "it was there before"


def test_an_ejection_that_somebody_undid_is_forgotten():
    record, _ = follow(Record(), EJ, PLAIN, 0)
    record, move = follow(record, Seen(WELL), PLAIN, 1)
    assert (record.ejection_state, record.multiplier, move) == (WELL, 1, Move.NOTHING)


@pytest.mark.parametrize(
    ("percent", "endpoints", "most"),
    [(50, 4, 2), (10, 4, 1), (0, 4, 0), (100, 4, 3), (50, 1, 0), (10, 20, 2), (10, 29, 2), (50, 2, 1), (50, 0, -1)],
)
def test_the_most_that_may_be_ejected(percent, endpoints, most):
    assert OutlierConfig(max_ejection_percent=percent).most(endpoints) == most
