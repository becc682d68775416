"""The speed of emulated executions over time: stalls and slow periods shift finishes exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.emulator.timeline import NEVER, STALLED, Span, Timeline


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    spans = []
    for _ in range(draw(st.integers(0, 3))):
        every = draw(st.sampled_from([0, 100, 170, 1000]))
        # Repeated stalls cover less than a third of the time each, so that something always proceeds.
        length = draw(st.integers(1, every // 4 if every else 500))
        factor = draw(st.sampled_from([STALLED, 2.0, 3.0, 1.5]))
        spans.append(Span(draw(st.integers(0, 2000)), length, every, factor))
    return Timeline(spans)


def test_a_stall_shifts_what_overlaps_it_by_its_length_and_nothing_else() -> None:
    timeline = Timeline([Span(100, 50)])
    assert timeline.finish(0, 100) == 100
    assert timeline.finish(0, 101) == 151
    assert timeline.finish(90, 20) == 160
    assert timeline.finish(120, 7) == 157
    assert timeline.finish(150, 7) == 157
    assert timeline.finish(120, 0) == 150
    assert timeline.clear(99) == 99
    assert timeline.clear(100) == timeline.clear(149) == timeline.clear(150) == 150


def test_a_repeated_stall_comes_again() -> None:
    timeline = Timeline([Span(100, 50, every=200)])
    assert timeline.finish(0, 250) == 300
    assert timeline.finish(0, 251) == 351
    assert timeline.clear(510) == 550


def test_an_antagonist_stretches_the_overlap_only() -> None:
    timeline = Timeline([Span(100, 50, every=200, factor=5.0)])
    assert timeline.finish(0, 100) == 100
    assert timeline.finish(100, 10) == 150
    assert timeline.finish(90, 15) == 125
    assert timeline.finish(140, 12) == 160


def test_factors_multiply_and_a_stall_wins() -> None:
    slow = [Span(0, 1000, factor=2.0), Span(0, 1000, factor=3.0)]
    assert Timeline(slow).finish(0, 10) == 60
    assert Timeline([*slow, Span(0, 40)]).finish(0, 10) == 100


def test_a_stall_without_end() -> None:
    timeline = Timeline([Span(100, NEVER)])
    assert timeline.finish(0, 100) == 100
    assert timeline.finish(0, 101) == NEVER
    assert timeline.clear(100) == NEVER
    assert timeline.progress(0, 10_000) == 100


@given(timelines(), st.integers(0, 5000), st.integers(1, 3000))
def test_finish_is_the_first_moment_at_which_the_work_is_done(timeline: Timeline, start: int, work: int) -> None:
    finish = timeline.finish(start, work)
    assert timeline.progress(start, finish) == pytest.approx(work, abs=1.01)
    assert timeline.progress(start, finish - 1) < work + 1e-6
    assert finish >= start + work


@given(timelines(), st.integers(0, 5000), st.integers(0, 2000), st.integers(0, 2000))
def test_progress_adds_up(timeline: Timeline, start: int, one: int, two: int) -> None:
    middle, end = start + one, start + one + two
    parts = timeline.progress(start, middle) + timeline.progress(middle, end)
    assert parts == pytest.approx(timeline.progress(start, end))


@given(timelines(), st.integers(0, 5000))
def test_clear_is_the_end_of_the_stall(timeline: Timeline, now: int) -> None:
    clear = timeline.clear(now)
    assert timeline.at(clear)[0] != STALLED
    assert all(timeline.at(moment)[0] == STALLED for moment in range(now, min(clear, now + 300)))
