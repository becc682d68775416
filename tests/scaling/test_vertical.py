"""The size of one server by what was used: VPA's own examples, and how the size follows.

The examples are those of kubernetes/autoscaler, vertical-pod-autoscaler/pkg/recommender, files
util/decaying_histogram_test.go and logic/estimator_test.go. Its test histogram has buckets of width 1; here the values
are in buckets of 5 %.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.config.units import DAY, GIB, HOUR, MIB, MINUTE
from lb.scaling.vertical import MARGIN, Advice, Histogram, Vertical, whole_cores

START = 1_234_567_890 * 1_000_000_000


def cores() -> Histogram:
    return Histogram(0.01, HOUR)


def near(value: float) -> object:
    """A percentile is the end of a sample's bucket."""
    return pytest.approx(value * 1.025, rel=0.03)


def test_an_empty_histogram_has_no_percentile() -> None:
    assert [cores().percentile(p) for p in (0.0, 0.5, 1.0)] == [0, 0, 0]


def test_weights_decay() -> None:
    histogram = cores()
    histogram.add(2, 1000, START)
    histogram.add(1, 1, START + 20 * HOUR)
    assert histogram.percentile(0.999) == near(1)
    assert histogram.percentile(1.0) == near(2)


def test_weights_decay_over_a_long_time() -> None:
    histogram = cores()
    histogram.add(2, 1, START)
    histogram.add(1, 1, START + 101 * HOUR)
    assert histogram.percentile(1.0) == near(1)


def test_percentiles_of_samples_that_are_a_half_life_apart() -> None:
    histogram = cores()
    for i in range(4):
        histogram.add(i + 1, i + 1, START + i * HOUR)
    expected = {0.00: 1, 0.02: 1, 0.03: 2, 0.10: 2, 0.11: 3, 0.34: 3, 0.35: 4, 1.00: 4}
    assert {p: histogram.percentile(p) for p in expected} == {p: near(value) for p, value in expected.items()}


def test_percentiles_without_decay() -> None:
    histogram = cores()
    for i in range(1, 5):
        histogram.add(i, i, START)
    expected = {0.0: 1, 0.1: 1, 0.2: 2, 0.3: 2, 0.4: 3, 0.5: 3, 0.6: 3, 0.7: 4, 0.8: 4, 0.9: 4, 1.0: 4}
    assert {p: histogram.percentile(p) for p in expected} == {p: near(value) for p, value in expected.items()}


def test_percentiles_of_cores_and_memory() -> None:
    memory = Histogram(1e7, DAY)
    used = cores()
    for value in (1.0, 2.0, 3.0):
        used.add(value, 1, 0)
        memory.add(value * 1e9, 1, 0)
    assert used.percentile(0.2) == pytest.approx(1.0, rel=0.05)
    assert memory.percentile(0.5) == pytest.approx(2e9, rel=0.05)


def test_bounds_are_wide_with_little_experience() -> None:
    """The confidence of VPA's example, 9 samples in 16 minutes, is 9 / (60 * 24) days."""
    rule = Vertical()
    for minute in range(0, 18, 2):
        rule.see(START + minute * MINUTE, {"a": 1.0}, {"a": 1e9})
    advice = rule.advise(START + 16 * MINUTE)
    assert advice is not None
    assert advice.days == pytest.approx(0.00625)
    assert advice.cores == near(MARGIN)
    assert advice.upper == pytest.approx(advice.cores * (1 + 1 / 0.00625))
    assert advice.lower == pytest.approx(advice.cores * (1 + 0.001 / 0.00625) ** -2)
    assert advice.memory == pytest.approx(1e9 * MARGIN, rel=0.06)


def test_a_server_that_uses_all_of_its_cores_grows_until_it_does_not() -> None:
    rule, sizes, when = Vertical(), [1], [0]
    for minute in range(5 * DAY // MINUTE):
        rule.see(START + minute * MINUTE, {"a": min(sizes[-1], 3.2)}, {})
        advice = rule.advise(START + minute * MINUTE)
        assert advice is not None
        size = whole_cores(advice, sizes[-1], (minute - when[-1]) * MINUTE, 1, 64)
        if size != sizes[-1]:
            sizes.append(size)
            when.append(minute)
    assert sizes == [1, 2, 3, 4]
    assert 5 < when[1] < 30


def test_a_server_that_uses_little_shrinks_after_hours_and_not_at_once() -> None:
    rule, size, when = Vertical(), 8, []
    for minute in range(2 * DAY // MINUTE):
        rule.see(START + minute * MINUTE, {"a": 0.7, "b": 0.8}, {})
        advice = rule.advise(START + minute * MINUTE)
        assert advice is not None
        if (wanted := whole_cores(advice, size, minute * MINUTE, 1, 64)) != size:
            size = wanted
            when.append(minute)
    assert size == 1
    assert when[0] > 60
    assert len(when) == 1


def test_memory_is_that_of_peaks() -> None:
    rule = Vertical()
    for minute in range(DAY // MINUTE):
        rule.see(START + minute * MINUTE, {"a": 1}, {"a": 3 * GIB if minute == 700 else 1 * GIB})
    advice = rule.advise(START + DAY)
    assert advice is not None
    assert advice.memory == pytest.approx(3 * GIB * MARGIN, rel=0.06)
    rule.killed(4 * GIB, START + DAY)
    killed = rule.advise(START + DAY)
    assert killed is not None
    assert killed.memory == pytest.approx(4 * 1.2 * GIB * MARGIN, rel=0.06)


@given(
    st.lists(st.tuples(st.integers(1, 600), st.floats(0, 64)), min_size=1, max_size=60),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(0, 60),
)
def test_always_within_limits_and_steady_between_bounds(
    steps: list[tuple[int, float]], current: int, least: int, more: int
) -> None:
    rule, at = Vertical(), START
    for minutes, used in steps:
        at += minutes * MINUTE
        rule.see(at, {"a": used}, {"a": 100 * MIB * used})
    advice = rule.advise(at)
    assert advice is not None
    assert advice.lower <= advice.cores <= advice.upper
    size = whole_cores(advice, current, 0, least, least + more)
    assert least <= size <= least + more
    assert whole_cores(advice, size, 0, least, least + more) == size


def test_nothing_is_advised_before_anything_was_seen() -> None:
    assert Vertical().advise(START) is None
    assert whole_cores(Advice(2.3, 2.0, 9.0, 0, 1, 1), 4, HOUR, 1, 8) == 4
