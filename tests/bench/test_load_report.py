"""Histograms and reports: what is recorded is what hdrh would record, and nothing is lost on the way."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from bench.errors import BenchError
from bench.load import Report, Series, parse
from bench.load import histogram as histograms
from bench.load.histogram import Recording

EDGES = [0, 1, 999, 1000, 2_047_999, 2_048_000, 2_049_999, 4_095_999, 4_096_000, 200_000_000, 600 * 10**9, 900 * 10**9]


def encoded(*us: int) -> str:
    recording = Recording()
    for value in us:
        recording.record(value * 1000)
    return histograms.encode(recording.histogram())


def report(**changes: Any) -> Report:
    empty = encoded()
    given: dict[str, Any] = {
        "sent": 4,
        "completed": 3,
        "failed": {"reset": 1},
        "dropped": 0,
        "retried": 0,
        "began_ns": 5,
        "duration_ns": 2_000_000_000,
        "cpu_ns": 1,
        "bytes_in": 10,
        "bytes_out": 20,
        "latency": encoded(100, 200, 30_000),
        "service": empty,
        "lateness": empty,
        "failure": encoded(7),
        "series": Series(sent=[3, 1], completed=[2, 1], failed=[0, 1], max_us=[200, 30_000], sum_us=[300, 30_000]),
    }
    return Report(**(given | changes))


def test_recording_is_what_hdrh_records() -> None:
    rng = Random(3)
    values = EDGES + [int(10 ** rng.uniform(0, 11.7)) for _ in range(3000)]
    recording, direct = Recording(), histograms.empty()
    for ns in values:
        recording.record(ns)
        direct.record_value(min(ns // 1000, histograms.HIGHEST_US))
    found = recording.histogram()
    assert found.get_total_count() == len(values)
    for q in (0, 1, 10, 50, 90, 99, 99.9, 100):
        assert found.get_value_at_percentile(q) == direct.get_value_at_percentile(q)
    assert found.get_max_value() == direct.get_max_value()
    assert histograms.encode(found) == histograms.encode(direct)


def test_percentiles_and_json() -> None:
    one = report()
    assert one.percentile(50) == 200
    assert one.percentile(100) == pytest.approx(30_000, rel=0.001)
    assert one.percentile(99, "service") == 0
    assert one.percentiles([0, 100], "failure") == [7, 7]
    assert (one.offered_rate, one.completed_rate) == (2.0, 1.5)
    again = Report.from_json(one.to_json())
    assert again == one
    with pytest.raises(BenchError, match="no report"):
        Report.from_json('{"sent": 3}')


def test_merge_adds_counts_and_keeps_the_time() -> None:
    other = report(
        failed={"reset": 2, "timeout": 1},
        sent=6,
        dropped=2,
        latency=encoded(1_000, 2_000, 50_000),
        series=Series(sent=[6], completed=[3], failed=[3], max_us=[900], sum_us=[900], in_time=[2]),
    )
    both = report().merge(other)
    assert (both.sent, both.completed, both.dropped) == (10, 6, 2)
    assert both.failed == {"reset": 3, "timeout": 1}
    assert both.offered_rate == 6.0
    assert both.histogram().get_total_count() == 6
    assert both.percentile(100) == pytest.approx(50_000, rel=0.001)
    assert both.percentile(50) == pytest.approx(1_000, rel=0.001)
    assert both.series == Series(
        sent=[9, 1], completed=[5, 1], failed=[3, 1], max_us=[900, 30_000], sum_us=[1200, 30_000], in_time=[2]
    )
    with pytest.raises(BenchError, match="bins"):
        both.merge(report(series=Series(bin_ns=1)))


def test_doubts() -> None:
    assert report(failed={}).doubts() == []
    found = report(cpu_ns=1_900_000_000, lateness=encoded(5_000), dropped=1, interrupted=True).doubts()
    assert len(found) == 5
    for line, text in zip(found, ("5.0 ms or more", "95% of a core", "dropped", "1 reset", "ended early"), strict=True):
        assert text in line


def test_what_it_prints_is_found_again() -> None:
    one = report()
    assert parse(f"bench-measuring\nbench-result {one.to_json()}\n") == one
    for output, message in [("", "printed nothing"), ("Killed\n", "Killed"), ("bench-result {}\n", "no report")]:
        with pytest.raises(BenchError, match=message):
            parse(output)
