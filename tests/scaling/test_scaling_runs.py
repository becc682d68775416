"""Batch and runs at once by what servers say of their runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.scaling.runs import DOWN_LOOKS, UP_LOOKS, Runs, RunSize, Size

MS = 1_000_000
MOST = Size(64, 8)


def runs(
    rows: dict[int, tuple[int, float]], largest: int = 8, wait: float = 0.0, busy: float = 1.0, **more: Any
) -> Runs:
    """`rows`: rows of a run -> runs, ms of each; `wait` ms of each request."""
    requests = sum(size * n for size, (n, _) in rows.items())
    by_rows = {size: (n, round(n * ms * MS)) for size, (n, ms) in rows.items()}
    return Runs(by_rows, largest, requests, round(requests * wait * MS), busy, more.get("cores"))


def after(looks: int, seen: Runs, size: Size, most: Size = MOST) -> Size:
    rule = RunSize(most)
    for _ in range(looks):
        if (found := rule.see(seen, size)) != size:
            return found
    return size


FULL = {8: (100, 10.0)}


def test_a_full_batch_that_requests_wait_for_doubles_after_three_looks() -> None:
    crowded = runs(FULL, wait=11.0)
    assert after(UP_LOOKS - 1, crowded, Size(8, 1)) == Size(8, 1)
    assert after(UP_LOOKS, crowded, Size(8, 1)) == Size(16, 1)
    assert after(UP_LOOKS, crowded, Size(8, 1), Size(12, 8)) == Size(12, 1)


@pytest.mark.parametrize(
    ("seen", "size"),
    [
        (runs(FULL, wait=9.0), Size(8, 1)),  # requests do not wait for long
        (runs({8: (40, 10.0), 3: (60, 5.0)}, wait=20.0, busy=0.5), Size(8, 1)),  # runs are not full
        (runs({8: (100, 10.0), 4: (30, 5.0)}, wait=20.0, busy=0.5), Size(8, 1)),  # a row is no cheaper
        (runs(FULL, wait=20.0, busy=0.5), Size(4, 1)),  # the batch is the model's own
        (runs({8: (10, 10.0)}, wait=20.0), Size(8, 1)),  # too little
        (runs(FULL, wait=20.0, busy=0.5), Size(64, 1)),
    ],
)
def test_it_stays(seen: Runs, size: Size) -> None:
    assert after(2 * UP_LOOKS, seen, size) == size


def test_more_runs_at_once_where_a_larger_batch_is_of_no_use() -> None:
    linear = {8: (100, 10.0), 4: (30, 5.0)}
    assert after(UP_LOOKS, runs(linear, wait=20.0, busy=1.0, cores=0.4), Size(8, 1)) == Size(8, 2)
    # Without cores for them they would only be slower.
    assert after(UP_LOOKS, runs(linear, wait=20.0, busy=1.0, cores=0.95), Size(8, 1)) == Size(8, 1)
    assert after(UP_LOOKS, runs({1: (100, 10.0)}, largest=0, wait=20.0, busy=1.0), Size(8, 1)) == Size(8, 2)
    assert after(UP_LOOKS, runs(linear, wait=20.0, busy=7.9), Size(8, 8)) == Size(8, 8)


def test_less_only_after_many_looks() -> None:
    idle = runs(FULL, busy=0.3)
    assert after(DOWN_LOOKS - 1, idle, Size(8, 4)) == Size(8, 4)
    assert after(DOWN_LOOKS, idle, Size(8, 4)) == Size(8, 2)
    dear = runs({8: (100, 12.0), 4: (30, 5.0)}, busy=1.0)
    assert after(DOWN_LOOKS, dear, Size(8, 1)) == Size(4, 1)


def test_a_batch_that_made_rows_dearer_does_not_come_back() -> None:
    """Else servers would be replaced for ever, there and back."""
    rule = RunSize(MOST)
    dear = runs({8: (100, 12.0), 4: (30, 5.0)}, wait=20.0, busy=0.5)
    assert [rule.see(dear, Size(8, 1)) for _ in range(DOWN_LOOKS)][-1] == Size(4, 1)
    crowded = runs({4: (100, 5.0)}, largest=4, wait=20.0, busy=0.5)
    assert {rule.see(crowded, Size(4, 1)) for _ in range(2 * UP_LOOKS)} == {Size(4, 1)}
    # Smaller ones may grow up to it.
    assert Size(4, 1) in {rule.see(runs({2: (100, 5.0)}, 2, 20.0), Size(2, 1)) for _ in range(UP_LOOKS)}


def test_a_look_that_says_something_else_begins_anew() -> None:
    rule, crowded, calm = RunSize(MOST), runs(FULL, wait=11.0), runs(FULL)
    for seen in (crowded, crowded, calm, crowded, crowded):
        assert rule.see(seen, Size(8, 1)) == Size(8, 1)
    assert rule.see(crowded, Size(8, 1)) == Size(16, 1)
    assert rule.reason == "requests wait for longer than a run takes, and runs are full with 8 rows"


def test_what_has_no_limit_is_left_alone() -> None:
    assert after(UP_LOOKS, runs(FULL, wait=20.0, busy=1.0), Size(8, 1), Size()) == Size(8, 1)
    assert after(DOWN_LOOKS, runs(FULL, busy=0.1), Size(8, 4), Size(64, 0)) == Size(8, 4)


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.integers(1, 128), st.tuples(st.integers(1, 500), st.floats(0.01, 100.0)), max_size=5),
            st.integers(0, 128), st.floats(0, 100), st.floats(0, 16), st.none() | st.floats(0, 1),
        ),
        max_size=100,
    )
)  # fmt: skip
def test_sizes_stay_within_their_limits(looks: list[Any]) -> None:
    rule, size = RunSize(MOST), Size(8, 1)
    for rows, largest, wait, busy, cores in looks:
        size = rule.see(runs(rows, largest, wait, busy, cores=cores), size)
        assert 1 <= size.batch <= MOST.batch
        assert 1 <= size.instances <= MOST.instances
