"""Prequal's hot-cold rule: which endpoints are hot, what is learnt of latencies by load, and what that does.

Expected numbers are worked out by hand from the rule: hot above the quantile of the loads seen of late, of the cold
ones the lowest latency, of hot ones the least load (NSDI 2024, section 4).
"""

from collections import Counter

import pytest
from compiled.endpoint_set import set_report
from fleet import Fleet, choose
from simulated import MS, T0, S, latencies, percentile

from lb.errors import ConfigError

UNEVEN = [10.0] * 8 + [30.0] * 4


def fleet_of(loads, weights=None):
    fleet = Fleet(weights or [1] * len(loads))
    for i, load in enumerate(loads):
        fleet.load(i, load)
    return fleet


def taught(fleet, latencies_ms, in_flight=None, now=T0, **options):
    """The policy, which knows the latencies in ms of each endpoint, at `in_flight` or at what one more would find."""
    made = fleet.build("prequal", **options)
    for i, latency in enumerate(latencies_ms):
        made.learn(i, now, round(latency * MS), True, in_flight or fleet.sets[0].inflight(i) + 1, 1)
    return made


def settled(made, now=T0):
    """What is chosen, again and again, once the loads that it sees have been seen for a while."""
    for _ in range(2000):
        choose(made, now, 0)
    return set(Counter(choose(made, now, 0) for _ in range(200)))


@pytest.mark.parametrize(
    ("quantile", "chosen"),
    [
        (0.0, 0),  # the limit is load 0: only endpoint 0 is cold
        (0.15, 1),  # of ten loads 0 to 9 the limit is 1
        (0.45, 4),
        (0.84, 8),
        (1.0, 9),  # nothing is hot, the lowest latency wins
    ],
)
def test_hot_above_the_quantile_of_loads(quantile, chosen):
    """Ten endpoints with 0 to 9 in flight, the busier the faster: the busiest one that is not hot is chosen."""
    with fleet_of(range(10)) as fleet:
        assert settled(taught(fleet, [100 - 5 * i for i in range(10)], quantile=quantile)) == {chosen}


def test_the_default_quantile_is_the_papers():
    """2**-0.25 = 0.84: of fifty endpoints with loads 0 to 49, those whose load is in the range of 42 are cold yet."""
    with fleet_of(range(50)) as fleet:
        made = taught(fleet, [1000 - 10 * i for i in range(50)])
        # Loads from 40 to 43 are one step of the distribution (exact below 16, then eight steps for each doubling).
        assert settled(made) == {43}


def test_all_hot_is_least_load():
    with fleet_of([3, 3, 3]) as fleet:
        made = taught(fleet, [10, 20, 30], quantile=0.84)
        assert settled(made) == {0}
        # Before the new loads are what is usual, all are above the limit.
        for i, more in enumerate((9, 7, 8)):
            fleet.load(i, more)
        assert choose(made, T0, 0) == 1


def test_loads_that_become_usual_are_not_hot():
    with fleet_of([3, 3, 3]) as fleet:
        made = taught(fleet, [10, 20, 30])
        settled(made)
        for i in range(3):
            fleet.load(i, 9)
        assert settled(made) == {0}


def test_the_load_is_by_weight():
    """At a quantile of a half one of two is hot, if they differ: 4/1 against 8/4, then 2/1 against 9/4."""
    with fleet_of([4, 8], weights=[1, 4]) as fleet:
        assert settled(taught(fleet, [10, 90], quantile=0.5)) == {1}
    with fleet_of([2, 9], weights=[1, 4]) as fleet:
        assert settled(taught(fleet, [10, 90], quantile=0.5)) == {0}


def test_in_flight_of_all_workers_counts():
    with Fleet([1, 1], workers=2) as fleet:
        made = taught(fleet, [10, 20], quantile=0)
        assert settled(made) == {0}
        fleet.load(0, 1, worker=1)
        assert settled(made) == {1}


@pytest.mark.parametrize(
    ("in_flight", "other", "same"),
    [(1, 2, False), (4, 5, False), (5, 6, True), (6, 7, False), (7, 8, True), (9, 12, True), (12, 13, False)],
)
def test_latencies_are_kept_by_number_in_flight(in_flight, other, same):
    """A latency that was seen with `in_flight` requests at the endpoint is another's if they share a range."""
    with Fleet([1, 1]) as fleet:
        made = taught(fleet, [80, 80], in_flight)
        made.learn(0, T0, 10 * MS, True, other, 1)
        made.learn(1, T0, 78 * MS, True, in_flight, 1)
        fleet.load(0, in_flight - 1)
        fleet.load(1, in_flight - 1)
        # 80 and, if it is the same range, a tenth less; against 79.5.
        assert settled(made) == {0 if same else 1}


def test_a_number_never_seen_goes_by_the_nearest():
    with fleet_of([9, 9]) as fleet:
        made = taught(fleet, [50, 40], in_flight=4)
        made.learn(0, T0, 1 * MS, True, 1, 1)  # further away
        made.learn(1, T0, 90 * MS, True, 60, 1)  # further away
        assert settled(made) == {1}


def test_the_estimate_moves_by_a_tenth_at_most():
    """A quarter of the distance, a tenth of itself at most."""
    for sample, estimate in ((10_000, 110), (112, 103), (60, 90), (96, 99)):
        for other, winner in ((estimate - 0.5, 1), (estimate + 0.5, 0)):
            with Fleet([1, 1]) as fleet:
                made = taught(fleet, [100, other])
                made.learn(0, T0, sample * MS, True, 1, 1)
                assert settled(made) == {winner}


def test_unknown_endpoints_get_one_request():
    with Fleet([1, 1, 1]) as fleet:
        made = fleet.build("prequal", quantile=1)
        made.learn(0, T0, 10 * MS, True, 1, 1)
        assert choose(made, T0, 0) == 1
        fleet.load(1, 1)
        assert choose(made, T0, 0) == 2
        fleet.load(2, 1)
        assert settled(made) == {0}


def test_what_is_not_confirmed_fades():
    """To a quarter after one `decay`: (10 / (10 + 10)) squared."""
    with Fleet([1, 1]) as fleet:
        made = taught(fleet, [100, 100])
        made.learn(0, T0, 100 * MS, True, 1, 1)
        later = T0 + 10 * S
        for other, winner in ((24, 1), (26, 0)):
            fresh = fleet.build("prequal")
            for _ in range(60):
                fresh.learn(1, later, other * MS, True, 1, 1)
            assert settled(fresh, later) == {winner}


def test_failure_does_not_look_fast():
    with Fleet([1, 1, 1]) as fleet:
        made = taught(fleet, [50, 80])
        for _ in range(50):
            made.learn(0, T0, 1, False, 1, 1)
            made.learn(2, T0, 1, False, 1, 1)  # nothing is known: as slow as the slowest
        assert settled(made) == {0}
        fleet.down(0)
        made.learn(1, T0, 79 * MS, True, 1, 1)
        assert settled(made) == {1}


def test_workers_share_and_reloads_keep_what_is_known():
    with Fleet([1, 1], workers=2) as fleet:
        fleet.build("prequal", 0).learn(0, T0, 90 * MS, True, 1, 1)
        fleet.build("prequal", 1).learn(1, T0, 30 * MS, True, 1, 1)
        assert settled(fleet.build("prequal", 0)) == {1}
        fleet.master.clear_worker(1)
        assert settled(fleet.build("prequal", 0)) == {1}


def test_a_slot_that_changes_hands_forgets():
    with Fleet([1, 1]) as fleet:
        taught(fleet, [10, 90])
        fleet.master.set_key(fleet.slots[1], "pool|other")
        fleet.weigh(1, 1)
        fleet.up(1)
        assert choose(fleet.build("prequal"), T0, 0) == 1


def test_reported_utilization_makes_hot():
    with Fleet([1, 1]) as fleet:
        made = taught(fleet, [10, 20], full_utilization=0.9, decay="10s")
        assert made.reads_reports
        assert settled(made) == {0}
        set_report(fleet.sets[0], 0, 0.95, 100, 0, T0)
        assert settled(made) == {1}
        set_report(fleet.sets[0], 1, 0.9, 100, 0, T0)
        assert settled(made) == {0, 1}, "both full: the least load, in turn"
        set_report(fleet.sets[0], 0, 0.85, 100, 0, T0)
        assert settled(made) == {0}
        set_report(fleet.sets[0], 0, 0.95, 100, 0, T0)
        assert 0 in settled(made, T0 + 11 * S), "too old to count"


def test_reports_are_not_read_by_default():
    with Fleet([1, 1]) as fleet:
        made = taught(fleet, [10, 20])
        assert not made.reads_reports
        set_report(fleet.sets[0], 0, 5.0, 100, 0, T0)
        assert settled(made) == {0}


def test_equal_ones_take_turns():
    with Fleet([1] * 5, workers=3) as fleet:
        taught(fleet, [7] * 5)
        made = fleet.build("prequal", 2)
        assert [choose(made, T0, 0) for _ in range(7)] == [2, 3, 4, 0, 1, 2, 3]


def test_of_many_it_compares_sixty_four_and_all_get_their_turn():
    with Fleet([1] * 1000) as fleet:
        made = taught(fleet, [10 + i % 64 for i in range(1000)])
        chosen = Counter(choose(made, T0, 0) for _ in range(1000))
        assert {i % 64 for i in chosen} == {0}, "each window has one of the fastest"
        assert len(chosen) == 16


@pytest.mark.parametrize("quantile", [-0.1, 1.01, "high"])
def test_wrong_quantile(quantile):
    with Fleet([1]) as fleet, pytest.raises(ConfigError, match="policy 'prequal': quantile: "):
        fleet.build("prequal", quantile=quantile)


def test_uneven_servers_cost_far_less_than_with_counting():
    """Eight of 10 ms and four of 30 ms, three quarters busy: least_request's tail is the slow ones' doing."""
    tail = percentile(latencies("prequal", UNEVEN, 700), 0.99)
    assert tail < 0.65 * percentile(latencies("least_request", UNEVEN, 700), 0.99)


@pytest.mark.slow
def test_neither_rule_alone_does_as_well():
    """As the paper found: latency alone (1) is much worse than the two together, load alone (0) is worse."""
    tails = {q: percentile(latencies("prequal", UNEVEN, 700, quantile=q), 0.99) for q in (0, 0.84, 1)}
    assert tails[0.84] < 0.75 * tails[0]
    assert tails[0.84] < 0.75 * tails[1]


def test_a_server_that_stalls_gets_no_more_than_with_counting():
    """One of twelve stands still for two seconds of every five: what it holds is late, and little else."""

    def stalled(seconds, server):
        turn = int(seconds // 5)
        return max(0.0, turn * 5 + 2 - seconds) if turn % 12 == server else 0.0

    late = {
        policy: sum(latency > 200 for latency in latencies(policy, [10.0] * 12, 600, 30, stalled))
        for policy in ("prequal", "least_request", "peak_ewma")
    }
    assert late["prequal"] <= 2 * late["least_request"]
    assert late["prequal"] < 0.5 * late["peak_ewma"]
