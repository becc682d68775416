"""How long requests keep their endpoints, and which of them tell."""

from __future__ import annotations

import pytest
from compiled.exchange import known_service_time, learn_service_time, tells

from lb.upstream.load.service_time import ServiceTime, Warmth

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND


def mean_of(*latencies: int) -> float:
    found = ServiceTime()
    for latency in latencies:
        learn_service_time(found, SECOND, latency)
    return known_service_time(found, SECOND)


def test_nothing_is_known_before_the_first() -> None:
    assert known_service_time(ServiceTime(), 0) == 0


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
    learn_service_time(found, SECOND, SECOND)
    assert known_service_time(found, 6 * SECOND) == SECOND
    assert known_service_time(found, 6 * SECOND + 1) == 0


def test_the_first_answer_tells_nothing_and_the_next_does() -> None:
    warmth = Warmth()
    assert not tells(warmth, SECOND, 6 * SECOND)
    assert tells(warmth, 6 * SECOND, 7 * SECOND)


def test_who_came_before_the_first_answer_has_waited_for_the_same() -> None:
    """As at a server that works on one at a time: each behind the first has its time in its own."""
    warmth = Warmth()
    assert [tells(warmth, SECOND, (6 + i) * SECOND) for i in range(4)] == [False] * 4
    assert tells(warmth, 6 * SECOND, 10 * SECOND)
    assert not tells(warmth, 5 * SECOND, 11 * SECOND)


def test_a_silence_may_have_unloaded_the_model() -> None:
    warmth = Warmth()
    tells(warmth, SECOND, 2 * SECOND)
    assert tells(warmth, 62 * SECOND, 63 * SECOND)
    assert not tells(warmth, 124 * SECOND, 125 * SECOND)
    assert not tells(warmth, 124 * SECOND, 126 * SECOND)
    assert tells(warmth, 125 * SECOND, 127 * SECOND)


def test_a_long_request_is_no_silence() -> None:
    warmth = Warmth()
    tells(warmth, SECOND, 2 * SECOND)
    assert tells(warmth, 2 * SECOND, 500 * SECOND)


def test_a_client_that_left_has_had_no_answer() -> None:
    """It may have given up on a model that is still being loaded."""
    warmth = Warmth()
    assert not tells(warmth, SECOND, 2 * SECOND, answered=False)
    assert not tells(warmth, 3 * SECOND, 6 * SECOND)
    assert tells(warmth, 6 * SECOND, 7 * SECOND, answered=False)
