"""The simulated pool against queueing theory, and what it never loses."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.config.units import MILLISECOND, SECOND
from lb.scaling.simulate.pool import SimulatedPool

SERVICE = 20 * MILLISECOND


def pool(
    counts: Sequence[int], *, width: int = SECOND, concurrency: int = 1, start: int = 0, objective: int = SECOND,
    replicas: int = 1, seed: int = 1, drawn: bool = False,
) -> SimulatedPool:  # fmt: skip
    return SimulatedPool(array("q", counts), width, SERVICE, concurrency, start, objective, replicas, seed, drawn)


def erlang_c(servers: int, load: float) -> float:
    """The share of requests that wait in M/M/c (Erlang 1917)."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.8), (4, 3.0), (20, 17.0)])
def test_exponential_service_waits_as_in_mmc(servers: int, load: float) -> None:
    seconds = 4000
    simulated = pool([round(load / 0.02) * seconds], width=seconds * SECOND, replicas=servers, drawn=True)
    simulated.advance(seconds * SECOND)
    simulated.finish()
    expected = erlang_c(servers, load) * 0.02 / (servers - load)
    assert simulated.waited / simulated.answered / SECOND == pytest.approx(expected, rel=0.12)


def test_late_requests_of_mmc_are_the_tail_of_its_waits() -> None:
    servers, load, seconds = 4, 3.2, 20_000
    simulated = pool(
        [round(load / 0.02) * seconds], width=seconds * SECOND, replicas=servers, drawn=True,
        objective=100 * MILLISECOND,
    )  # fmt: skip
    simulated.advance(seconds * SECOND)
    simulated.finish()
    # P(T > t) of M/M/c: waits are exponential with rate (c - a) / s for those that wait, and service follows.
    t, mu, waits = 0.1, 50.0, erlang_c(servers, load)
    rate = (servers - load) * mu
    late = math.exp(-mu * t) * (1 - waits) + waits * (rate * math.exp(-mu * t) - mu * math.exp(-rate * t)) / (rate - mu)
    assert simulated.late / simulated.answered == pytest.approx(late, rel=0.15)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_equal_service_waits_as_in_md1(load: float) -> None:
    seconds = 4000
    simulated = pool([round(load / 0.02) * seconds], width=seconds * SECOND)
    simulated.advance(seconds * SECOND)
    simulated.finish()
    expected = 0.02 * load / (2 * (1 - load))  # Pollaczek, Khinchine
    assert simulated.waited / simulated.answered / SECOND == pytest.approx(expected, rel=0.12)


def test_equal_service_of_many_replicas_waits_as_in_mdc() -> None:
    servers, load, seconds = 10, 9.0, 4000
    simulated = pool([round(load / 0.02) * seconds], width=seconds * SECOND, replicas=servers)
    simulated.advance(seconds * SECOND)
    simulated.finish()
    # Cosmetatos (1975): half of M/M/c's wait, times a correction.
    rho = load / servers
    correction = 1 + (1 - rho) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * rho * servers)
    expected = 0.5 * correction * erlang_c(servers, load) * 0.02 / (servers - load)
    assert simulated.waited / simulated.answered / SECOND == pytest.approx(expected, rel=0.15)


def test_concurrency_is_as_many_places_as_that_many_replicas() -> None:
    waits = []
    for replicas, concurrency in [(8, 1), (1, 8), (2, 4)]:
        simulated = pool([360] * 200, replicas=replicas, concurrency=concurrency)
        simulated.advance(200 * SECOND)
        simulated.finish()
        waits.append((simulated.waited, simulated.answered))
    assert waits[0] == waits[1] == waits[2]


@given(
    st.lists(st.integers(0, 120), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), max_size=12),
    st.integers(1, 3),
    st.sampled_from([0, 700 * MILLISECOND, 3 * SECOND]),
    st.booleans(),
    st.integers(0, 2**64 - 1),
)
@settings(deadline=None)
def test_no_request_is_lost_or_invented(
    counts: list[int], steps: list[tuple[int, int]], concurrency: int, start: int, drawn: bool, seed: int
) -> None:
    simulated = pool(counts, concurrency=concurrency, start=start, seed=seed, drawn=drawn)
    now = 0
    for tenths, replicas in steps:
        now += tenths * SECOND // 10
        simulated.advance(now)
        simulated.scale_to(replicas)
        assert simulated.wanted == replicas
        assert simulated.arrived == simulated.answered + simulated.queued + simulated.in_service
        assert simulated.late <= simulated.answered
        assert simulated.waited >= 0
        assert simulated.paid <= 4 * now * 3 + now  # never more than wanted and draining
        # Nobody waits while a place is free.
        assert not simulated.queued or simulated.in_service >= simulated.ready * concurrency
    simulated.scale_to(1)
    simulated.finish()
    assert simulated.arrived == simulated.answered == sum(counts)
    assert simulated.queued == simulated.in_service == 0


def test_one_seed_gives_one_result_and_another_seed_another() -> None:
    def sums(seed: int) -> tuple[int, float, float]:
        simulated = pool([300, 0, 500, 20] * 10, replicas=7, seed=seed, objective=60 * MILLISECOND)
        simulated.advance(40 * SECOND)
        return simulated.late, simulated.waited, simulated.busy

    assert sums(3) == sums(3)
    assert sums(3) != sums(4)


def test_first_come_first_served_as_a_plain_list_does_it() -> None:
    """An own account of a changing number of places, with waits long enough to span many bins."""
    counts = [200, 0, 0, 100, 0, 300] + [0] * 40
    times: list[int] = []
    reader = pool(counts, replicas=sum(counts))  # whoever comes is served at once: busy tells when
    step = MILLISECOND // 10
    before = 0
    for at in range(0, 6 * SECOND, step):
        reader.advance(at)
        times += [at] * (reader.arrived - before)
        before = reader.arrived
    free = [0, 0]
    waited = 0
    for came in times:
        begin = max(came, heapq.heappop(free))
        waited += begin - came
        heapq.heappush(free, begin + SERVICE)
    simulated = pool(counts, replicas=2)
    simulated.advance(46 * SECOND)
    assert simulated.answered == 600
    assert simulated.waited == pytest.approx(waited, abs=600 * 2 * step)


def test_replicas_serve_after_their_start_time_and_are_paid_from_the_order_on() -> None:
    simulated = pool([0] * 10, start=3 * SECOND, replicas=1)
    simulated.advance(SECOND)
    simulated.scale_to(4)
    simulated.advance(4 * SECOND - 1)
    assert (simulated.ready, simulated.starting) == (1, 3)
    simulated.advance(4 * SECOND)
    assert (simulated.ready, simulated.starting) == (4, 0)
    assert simulated.paid == 1 * SECOND + 4 * 3 * SECOND


def test_replicas_that_start_are_given_up_first() -> None:
    simulated = pool([0] * 10, start=3 * SECOND, replicas=2)
    simulated.scale_to(5)
    simulated.advance(SECOND)
    simulated.scale_to(6)
    simulated.advance(2 * SECOND)
    simulated.scale_to(3)
    assert (simulated.ready, simulated.starting) == (2, 1)
    simulated.advance(3 * SECOND)
    assert (simulated.ready, simulated.starting) == (3, 0)
    simulated.scale_to(1)
    assert (simulated.ready, simulated.starting) == (1, 0)


def test_a_replica_that_goes_answers_what_it_has_and_is_paid_until_then() -> None:
    counts = [0] * 10
    counts[0] = 2
    simulated = pool(counts, replicas=2)
    while simulated.in_service < 2 and simulated.now < SECOND:
        simulated.advance(simulated.now + 100_000)
    if simulated.in_service == 2:
        simulated.scale_to(0)
        simulated.forget()
        simulated.advance(simulated.now + SECOND)
        assert simulated.answered == 2
        assert SERVICE < simulated.paid <= 2 * SERVICE


def test_requests_nobody_is_there_for_are_late_at_the_end() -> None:
    simulated = pool([5], replicas=0)
    simulated.advance(SECOND)
    simulated.finish()
    assert (simulated.answered, simulated.late) == (0, 5)


def test_times_within_a_bin_are_spread_as_a_poisson_process_does() -> None:
    """Of 100,000 requests in one bin, the numbers in each thousandth have mean and variance 100."""
    simulated = pool([100_000], width=1000 * SECOND, replicas=1000)
    numbers = []
    for second in range(1, 1001):
        simulated.forget()
        simulated.advance(second * SECOND)
        numbers.append(simulated.arrived)
    assert sum(numbers) == 100_000
    variance = sum((n - 100) ** 2 for n in numbers) / 1000
    assert variance == pytest.approx(100, rel=0.15)


@pytest.mark.parametrize("change", [{"replicas": -1}, {"concurrency": 0}, {"start": -1}, {"width": 0}])
def test_a_pool_that_cannot_be_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a pool needs"):
        pool([1], **change)  # type: ignore[arg-type]


def test_time_does_not_go_back() -> None:
    simulated = pool([1])
    simulated.advance(SECOND)
    with pytest.raises(ValueError, match="does not go back"):
        simulated.advance(0)
