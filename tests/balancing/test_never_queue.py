"""Never queue: an idle endpoint however slow, else the least loaded for its weight, over all workers."""

from collections import Counter
from fractions import Fraction

import full_walk
import pytest
from compiled.endpoint_set import acquire
from fleet import Fleet, choose
from hypothesis import given
from hypothesis import strategies as st
from property import examples
from simulated import latencies


def key_of(fleet, weights, i):
    """What the policy compares: the lowest is chosen."""
    running = fleet.sets[0].inflight(i)
    return running > 0, Fraction(running + 1, weights[i])


@examples(60)
@given(data=st.data(), weights=st.lists(st.integers(0, 9), min_size=1, max_size=7))
def test_the_idle_one_of_the_highest_weight_else_the_least_loaded(data, weights):
    with Fleet(weights, workers=3) as fleet:
        policies = [fleet.build("never_queue", worker) for worker in range(3)]
        for turn in range(10):
            fleet.load(data.draw(st.integers(0, len(weights) - 1)), data.draw(st.integers(0, 3)), worker=turn % 3)
            exclude = data.draw(st.integers(-1, len(weights) - 1))
            picked = choose(policies[data.draw(st.integers(0, 2))], 0, 0, exclude)
            open_ones = [i for i, w in enumerate(weights) if w]
            candidates = [i for i in open_ones if i != exclude] or open_ones
            if not candidates:
                assert picked == -1
                continue
            assert key_of(fleet, weights, picked) == min(key_of(fleet, weights, i) for i in candidates)


@pytest.mark.slow
@examples(30)
@given(**full_walk.FLEETS)
def test_walk_that_ends_early_finds_what_a_full_one_does(data, heavy, busy):
    full_walk.check("never_queue", key_of, data, heavy, busy)


def test_a_slow_endpoint_is_taken_before_a_queue_forms_at_a_fast_one():
    with Fleet([10, 1, 1]) as fleet:
        chosen = {name: [] for name in ("never_queue", "least_request")}
        for name, order in chosen.items():
            policy = fleet.build(name)
            for _ in range(12):
                order.append(choose(policy, 0, 0))
                fleet.load(order[-1], 1)
            for i, count in Counter(order).items():
                fleet.load(i, -count)
        assert chosen["never_queue"][:3] == [0, 1, 2]
        assert Counter(chosen["never_queue"]) == {0: 10, 1: 1, 2: 1}
        assert chosen["least_request"][:9] == [0] * 9


@pytest.mark.parametrize("size", [2, 7, 1000])
def test_idle_endpoints_share_evenly(size):
    with Fleet([4] * size) as fleet:
        policy = fleet.build("never_queue")
        counts = Counter(choose(policy, 0, 0) for _ in range(3 * size))
        assert counts == dict.fromkeys(range(size), 3)


def test_what_requests_cost_decides_among_busy_endpoints():
    with Fleet([1, 1, 1], weighed=True) as fleet:
        policy, endpoints = fleet.build("never_queue"), fleet.sets[0]
        for i, cost in enumerate((5.0, 0.5, 2.0)):
            acquire(endpoints, i, cost)
        assert {choose(policy, 0, 0) for _ in range(3)} == {1}


def test_workers_start_at_different_endpoints():
    with Fleet([1] * 4, workers=4) as fleet:
        assert [choose(fleet.build("never_queue", worker), 0, 0) for worker in range(4)] == [0, 1, 2, 3]


@pytest.mark.slow
def test_near_capacity_requests_wait_less_than_with_least_request():
    """Eight servers of 10 ms and weight 3, four of 30 ms and weight 1: at 86 % of what they can do."""
    speeds, weights = [10.0] * 8 + [30.0] * 4, [3] * 8 + [1] * 4
    mean = {}
    for policy in ("never_queue", "least_request"):
        found = latencies(policy, speeds, 800, weights=weights)
        mean[policy] = sum(found) / len(found)
    assert mean["never_queue"] < 0.9 * mean["least_request"]
