"""Means and extremes over spans of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property import examples

from lb.scaling.propose import Reading
from lb.scaling.windows import Highest, Meter, Window

SECOND = 1_000_000_000


class TestMeter:
    def test_a_load_is_shared_by_those_that_joined(self) -> None:
        meter = Meter()
        meter.add(Reading((6.0, 6.0)))
        meter.add(Reading((3.0, 3.0, 3.0, 3.0)))
        assert meter.take() == Reading((3.0,) * 4)

    def test_a_level_is_averaged_as_it_is(self) -> None:
        meter = Meter(level=True)
        meter.add(Reading((0.2,)))
        meter.add(Reading((0.4,) * 3, unready=1))
        found = meter.take()
        assert found is not None
        assert (found.values, found.unready) == (pytest.approx((0.3,) * 3), 1)

    def test_those_that_do_not_report_are_thought_to_be_like_the_others(self) -> None:
        meter = Meter()
        meter.add(Reading((4.0, 4.0), missing=2))
        meter.add(Reading((4.0, 4.0, 4.0, 4.0)))
        assert meter.take() == Reading((4.0,) * 4)

    def test_what_the_last_look_did_not_have_is_missing(self) -> None:
        meter = Meter()
        meter.add(Reading((4.0,)))
        meter.add(None)
        assert meter.take() is None
        meter.add(Reading((4.0,)))
        meter.add(Reading(unready=1))
        assert meter.take() is None

    def test_each_decision_begins_anew(self) -> None:
        meter = Meter()
        assert meter.take() is None
        meter.add(Reading((8.0,)))
        meter.take()
        assert meter.take() is None
        meter.add(Reading((2.0,)))
        assert meter.take() == Reading((2.0,))


class TestWindow:
    def test_each_value_counts_for_as_long_as_it_was_measured(self) -> None:
        window = Window(10 * SECOND)
        window.add(3 * SECOND, 3 * SECOND, 4.0)
        window.add(4 * SECOND, 1 * SECOND, 8.0)
        assert window.mean(4 * SECOND) == 5.0

    def test_what_is_older_does_not_count(self) -> None:
        window = Window(2 * SECOND)
        window.add(1 * SECOND, SECOND, 100.0)
        window.add(3 * SECOND, SECOND, 2.0)
        assert window.mean(3 * SECOND) == 2.0
        assert window.mean(5 * SECOND) is None

    @examples(60)
    @given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1e9)), min_size=1, max_size=60), st.integers(1, 20))
    def test_as_if_reckoned_from_all_values(self, values: list[tuple[int, float]], span: int) -> None:
        window, now, all_ = Window(span), 0, []
        for length, value in values:
            now += length
            window.add(now, length, value)
            all_.append((now, length, value))
        left = [(length, value) for at, length, value in all_ if at > now - span]
        expected = sum(n * v for n, v in left) / sum(n for n, _ in left)
        assert window.mean(now) == pytest.approx(expected, rel=1e-6, abs=1e-5)

    def test_no_noise_is_left_of_what_is_over(self) -> None:
        window = Window(5)
        for at in range(1, 50):
            window.add(at, 1, 0.1 * at)
        window.add(100, 1, 0.0)
        assert window.mean(100) == 0.0


@examples(60)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), min_size=1, max_size=60), st.integers(1, 20))
def test_the_highest_is_that_of_all_values_in_the_span(values: list[tuple[int, int]], span: int) -> None:
    highest, now, all_ = Highest(span), 0, []
    for step, value in values:
        now += step
        all_.append((now, value))
        expected = max(v for at, v in all_ if at > now - span)
        assert highest.of(now, value) == expected
