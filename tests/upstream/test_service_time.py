"""How long requests keep their endpoints, and which of them tell."""

from __future__ import annotations

import pytest

from lb.upstream.load.service_time import ServiceTime, Warmth

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND


def mean_of(*latencies: int) -> float:
    found = ServiceTime()
    for latency in latencies:
        found.learn_checked(SECOND, latency)
    return found.known_at(SECOND)


def test_nothing_is_known_before_the_first() -> None:
    assert ServiceTime().known_at(0) == 0


def test_the_mean_of_what_is_known() -> None:
    assert mean_of(100) == 100
    assert mean_of(100, 50) == 75
    assert mean_of(*range(100, 132)) == pytest.approx(115.5)


def test_an_odd_one_among_the_first_is_soon_outweighed() -> None:
    assert mean_of(5000, *[20] * 9) == pytest.approx(518)
    assert mean_of(5000, *[20] * 99) < 50


def test_none_makes_more_than_double_of_it() -> None:
    assert mean_of(10, 100_000) == 20
    assert mean_of(*[10] * 50, 100_000) == 20


def test_what_lasts_is_followed() -> None:
    assert mean_of(*[10] * 50, *[1000] * 200) == pytest.approx(1000, rel=0.01)


def test_it_is_forgotten_in_silence() -> None:
    found = ServiceTime()
    found.learn_checked(SECOND, SECOND)
    assert found.known_at(6 * SECOND) == SECOND
    assert found.known_at(6 * SECOND + 1) == 0


def test_the_first_answer_tells_nothing_and_the_next_does() -> None:
    warmth = Warmth()
    assert not warmth.tells_checked(SECOND, 6 * SECOND)
    assert warmth.tells_checked(6 * SECOND, 7 * SECOND)


def test_who_came_before_the_first_answer_has_waited_for_the_same() -> None:
    """As at a server that works on one at a time: each behind the first has its time in its own."""
    warmth = Warmth()
    assert [warmth.tells_checked(SECOND, (6 + i) * SECOND) for i in range(4)] == [False] * 4
    assert warmth.tells_checked(6 * SECOND, 10 * SECOND)
    assert not warmth.tells_checked(5 * SECOND, 11 * SECOND)


def test_a_silence_may_have_unloaded_the_model() -> None:
    warmth = Warmth()
    warmth.tells_checked(SECOND, 2 * SECOND)
    assert warmth.tells_checked(62 * SECOND, 63 * SECOND)
    assert not warmth.tells_checked(124 * SECOND, 125 * SECOND)
    assert not warmth.tells_checked(124 * SECOND, 126 * SECOND)
    assert warmth.tells_checked(125 * SECOND, 127 * SECOND)


def test_a_long_request_is_no_silence() -> None:
    warmth = Warmth()
    warmth.tells_checked(SECOND, 2 * SECOND)
    assert warmth.tells_checked(2 * SECOND, 500 * SECOND)


def test_a_client_that_left_has_had_no_answer() -> None:
    """It may have given up on a model that is still being loaded."""
    warmth = Warmth()
    assert not warmth.tells_checked(SECOND, 2 * SECOND, answered=False)
    assert not warmth.tells_checked(3 * SECOND, 6 * SECOND)
    assert warmth.tells_checked(6 * SECOND, 7 * SECOND, answered=False)
