"""The least speed of a request's body."""

from compiled.exchange import Pace

SECOND = 1_000_000_000
NEVER = 2**64 - 1


def test_each_quota_begins_a_new_window() -> None:
    body_rate = Pace(100, 10 * SECOND)  # 1000 bytes within 10 s
    body_rate.start(0)
    assert body_rate.advance(0, 0) == 10 * SECOND
    assert body_rate.advance(9 * SECOND, 999) == 10 * SECOND
    assert body_rate.advance(9 * SECOND, 1) == 19 * SECOND
    assert body_rate.advance(18 * SECOND, 999) == 19 * SECOND


def test_a_fast_start_earns_no_credit() -> None:
    body_rate = Pace(100, 10 * SECOND)
    body_rate.start(0)
    assert body_rate.advance(SECOND, 1 << 40) == 11 * SECOND
    assert body_rate.advance(10 * SECOND, 1) == 11 * SECOND


def test_a_pause_of_ours_does_not_count() -> None:
    body_rate = Pace(100, 10 * SECOND)
    body_rate.start(0)
    body_rate.advance(5 * SECOND, 999)
    body_rate.start(100 * SECOND)
    assert body_rate.advance(100 * SECOND, 0) == 110 * SECOND
    assert body_rate.advance(109 * SECOND, 1) == 110 * SECOND


def test_no_rate_no_deadline() -> None:
    body_rate = Pace(0, 10 * SECOND)
    body_rate.start(0)
    assert body_rate.advance(10**18, 0) == NEVER
    assert Pace(5, 0).advance(10**18, 0) == NEVER  # no window, either


def test_the_quota_is_rounded_up() -> None:
    body_rate = Pace(1, SECOND // 10)
    body_rate.start(0)
    assert body_rate.advance(1, 1) == 1 + SECOND // 10


def test_the_largest_numbers_do_not_overflow() -> None:
    window = 365 * 86400 * SECOND
    body_rate = Pace(1 << 30, window)
    body_rate.start(0)
    assert body_rate.advance(5, (1 << 30) * 365 * 86400 - 1) == window
    assert body_rate.advance(5, 1) == 5 + window
