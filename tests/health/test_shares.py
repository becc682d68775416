"""Shares of endpoints: slow start and panic, as decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.config.schema.pools.slow_start import SlowStartConfig
from lb.health.shares import Member, decide_shares, grown

SECOND = 1_000_000_000
UP, DOWN, DRAINED = Member(True, True), Member(True, False), Member(False, True)


@pytest.mark.parametrize(
    ("members", "threshold", "panic"),
    [
        ([UP, DOWN], 50, False),
        ([UP, DOWN, DOWN], 50, True),
        ([UP, DOWN, DOWN], 0, False),
        ([DOWN], 1, True),
        ([UP, DOWN, DOWN, DOWN], 25, False),
        ([UP, UP, DOWN], 100, True),
        ([UP, UP, UP], 100, False),
        ([UP, DRAINED, DRAINED], 50, False),
        ([DRAINED], 50, False),
        ([], 50, False),
    ],
)
def test_panic(members, threshold, panic):
    assert decide_shares(members, threshold).panic == (panic,) * len(members)


@pytest.mark.parametrize(
    ("seconds", "aggression", "part"),
    [(0, 1, 0.1), (0.5, 1, 0.1), (5, 1, 0.5), (10, 1, 1), (99, 1, 1), (-1, 1, 0.1), (2.5, 2, 0.5), (5, 0.5, 0.25)],
)
def test_slow_start_as_envoy_computes_it(seconds, aggression, part):
    settings = SlowStartConfig(window=10 * SECOND, aggression=aggression)
    assert grown(settings, 7, 7 + int(seconds * SECOND)) == pytest.approx(part)


def test_in_a_panic_only_those_start_slowly_who_are_healthy():
    slow = [Member(True, True, 0.5), Member(True, False, 0.1), Member(True, False, 0.1), Member(False, False, 0.1)]
    assert decide_shares(slow, 50).thousandths == (500, 1000, 1000, 100)
    assert decide_shares(slow, 0).thousandths == (500, 100, 100, 100)


@given(
    window=st.integers(SECOND // 10, 3600 * SECOND),
    least=st.integers(1, 100),
    aggression=st.floats(0.1, 100),
    moments=st.lists(st.integers(0, 7200 * SECOND), min_size=2, max_size=10),
)
def test_a_share_only_grows_and_ends_whole(window, least, aggression, moments):
    settings = SlowStartConfig(window=window, min_weight_percent=least, aggression=aggression)
    parts = [grown(settings, 0, moment) for moment in sorted(moments)]
    assert parts == sorted(parts)
    assert all(least / 100 <= part <= 1 for part in parts)
    assert grown(settings, 0, window) == 1
    shares = decide_shares([Member(True, True, part) for part in parts], 0)
    assert all(1 <= share <= 1000 for share in shares.thousandths)
