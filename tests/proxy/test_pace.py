"""The least speed of a request's body."""

from compiled.exchange import Pace

SECOND = 1_000_000_000
NEVER = 2**64 - 1


def test_each_quota_begins_a_new_window() -> None:
    pace = Pace(100, 10 * SECOND)  # 1000 bytes within 10 s
    pace.start(0)
    assert pace.advance(0, 0) == 10 * SECOND
    assert pace.advance(9 * SECOND, 999) == 10 * SECOND
    assert pace.advance(9 * SECOND, 1) == 19 * SECOND
    assert pace.advance(18 * SECOND, 999) == 19 * SECOND


def test_a_fast_start_earns_no_credit() -> None:
    pace = Pace(100, 10 * SECOND)
    pace.start(0)
    assert pace.advance(SECOND, 1 << 40) == 11 * SECOND
    assert pace.advance(10 * SECOND, 1) == 11 * SECOND


def test_a_pause_of_ours_does_not_count() -> None:
    pace = Pace(100, 10 * SECOND)
    pace.start(0)
    pace.advance(5 * SECOND, 999)
    pace.start(100 * SECOND)
    assert pace.advance(100 * SECOND, 0) == 110 * SECOND
    assert pace.advance(109 * SECOND, 1) == 110 * SECOND


def test_no_rate_no_deadline() -> None:
    pace = Pace(0, 10 * SECOND)
    pace.start(0)
    assert pace.advance(10**18, 0) == NEVER
    assert Pace(5, 0).advance(10**18, 0) == NEVER  # no window, either


def test_the_quota_is_rounded_up() -> None:
    pace = Pace(1, SECOND // 10)
    pace.start(0)
    assert pace.advance(1, 1) == 1 + SECOND // 10


def test_the_largest_numbers_do_not_overflow() -> None:
    window = 365 * 86400 * SECOND
    pace = Pace(1 << 30, window)
    pace.start(0)
    assert pace.advance(5, (1 << 30) * 365 * 86400 - 1) == window
    assert pace.advance(5, 1) == 5 + window
