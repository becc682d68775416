"""Medians, spreads and paired ratios."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import paired_ratio, summarize


def test_summary() -> None:
    found = summarize([10.0, 30.0, 12.0])
    assert (found.median, found.low, found.high, found.count) == (12.0, 10.0, 30.0, 3)
    assert found.spread == pytest.approx(1.5)
    assert summarize([1, 2, 3, 4]).median == 2.5
    assert summarize([0.0]).spread == 0.0
    with pytest.raises(ValueError, match="no values"):
        summarize([])


@given(st.lists(st.floats(0.1, 1e9), min_size=1, max_size=20))
def test_summary_is_in_order_and_spread_covers_all(values: list[float]) -> None:
    found = summarize(values)
    assert found.low <= found.median <= found.high
    assert all(abs(v - found.median) <= found.spread * found.median * (1 + 1e-9) for v in values)


def test_ratio_is_by_round() -> None:
    # The machine is twice as slow in round 2: both suffer, the ratio does not.
    found = paired_ratio({1: 10.0, 2: 20.0, 3: 11.0}, {1: 20.0, 2: 40.0, 4: 1.0})
    assert found is not None
    assert (found.median, found.low, found.high, found.count) == (0.5, 0.5, 0.5, 2)
    assert paired_ratio({1: 1.0}, {2: 1.0}) is None
    assert paired_ratio({1: 1.0}, {1: 0.0}) is None
