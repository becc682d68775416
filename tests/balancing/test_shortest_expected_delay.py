"""Shortest expected delay: what is learnt from answers, and what is expected of work that is under way.

Expected numbers are worked out by hand from the formulas in the module's docstring.
"""

import heapq
import math
import random
from collections import Counter

import pytest
from fleet import Fleet, choose

MS = 1_000_000
S = 1_000_000_000
T0 = 1_000 * S
POLICY = "shortest_expected_delay"


def service(fleet, index=0):
    return fleet.sets[0].latency(index) / MS


def busy(fleet, made, index, count, now):
    """Endpoint `index` gets `count` requests at `now`."""
    for i in range(len(fleet.addresses)):
        if i != index:
            fleet.down(i)
    for _ in range(count):
        assert choose(made, now, 0) == index
        fleet.load(index, 1)
    for i in range(len(fleet.addresses)):
        fleet.up(i)


def test_service_time_is_what_lies_between_answers():
    with Fleet([1]) as fleet:
        made = fleet.build(POLICY)
        busy(fleet, made, 0, 3, T0)
        made.observe(0, T0 + 10 * MS, 10 * MS, True)
        assert service(fleet) == 10
        # Sent with the first, it waited for it: 20 ms in all, 10 of them its own.
        made.observe(0, T0 + 20 * MS, 20 * MS, True)
        assert service(fleet) == pytest.approx(10)
        made.observe(0, T0 + 35 * MS, 35 * MS, True)
        assert service(fleet) == pytest.approx(35 / 3)  # of 10, 10 and 15
        # Idle for a second; what was sent then took 4 ms.
        made.observe(0, T0 + S, 4 * MS, True)
        assert service(fleet) == pytest.approx(39 / 4)


@pytest.mark.parametrize("size", [2, 8, 32])
def test_a_batch_is_as_fast_as_its_answers_are_close(size):
    with Fleet([1]) as fleet:
        made = fleet.build(POLICY)
        now = T0
        for _ in range(100):
            for _ in range(size):
                assert choose(made, now, 0) == 0
                fleet.load(0, 1)
            now += 40 * MS
            for _ in range(size):
                fleet.load(0, -1)
                made.observe(0, now, 40 * MS, True)
        # Within a factor of two of its share of the 40 ms, whenever one looks.
        assert 20 / size < service(fleet) < 80 / size


def answer(made, times, now=T0):
    """Endpoint 0 answers requests that come one after another and take so many ms; when it is done."""
    for ms in times:
        now += round(ms * MS)
        made.observe(0, now, round(ms * MS), True)
    return now


def test_the_first_twelve_samples_weigh_alike_and_later_ones_a_twelfth():
    """So chance has as little say in what is known of an endpoint that had few requests as it can have."""
    with Fleet([1]) as fleet:
        made = fleet.build(POLICY)
        times = [random.Random(3).gauss(30, 6) for _ in range(12)]
        now = T0
        for n in range(1, 13):
            now = answer(made, times[n - 1 : n], now)
            assert service(fleet) == pytest.approx(sum(times[:n]) / n, rel=1e-6)
        average = service(fleet)
        for ms in (40, 20, 35):
            now = answer(made, [ms], now)
            average += (ms - average) / 12
            assert service(fleet) == pytest.approx(average, rel=1e-6)


def test_workers_count_each_other_s_samples():
    with Fleet([1], workers=2) as fleet:
        now = answer(fleet.build(POLICY, 0), [10] * 30)
        answer(fleet.build(POLICY, 1), [22], now)
        assert service(fleet) == pytest.approx(11)


def test_what_another_policy_learned_is_soon_forgotten():
    """A latency grows with what is in flight, and is no service time."""
    with Fleet([1]) as fleet:
        fleet.sets[0].record_latency(0, 500.0 * MS, T0)
        answer(fleet.build(POLICY), [10])
        assert service(fleet) == pytest.approx(10)


def test_one_stall_is_not_a_speed():
    with Fleet([1]) as fleet:
        made = fleet.build(POLICY)
        now = answer(made, [12] * 20)
        made.observe(0, now + 3 * S, 2 * S, True)
        assert service(fleet) == pytest.approx(14)  # as if it had been 36 ms: 12 + (36 - 12) / 12


def slow_until_tried(made, times):
    """Endpoint 0 takes so many ms, and is idle from then on; after that requests come one after another, each done by
    endpoint 1 in 10 ms, until endpoint 0 is chosen. Both moments."""
    since = now = answer(made, times)
    for _ in range(20):
        made.observe(1, now, 10 * MS, True)
    while choose(made, now, 0) == 1:
        now += 100 * MS
        made.observe(1, now, 10 * MS, True)
        assert now < T0 + 3600 * S
    return since, now


@pytest.mark.parametrize("first", [500, 2_000, 10_000])
def test_a_cold_start_is_forgotten_soon(first):
    """The first answer of all may have loaded the model, which says nothing of the next."""
    with Fleet([1, 1]) as fleet:
        made = fleet.build(POLICY)
        now, then = slow_until_tried(made, [first])
        assert then - now < 25 * S
        made.observe(0, then + 10 * MS, 10 * MS, True)
        assert service(fleet) < 20


def test_an_endpoint_that_was_slow_is_believed_when_it_is_fast_again():
    with Fleet([1, 1]) as fleet:
        made = fleet.build(POLICY)
        now, then = slow_until_tried(made, [200] * 20)
        assert 60 * S < then - now < 150 * S  # but not tried all the time
        made.observe(0, then + 10 * MS, 10 * MS, True)
        assert service(fleet) < 40


def test_a_slow_endpoint_that_is_tried_in_vain_stays_slow():
    with Fleet([1, 1]) as fleet:
        made = fleet.build(POLICY)
        _, then = slow_until_tried(made, [200] * 20)
        made.observe(0, then + 200 * MS, 200 * MS, True)
        assert service(fleet) == pytest.approx(200)
        # Nor does one short answer among others say that it is fast.
        made.observe(0, then + 210 * MS, 10 * MS, True)
        assert service(fleet) > 180


def test_an_endpoint_that_fails_at_once_does_not_look_fast():
    with Fleet([1, 1]) as fleet:
        made = fleet.build(POLICY)
        made.observe(0, T0, 50 * MS, True)
        made.observe(0, T0 + S, 1, False)
        assert service(fleet) == pytest.approx(50)
        made.observe(1, T0 + S, 1, False)
        assert service(fleet, 1) == pytest.approx(50)  # nothing is known of it: as slow as the slowest


@pytest.mark.parametrize(
    ("elapsed", "running", "slowest_that_loses"),
    [
        (0, 1, 20),  # 10 are left, and 10 for the request itself
        (4, 1, 16),
        (9, 1, 13),  # 3 at least
        (14, 1, 13),
        (16, 1, 26),  # late: as long again
        (500, 1, 510),
        (4, 3, 36),
    ],
)
def test_what_is_left_of_work_under_way(elapsed, running, slowest_that_loses):
    """Endpoint 0 takes 10 ms a request; the idle endpoint 1 is chosen if it takes less than what 0 needs in all."""
    for other, expected in ((slowest_that_loses - 0.5, 1), (slowest_that_loses + 0.5, 0)):
        with Fleet([1, 1]) as fleet:
            made = fleet.build(POLICY)
            now = T0 + elapsed * MS
            fleet.sets[0].record_latency(0, 10.0 * MS, T0)
            fleet.sets[0].record_latency(1, other * MS, now)
            busy(fleet, made, 0, running, T0)
            assert choose(made, now, 0) == expected, other


def test_weights_are_how_much_an_endpoint_can_do():
    with Fleet([1, 4]) as fleet:
        made = fleet.build(POLICY)
        for i in range(2):
            fleet.sets[0].record_latency(i, 10.0 * MS, T0)
        busy(fleet, made, 1, 2, T0)
        assert choose(made, T0, 0) == 1  # 30 / 4 against 10 / 1
        fleet.load(1, 3)
        assert choose(made, T0, 0) == 0  # 60 / 4


def test_an_unknown_endpoint_gets_one_request():
    with Fleet([1, 1, 1]) as fleet:
        made = fleet.build(POLICY)
        fleet.sets[0].record_latency(0, 10.0 * MS, T0)
        assert choose(made, T0, 0) == 1
        fleet.load(1, 1)
        assert choose(made, T0, 0) == 2
        fleet.load(2, 1)
        assert {choose(made, T0, 0) for _ in range(5)} == {0}
        fleet.load(0, 50)
        assert choose(made, T0, 0) == 0


def test_a_slow_endpoint_is_tried_again():
    with Fleet([1, 1]) as fleet:
        made = fleet.build(POLICY, decay="10s")
        later = answer(made, [1000] * 20) + 15 * S  # after 1.5 times `decay`: 1000 / (1 + 1.5 * 1.5 / 8) ** 8 = 137.7
        for other, expected in ((134, 1), (141, 0)):
            fleet.sets[0].record_latency(1, other * 1.0 * MS, later)
            assert choose(made, later, 0) == expected


def test_equal_ones_take_turns():
    with Fleet([1] * 5, workers=3) as fleet:
        made = fleet.build(POLICY, 2)
        for i in range(5):
            fleet.sets[0].record_latency(i, 7.0 * MS, T0)
        assert [choose(made, T0, 0) for _ in range(7)] == [2, 3, 4, 0, 1, 2, 3]


def test_of_many_it_compares_sixty_four_and_all_get_their_turn():
    with Fleet([1] * 1000) as fleet:
        made = fleet.build(POLICY)
        for i in range(1000):
            fleet.sets[0].record_latency(i, (10 + i % 64) * 1.0 * MS, T0)
        chosen = Counter(choose(made, T0, 0) for _ in range(1000))
        assert {i % 64 for i in chosen} == {0}, "each window has one of the fastest"
        assert len(chosen) == 16
        for i in range(999):
            fleet.down(i)
        assert choose(made, T0, 0) == 999


def p99(policy, rate, seconds=60):
    """The 99th percentile in ms of a simulated pool: eight endpoints of 10 ms and four of 30 ms, each one request at a
    time (lognormal, sigma 0.2), Poisson arrivals."""
    dice = random.Random(7)
    speeds = [10] * 8 + [30] * 4
    with Fleet([1] * 12) as fleet:
        made = fleet.build(policy)
        lines = [[] for _ in speeds]
        events = [(T0, 0, -1)]
        latencies = []
        number = 0
        while events:
            now, _, index = heapq.heappop(events)
            number += 1
            if index < 0:
                if now < T0 + seconds * S:
                    heapq.heappush(events, (now + round(dice.expovariate(rate) * S), number, -1))
                index = choose(made, now, 0)
                fleet.load(index, 1)
                lines[index].append(now)
                if len(lines[index]) > 1:
                    continue
            else:
                sent = lines[index].pop(0)
                fleet.load(index, -1)
                made.observe(index, now, now - sent, True)
                latencies.append((now - sent) / MS)
                if not lines[index]:
                    continue
            took = speeds[index] * math.exp(dice.gauss(0, 0.2)) * MS
            heapq.heappush(events, (now + round(took), number, index))
        return sorted(latencies)[len(latencies) * 99 // 100]


@pytest.mark.slow
def test_uneven_endpoints_cost_far_less_than_with_counting():
    assert p99(POLICY, 700) < 0.6 * p99("least_request", 700)
