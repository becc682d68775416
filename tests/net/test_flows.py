"""The table of UDP sessions against a set, with hashes that collide."""

from __future__ import annotations

import pytest
from compiled.flow_table import FlowsProbe
from hypothesis import given
from hypothesis import strategies as st

HASHES = (lambda n: 0, lambda n: n, lambda n: n % 3, lambda n: n * 0x9E3779B97F4A7C15 % (1 << 64))
STEPS = st.lists(st.tuples(st.sampled_from(("add", "remove", "find", "reserve")), st.integers(0, 40)), max_size=200)


@pytest.mark.slow
@given(STEPS, st.sampled_from(HASHES))
def test_flows_are_a_set(steps, hashed) -> None:
    table, model = FlowsProbe(), set()
    table.reserve(1)
    for step, n in steps:
        if step == "reserve":
            assert table.reserve(n * 40) >= n * 40
        elif step == "add" and n not in model:
            table.add(n, hashed(n))
            model.add(n)
        elif step == "remove" and n in model:
            table.remove(n, hashed(n))
            model.discard(n)
        assert table.find(n, hashed(n)) == (n in model)
        assert len(table) == len(model)
    assert [n for n in range(41) if table.find(n, hashed(n))] == sorted(model)


def test_the_table_is_sized_once() -> None:
    table = FlowsProbe()
    assert table.reserve(10_000) == 16384
    assert table.reserve(100) == 16384
    for n in range(10_000):
        table.add(n, n * 0x9E3779B97F4A7C15 % (1 << 64))
    assert len(table) == 10_000
    table.clear()
    assert len(table) == 0
