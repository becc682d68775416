from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.health.rise_fall import TABLE, RiseFall, State, Transition


def run(machine: RiseFall, results: str) -> list[Transition | None]:
    return [machine.observe(r == "+", now) for now, r in enumerate(results)]


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(itertools.product(State, (True, False)))


@pytest.mark.parametrize(
    ("initial", "results", "changes"),
    [
        ("up", "---", {2: "down"}),
        ("up", "--+--", {}),
        ("up", "--+---", {5: "down"}),
        ("down", "++", {1: "up"}),
        ("down", "+-+", {}),
        ("down", "-----++---++", {6: "up", 9: "down", 11: "up"}),
        ("up", "++++", {}),
        ("up", "----", {2: "down"}),
    ],
)
def test_rise_2_fall_3(initial: str, results: str, changes: dict[int, str]) -> None:
    seen = run(RiseFall(2, 3, State(initial), 0), results)
    assert {t.at: t.state.value for t in seen if t} == changes


def test_new_limits_keep_state_and_count() -> None:
    machine = RiseFall(2, 3, State.UP, 7)
    run(machine, "--")
    changed = machine.with_limits(rise=1, fall=3)
    assert (changed.state, changed.since) == (State.UP, 7)
    assert changed.observe(False, 9) == Transition(State.DOWN, 9, 3)
    assert changed.observe(True, 10) == Transition(State.UP, 10, 1)


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(State), st.lists(st.booleans(), max_size=60))
def test_state_follows_the_last_full_run(rise: int, fall: int, initial: State, results: list[bool]) -> None:
    machine = RiseFall(rise, fall, initial, 0)
    expected = initial
    for i, ok in enumerate(results):
        change = machine.observe(ok, i)
        limit = rise if ok else fall
        if i + 1 >= limit and all(r == ok for r in results[i + 1 - limit : i + 1]):
            to = State.UP if ok else State.DOWN
            assert (change is not None) == (to is not expected)
            expected = to
        else:
            assert change is None
        assert machine.state is expected
