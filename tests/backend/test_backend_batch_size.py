"""How many rows are merged follows from how long runs take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from compiled.inference_batch_size import BatchSize
from hypothesis import given
from hypothesis import strategies as st

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


TRIES = 4  # runs of a size before it is judged


def ran(learnt: BatchSize, rows: int, took: int, now: int, tries: int = TRIES) -> None:
    for _ in range(tries):
        learnt.ran(rows, took, now)


def test_a_run_that_was_held_up_changes_little() -> None:
    learnt, now = BatchSize(), NOW
    for rows in (1, 2, 4, 8):
        ran(learnt, rows, 10_000 + 100 * rows, now)
    learnt.ran(8, 100_000, now)
    assert learnt.rows(8, now) == 8
    learnt.ran(1, 1_000_000, now)
    learnt.ran(1, 10_100, now)
    assert learnt.rows(8, now) == 8


@pytest.mark.parametrize("held_up", [1, 2])
def test_one_try_that_was_held_up_decides_nothing(held_up: int) -> None:
    """Of a row alone it would make merging look good, of a batch it would make it look bad."""
    learnt, now = BatchSize(), NOW
    for rows in (1, 2):
        if rows == held_up:
            learnt.ran(rows, 10_000 * rows * 5, now)
        ran(learnt, rows, 10_000 * rows if held_up == 1 else 10_000, now, TRIES)
    assert learnt.rows(2, now) == held_up


def test_a_long_run_needs_no_more_tries() -> None:
    learnt, now = BatchSize(), NOW
    learnt.ran(1, 20_000_000, now)
    assert learnt.rows(8, now) == 8


def test_what_cannot_be_filled_is_not_tried() -> None:
    """With few clients the larger sizes are never seen, and nothing is merged for their sake."""
    learnt, now = BatchSize(), NOW
    for rows in (1, 2, 4, 8):
        ran(learnt, rows, 10_000 * rows, now)
    assert learnt.rows(32, now, waiting=7) == 1
    assert learnt.rows(32, now, waiting=8) == 1
    assert learnt.rows(32, now, waiting=9) == 16


def test_inferences_of_many_rows_are_compared_with_themselves() -> None:
    learnt, now = BatchSize(), NOW
    for _ in range(TRIES):
        learnt.ran(8, 80_000, now, merged=False)
    assert learnt.rows(64, now, waiting=8) == 1
    assert learnt.rows(64, now, waiting=16) == 16
    ran(learnt, 16, 100_000, now)
    assert learnt.rows(64, now, waiting=16) == 16
    ran(learnt, 16, 10_000, now)
    assert learnt.rows(64, now, waiting=20) == 32


def test_what_was_not_seen_lately_is_tried_again() -> None:
    """The largest first, of those that can be filled."""
    learnt, now = BatchSize(), NOW
    for rows in (1, 2, 4, 8):
        ran(learnt, rows, 10_000 * rows, now)
    assert learnt.rows(8, now) == 1
    now += 11 * SECOND
    ran(learnt, 1, 10_000, now, TRIES - 1)
    assert learnt.rows(8, now) == 1
    learnt.ran(1, 10_000, now)
    assert learnt.rows(8, now) == 8
    ran(learnt, 8, 70_000, now)
    assert learnt.rows(8, now) == 4
    ran(learnt, 4, 13_000, now)
    assert learnt.rows(8, now) == 2
    ran(learnt, 2, 18_500, now)
    assert learnt.rows(8, now) == 4
