"""How many rows are merged follows from how long runs take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.compiled.inference_batch_size import BatchSize

SECOND = 1_000_000_000
NOW = 100 * SECOND


def settled(run: Callable[[int], float], most: int = 32, runs: int = 60) -> int:
    """The most rows of a batch when a run of n rows takes run(n) ns, and as many wait as may be merged."""
    learnt, now = BatchSize(), NOW
    for _ in range(runs):
        rows = learnt.rows(most, now)
        took = round(run(rows))
        now += took
        learnt.ran(rows, took, now)
    return learnt.rows(most, now)


@pytest.mark.parametrize(
    ("run", "rows"),
    [
        (lambda n: 10_000 + 10 * n, 32),  # the calls cost most
        (lambda n: 10_000 * n, 1),  # nothing is gained
        (lambda n: 10_000 * n**1.1, 1),  # something is lost
        (lambda n: 10_000 + 1_000 * n if n <= 8 else 10_000 * n, 8),  # up to the size of a cache
        (lambda n: 10_000 + 9_900 * (n - 1), 1),  # too little is gained
    ],
)
def test_the_size_in_which_a_row_costs_least(run: Callable[[int], float], rows: int) -> None:
    assert settled(run) == rows


@given(st.integers(1, 100))
def test_never_more_than_allowed(most: int) -> None:
    assert settled(lambda n: 1_000_000, most) == most


def test_a_run_that_was_held_up_changes_little() -> None:
    learnt, now = BatchSize(), NOW
    for rows in (1, 2, 4, 8):
        learnt.ran(rows, 10_000 + 100 * rows, now)
    learnt.ran(8, 100_000, now)
    assert learnt.rows(8, now) == 8
    learnt.ran(1, 1_000_000, now)
    learnt.ran(1, 10_100, now)
    assert learnt.rows(8, now) == 8


def test_what_was_not_seen_lately_is_tried_again() -> None:
    learnt, now = BatchSize(), NOW
    for rows in (1, 2, 4, 8):
        learnt.ran(rows, 10_000 * rows, now)
    assert learnt.rows(8, now) == 1
    now += 11 * SECOND
    learnt.ran(1, 10_000, now)
    assert learnt.rows(8, now) == 2
    learnt.ran(2, 11_000, now)
    assert learnt.rows(8, now) == 4
    learnt.ran(4, 13_000, now)
    learnt.ran(8, 17_000, now)
    assert learnt.rows(8, now) == 8
