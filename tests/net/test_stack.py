"""A stack is a list that keeps its room and no object that has left it."""

from __future__ import annotations

import sys

from compiled.stack import StackProbe
from hypothesis import given
from hypothesis import strategies as st

STEPS = st.lists(st.one_of(st.integers(0, 20), st.sampled_from(["pop", "clear"]), st.integers(0, 20).map(str)))


@given(STEPS)
def test_it_does_what_a_list_does(steps: list[int | str]) -> None:
    """A number is pushed, a number as text is removed."""
    probe = StackProbe()
    model: list[int] = []
    for step in steps:
        if step == "pop":
            if model:
                assert probe.pop() == model.pop()
        elif step == "clear":
            probe.clear()
            model.clear()
        elif isinstance(step, str):
            probe.remove(int(step))
            if int(step) in model:
                model.remove(int(step))
        else:
            probe.push(step)
            model.append(step)
        assert probe.contents() == model
        assert set(probe.behind()) <= {None}


def test_what_has_left_is_let_go() -> None:
    probe = StackProbe()
    first, second, third = object(), object(), object()
    held = [sys.getrefcount(one) for one in (first, second, third)]
    for one in (first, second, third):
        probe.push(one)
    probe.remove(first)
    assert probe.pop() is third
    probe.clear()
    assert [sys.getrefcount(one) for one in (first, second, third)] == held
