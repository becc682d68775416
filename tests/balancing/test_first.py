"""First with room: fills endpoints in the order of the configuration."""

import pytest
from compiled.endpoint_set import acquire, release
from fleet import DRAIN, Fleet, choose

from lb.errors import ConfigError


def hold(fleet, policy, count, worker=0):
    """`count` requests that stay; the endpoints they went to."""
    chosen = []
    for _ in range(count):
        chosen.append(choose(policy, 0, 0))
        acquire(fleet.sets[worker], chosen[-1])
    return chosen


def test_fills_in_order_by_weight():
    with Fleet([1, 3, 1]) as fleet:
        assert hold(fleet, fleet.build("first", fill=2), 10) == [0] * 2 + [1] * 6 + [2] * 2


def test_counts_what_all_workers_have_in_flight():
    with Fleet([1, 1], workers=2) as fleet:
        policies = [fleet.build("first", worker, fill=3) for worker in range(2)]
        assert hold(fleet, policies[0], 2, 0) == [0, 0]
        assert hold(fleet, policies[1], 2, 1) == [0, 1]


def test_room_that_comes_back_is_used_first():
    with Fleet([1, 1, 1]) as fleet:
        policy = fleet.build("first", fill=2)
        hold(fleet, policy, 5)
        release(fleet.sets[0], 0)
        assert hold(fleet, policy, 2) == [0, 2]


def test_all_full_takes_the_least_loaded():
    with Fleet([1, 2]) as fleet:
        policy = fleet.build("first", fill=1)
        assert hold(fleet, policy, 3) == [0, 1, 1]
        # (1 + 1) / 1 against (2 + 1) / 2, then 2 against 4/2: the first of equal ones.
        assert hold(fleet, policy, 2) == [1, 0]


def test_unavailable_and_excluded_are_passed_over():
    with Fleet([1, 1, 1, 1]) as fleet:
        policy = fleet.build("first", fill=1)
        fleet.down(0)
        fleet.admin(1, DRAIN)
        assert choose(policy, 0, 0) == 2
        assert choose(policy, 0, 0, 2) == 3
        fleet.up(0)
        assert choose(policy, 0, 0) == 0


@pytest.mark.parametrize("options", [{}, {"fill": 0}, {"fill": "3"}])
def test_fill_is_needed(options):
    with Fleet([1]) as fleet, pytest.raises(ConfigError, match="policy 'first': fill: "):
        fleet.build("first", **options)
