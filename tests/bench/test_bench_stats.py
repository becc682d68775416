"""Medians, spreads and paired ratios."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import CONFIDENCE, Ranking, Summary, interval, overlap, paired_ratio, ranking, summarize


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


def test_standing_needs_every_pair_to_say_the_same() -> None:
    assert ranking({1: 1.0, 2: 1.9}, {1: 2.0, 2: 2.0}, "lower") is Ranking.AHEAD
    assert ranking({1: 1.0, 2: 1.9}, {1: 2.0, 2: 2.0}, "higher") is Ranking.BEHIND
    assert ranking({1: 1.0, 2: 2.0}, {1: 2.0, 2: 2.0}, "lower") is Ranking.EVEN
    assert ranking({1: 1.0, 2: 9.0}, {1: 2.0, 2: 2.0}, "lower") is Ranking.EVEN
    assert ranking({1: 1.0}, {1: 2.0}, "lower") is Ranking.ONCE
    assert ranking({1: 1.0}, {2: 2.0}, "lower") is None
    # Counts of failures: no ratio to 0, and yet it is worse.
    assert ranking({1: 3.0, 2: 1.0}, {1: 0.0, 2: 0.0}, "lower") is Ranking.BEHIND


@given(st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0.1, 1e6)), min_size=2, max_size=9))
def test_standing_is_whether_the_interval_of_ratios_excludes_one(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = ({i: pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    ratio = paired_ratio(ours, theirs)
    assert ratio is not None
    found = ranking(ours, theirs, "lower")
    if ratio.high < 1:
        assert found is Ranking.AHEAD
    elif ratio.low > 1:
        assert found is Ranking.BEHIND
    elif ratio.low < 1 < ratio.high:
        assert found is Ranking.EVEN


def test_the_interval_is_students() -> None:
    # mean and deviation of the logarithms are 0 and 1, the quantile for two degrees of freedom is 9.925
    low, high = interval([math.exp(-1), 1.0, math.exp(1)])
    assert high == pytest.approx(math.exp(9.925 / math.sqrt(3)))
    assert low == pytest.approx(1 / high)
    assert interval([3.0]) == (3.0, 3.0)
    assert interval([2.0, 2.0]) == pytest.approx((2.0, 2.0))
    assert interval([0.0, 4.0]) == (0.0, 4.0)  # counts have no logarithm
    assert interval([1e-300, 1e300])[1] > 1e300


@given(st.lists(st.floats(0.1, 1e6), min_size=2, max_size=30))
def test_the_geometric_mean_is_in_the_interval(values: list[float]) -> None:
    found = summarize(values)
    mean = math.exp(math.fsum(map(math.log, values)) / len(values))
    assert found.lower * (1 - 1e-9) <= mean <= found.upper * (1 + 1e-9)
    assert min(values) <= found.median <= max(values)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_interval_covers_the_middle_as_often_as_it_says(count: int) -> None:
    rng = random.Random(1)
    hits = 0
    for _ in range(6000):
        low, high = interval([rng.lognormvariate(0, 0.05) for _ in range(count)])
        hits += low < 1 < high
    assert hits / 6000 == pytest.approx(CONFIDENCE, abs=0.006)


@pytest.mark.parametrize("count", [3, 5])
def test_like_results_almost_never_lie_apart(count: int) -> None:
    rng = random.Random(2)
    apart = 0
    for _ in range(6000):
        one, other = ([rng.lognormvariate(0, 0.05) for _ in range(count)] for _ in range(2))
        apart += not overlap(summarize(one), summarize(other))
    assert apart <= 6
    assert not overlap(summarize([1.0, 1.01, 1.02]), summarize([1.5, 1.51, 1.52]))


def test_overlap() -> None:
    one = Summary(2.0, 1.0, 3.0, 5, 1.0, 3.0)
    assert overlap(one, Summary(3.5, 3.0, 4.0, 5, 3.0, 4.0))
    assert overlap(one, Summary(2.0, 1.9, 2.1, 5, 1.9, 2.1))
    assert not overlap(one, Summary(4.0, 3.1, 5.0, 5, 3.1, 5.0))
    assert not overlap(Summary(4.0, 3.1, 5.0, 5, 3.1, 5.0), one)
