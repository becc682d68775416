"""Peak EWMA and least time: what is learnt from latencies, and what is made of it.

Expected numbers are worked out from Finagle's formula by hand: w = exp(-dt/tau); a sample above the cost replaces it,
else cost = cost * w + sample * (1 - w).
"""

import math
from collections import Counter

import pytest
from compiled.endpoint_set import acquire, release
from fleet import Fleet, choose
from statistics_checks import agrees

from lb.balancing.policies.peak_ewma import PeakEwma, PeakEwmaOptions
from lb.errors import ConfigError

MS = 1_000_000
S = 1_000_000_000
T0 = 1_000 * S
BOTH = ["peak_ewma", "least_time"]


def latencies(fleet):
    return [endpoints.latency(i) / MS for endpoints in fleet.sets[:1] for i in range(endpoints.size)]


def picks(policy, now, count=200):
    return Counter(choose(policy, now, 0) for _ in range(count))


# Of one endpoint, tau = 10 s: (seconds, sample in ms, cost in ms after it). exp(-0.5) = 0.60653066,
# exp(-1) = 0.36787944.
PEAK_VECTOR = [
    (0, 100, 100.0),
    (5, 40, 76.391840),  # 100 * 0.60653066 + 40 * 0.39346934
    (5, 10, 76.391840),  # no time, no change
    (15, 10, 34.424193),  # 76.391840 * 0.36787944 + 10 * 0.63212056
    (15, 200, 200.0),  # a peak
    (25, 200, 200.0),
    (25.5, 1, 190.294655),  # 200 * 0.95122942 + 1 * 0.04877058
]
MEAN_VECTOR = [
    (0, 100, 100.0),
    (5, 40, 76.391840),
    (15, 10, 34.424193),
    (25, 200, 139.088065),  # 34.424193 * 0.36787944 + 200 * 0.63212056: no peak here
    (25, 900, 139.088065),
]


@pytest.mark.parametrize(("policy", "vector"), [("peak_ewma", PEAK_VECTOR), ("least_time", MEAN_VECTOR)])
def test_average_follows_the_formula(policy, vector):
    with Fleet([1]) as fleet:
        made = fleet.build(policy)
        for seconds, sample, expected in vector:
            now = T0 + round(seconds * S)
            made.observe(0, now, sample * MS, True)
            assert latencies(fleet) == [pytest.approx(expected, abs=1e-6)]
            assert fleet.sets[0].latency_at(0) == now


@pytest.mark.parametrize("policy", BOTH)
def test_time_constant_is_an_option(policy):
    with Fleet([1]) as fleet:
        made = fleet.build(policy, decay="1s")
        made.observe(0, T0, 100 * MS, True)
        made.observe(0, T0 + S, 20 * MS, True)
        assert latencies(fleet) == [pytest.approx(20 + 80 * 0.36787944, abs=1e-5)]


def test_many_small_steps_are_as_one():
    """At a million samples a second each moves the average by less than a nanosecond."""
    with Fleet([1]) as fleet:
        made = fleet.build("peak_ewma")
        made.observe(0, T0, 1 * MS, True)
        for n in range(1, 200_001):
            made.observe(0, T0 + n * 1000, MS // 2, True)
        assert latencies(fleet) == [pytest.approx(0.5 + 0.5 * math.exp(-0.02), rel=1e-9)]


@pytest.mark.parametrize("policy", BOTH)
def test_fades_while_nothing_is_heard(policy):
    """100 ms against 50 ms that were heard of just now: equal after ln 2 time constants, 6.93 s."""
    with Fleet([1, 1]) as fleet:
        made = fleet.build(policy)
        made.observe(0, T0, 100 * MS, True)
        for seconds, winner in ((6.9, 1), (6.96, 0)):
            now = T0 + round(seconds * S)
            fleet.sets[0].record_latency(1, 50 * MS, now)
            assert picks(made, now) == {winner: 200}


@pytest.mark.parametrize("policy", BOTH)
def test_load_is_latency_times_what_would_be_in_flight_per_weight(policy):
    with Fleet([1, 2]) as fleet:
        made = fleet.build(policy)
        for i, latency in enumerate((10, 35)):
            made.observe(i, T0, latency * MS, True)
        assert picks(made, T0) == {0: 200}  # 10 * 1 / 1 = 10 against 35 * 1 / 2 = 17.5
        fleet.load(0, 1)
        assert picks(made, T0) == {1: 200}  # 20 against 17.5
        fleet.load(1, 1)
        assert picks(made, T0) == {0: 200}  # 20 against 35


@pytest.mark.parametrize("policy", BOTH)
def test_unknown_endpoint_gets_one_request(policy):
    with Fleet([1, 1]) as fleet:
        made = fleet.build(policy)
        made.observe(0, T0, 10 * MS, True)
        fleet.load(0, 1000)
        assert picks(made, T0) == {1: 200}
        fleet.load(1, 1)
        assert picks(made, T0) == {0: 200}  # 10 s of work, and still before another to the unknown one


@pytest.mark.parametrize("policy", BOTH)
def test_all_unknown_is_least_in_flight_per_weight(policy):
    with Fleet([1, 4]) as fleet:
        made = fleet.build(policy)
        fleet.load(0, 2)
        fleet.load(1, 7)
        assert picks(made, T0) == {1: 200}  # 2 / 1 against 7 / 4
        fleet.load(1, 2)
        assert picks(made, T0) == {0: 200}  # against 9 / 4


def test_least_time_tries_a_slow_endpoint_again_with_one_request():
    with Fleet([1, 1]) as fleet:
        made = fleet.build("least_time")
        made.observe(0, T0, 1000 * MS, True)
        later = T0 + 60 * S
        made.observe(1, later, 10 * MS, True)  # 1000 * exp(-6) = 2.5 ms are left of the other
        assert picks(made, later) == {0: 200}
        fleet.load(0, 1)
        fleet.load(1, 50)
        assert picks(made, later) == {1: 200}  # 1002 against 510


@pytest.mark.parametrize("policy", BOTH)
def test_failure_does_not_look_fast(policy):
    with Fleet([1, 1, 1]) as fleet:
        made = fleet.build(policy)
        made.observe(0, T0, 50 * MS, True)
        made.observe(1, T0, 80 * MS, True)
        # Less than the average counts as the average, without fading; more counts as it is.
        made.observe(0, T0 + 10 * S, 1, False)
        assert latencies(fleet) == [pytest.approx(50), 80, 0]
        # Of an endpoint that nothing is known of, as the highest of the pool at that time: 80 / e ms or 50.
        made.observe(2, T0 + 10 * S, 1, False)
        assert latencies(fleet)[2] == pytest.approx(50)
        made.observe(1, T0 + 20 * S, 300 * MS, False)
        slow = {"peak_ewma": 300, "least_time": 80 * 0.13533528 + 300 * 0.86466472}[policy]
        assert latencies(fleet)[1] == pytest.approx(slow)


@pytest.mark.parametrize("policy", BOTH)
def test_first_of_all_samples_is_a_failure(policy):
    with Fleet([1]) as fleet:
        made = fleet.build(policy)
        made.observe(0, T0, 3 * MS, False)
        assert latencies(fleet) == [3]


@pytest.mark.parametrize("policy", BOTH)
def test_workers_share_and_reloads_keep_what_is_known(policy):
    with Fleet([1, 1], workers=2) as fleet:
        fleet.build(policy, 0).observe(0, T0, 90 * MS, True)
        fleet.build(policy, 1).observe(1, T0, 30 * MS, True)
        assert picks(fleet.build(policy, 0), T0) == {1: 200}
        fleet.master.clear_worker(1)
        assert picks(fleet.build(policy, 0), T0) == {1: 200}


@pytest.mark.parametrize("policy", BOTH)
def test_time_that_another_worker_saw_first(policy):
    with Fleet([1]) as fleet:
        made = fleet.build(policy)
        made.observe(0, T0, 90 * MS, True)
        made.observe(0, T0 - S, 30 * MS, True)
        assert latencies(fleet) == [90]


def test_least_time_takes_equal_ones_in_turn():
    with Fleet([2] * 5, workers=3) as fleet:
        made = fleet.build("least_time", 2)
        assert [choose(made, T0, 0) for _ in range(7)] == [2, 3, 4, 0, 1, 2, 3]
        for i in range(5):
            fleet.sets[0].record_latency(i, 7.0 * MS, T0)
        assert [choose(made, T0, 0) for _ in range(3)] == [4, 0, 1]


@pytest.mark.parametrize("size", [2, 5, 40])
def test_peak_ewma_compares_two_drawn_at_random(size):
    """With all latencies different, rank r of n wins with probability 2 (n - r) / (n (n - 1))."""
    with Fleet([1] * size) as fleet:
        for i in range(size):
            fleet.sets[0].record_latency(i, (i + 1) * 1.0 * MS, T0)
        made = PeakEwma(fleet.sets[0], PeakEwmaOptions(), seed=5)
        counts = picks(made, T0, 20_000)
        assert agrees([counts[i] for i in range(size)], [size - 1 - i for i in range(size)])


def test_peak_ewma_with_more_choices():
    with Fleet([1] * 8) as fleet:
        for i in range(8):
            fleet.sets[0].record_latency(i, (i + 1) * 1.0 * MS, T0)
        assert picks(fleet.build("peak_ewma", choices=8), T0) == {0: 200}


def test_traffic_leaves_an_endpoint_that_becomes_slow():
    """A closed loop of 12 requests over three endpoints of 10 ms, one of which begins to take 200 ms."""
    with Fleet([1] * 3) as fleet:
        for policy in BOTH:
            made, now, running, done = fleet.build(policy), T0, [], Counter()
            for step in range(4000):
                index = choose(made, now, 0)
                acquire(fleet.sets[0], index)
                slow = step > 1000 and index == 1
                running.append((now + (200 if slow else 10) * MS, index, now))
                if step >= 2000:
                    done[index] += 1
                if len(running) == 12:
                    running.sort()
                    end, index, began = running.pop(0)
                    now = max(now, end)
                    release(fleet.sets[0], index)
                    made.observe(index, now, now - began, True)
            for _, index, _ in running:
                release(fleet.sets[0], index)
            assert done[1] < 2000 * 0.05, policy
            assert min(done[0], done[2]) > 2000 * 0.4, policy


@pytest.mark.parametrize("policy", BOTH)
@pytest.mark.parametrize("decay", ["0s", 10, "1 s"])
def test_decay_is_a_duration(policy, decay):
    with Fleet([1]) as fleet, pytest.raises(ConfigError, match=f"policy '{policy}': decay: "):
        fleet.build(policy, decay=decay)
