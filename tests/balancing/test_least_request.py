"""Least request: the exact minimum over all workers' in-flight counts."""

from collections import Counter
from fractions import Fraction

import full_walk
import pytest
from compiled.endpoint_set import acquire
from fleet import DRAIN, Fleet, choose
from hypothesis import given
from hypothesis import strategies as st
from property import examples


@pytest.mark.slow
@examples(60)
@given(data=st.data(), weights=st.lists(st.integers(0, 9), min_size=1, max_size=7))
def test_always_the_least_loaded_over_all_workers(data, weights):
    with Fleet(weights, workers=3) as fleet:
        policies = [fleet.build("least_request", worker) for worker in range(3)]
        for _ in range(10):
            fleet.load(data.draw(st.integers(0, len(weights) - 1)), data.draw(st.integers(0, 9)), worker=_ % 3)
            exclude = data.draw(st.integers(-1, len(weights) - 1))
            picked = choose(policies[data.draw(st.integers(0, 2))], 0, 0, exclude)
            candidates = [i for i, w in enumerate(weights) if w and i != exclude] or [
                i for i, w in enumerate(weights) if w
            ]
            if not candidates:
                assert picked == -1
                continue
            load = {i: Fraction(fleet.sets[0].inflight(i) + 1, weights[i]) for i in candidates}
            assert load[picked] == min(load.values())


def key_of(fleet, weights, i):
    """What the policy compares: the lowest is chosen."""
    return Fraction(fleet.sets[0].inflight(i) + 1, weights[i])


@pytest.mark.slow
@examples(30)
@given(**full_walk.FLEETS)
def test_walk_that_ends_early_finds_what_a_full_one_does(data, heavy, busy):
    full_walk.check("least_request", key_of, data, heavy, busy)


def test_heavy_endpoint_that_comes_up_is_seen_at_once():
    with Fleet([1] * 99 + [2]) as fleet:
        fleet.down(99)
        policy = fleet.build("least_request")
        assert choose(policy, 0, 0) == 0
        fleet.up(99)
        assert [choose(policy, 0, 0) for _ in range(3)] == [99] * 3


def test_weight_that_is_raised_is_seen_within_a_round():
    with Fleet([1] * 100) as fleet:
        policy = fleet.build("least_request")
        fleet.weigh(70, 5)
        assert 70 in [choose(policy, 0, 0) for _ in range(100)]
        assert [choose(policy, 0, 0) for _ in range(3)] == [70] * 3


@pytest.mark.parametrize("size", [2, 3, 7, 1000])
def test_idle_endpoints_share_evenly(size):
    with Fleet([4] * size) as fleet:
        policy = fleet.build("least_request")
        counts = Counter(choose(policy, 0, 0) for _ in range(3 * size))
        assert counts == dict.fromkeys(range(size), 3)


def test_idle_endpoints_share_evenly_beside_ones_that_do_not_take_part():
    with Fleet([1] * 6) as fleet:
        policy = fleet.build("least_request")
        fleet.down(1)
        fleet.admin(2, DRAIN)
        fleet.load(4, 1)
        assert Counter(choose(policy, 0, 0) for _ in range(300)) == {0: 100, 3: 100, 5: 100}


def test_requests_that_stay_are_spread_by_weight():
    with Fleet([3, 2, 1], workers=2) as fleet:
        policies = [fleet.build("least_request", worker) for worker in range(2)]
        for n in range(60):
            index = choose(policies[n % 2], 0, 0)
            acquire(fleet.sets[n % 2], index)
        assert [fleet.sets[0].inflight(i) for i in range(3)] == [30, 20, 10]


def test_counts_of_another_worker_and_of_a_dead_one():
    with Fleet([1, 1], workers=2) as fleet:
        policy = fleet.build("least_request", 0)
        fleet.load(0, 3, worker=1)
        assert {choose(policy, 0, 0) for _ in range(10)} == {1}
        fleet.load(1, 1, worker=0)
        fleet.master.forget(fleet.master.clear_worker(1))
        assert {choose(policy, 0, 0) for _ in range(10)} == {0}


def test_workers_begin_at_different_endpoints():
    with Fleet([1, 1, 1], workers=4) as fleet:
        assert [choose(fleet.build("least_request", worker), 0, 0) for worker in range(4)] == [0, 1, 2, 0]


def test_large_counts_and_weights_do_not_overflow():
    with Fleet([2**31 - 1, 2**31 - 2]) as fleet:
        policy = fleet.build("least_request")
        fleet.load(0, 2**31 - 2)
        fleet.load(1, 2**31 - 3)
        # (2**31 - 1) / (2**31 - 1) and (2**31 - 2) / (2**31 - 2): equal, so in turn.
        assert [choose(policy, 0, 0) for _ in range(4)] == [0, 1, 0, 1]
        fleet.load(1, -1)
        assert {choose(policy, 0, 0) for _ in range(4)} == {1}
