"""Weighted random: the law of the draws."""

import pytest
from fleet import DRAIN, Fleet, choose
from statistics_checks import agrees

from lb.balancing.options import PolicyOptions
from lb.balancing.policies.random import Random

DRAWS = 40_000


def seeded(fleet, seed=11):
    return Random(fleet.sets[0], PolicyOptions(), seed=seed)


def counts(policy, size, exclude=-1, draws=DRAWS):
    result = [0] * size
    for _ in range(draws):
        result[choose(policy, 0, 0, exclude)] += 1
    return result


@pytest.mark.parametrize("weights", [[1, 1], [3, 2, 1], [1000, 1], [7] * 12, [100] + [1] * 30, [0, 5, 0, 1, 1]])
def test_shares_by_weight(weights):
    with Fleet(weights) as fleet:
        assert agrees(counts(seeded(fleet), len(weights)), weights)


def test_load_does_not_matter():
    with Fleet([1, 1, 2]) as fleet:
        fleet.load(0, 1000)
        assert agrees(counts(seeded(fleet), 3), [1, 1, 2])


def test_draws_are_independent():
    with Fleet([1] * 4) as fleet:
        policy = seeded(fleet)
        pairs = [0] * 16
        last = choose(policy, 0, 0)
        for _ in range(DRAWS):
            this = choose(policy, 0, 0)
            pairs[4 * last + this] += 1
            last = this
        assert agrees(pairs, [1] * 16)


def test_only_those_that_take_requests():
    with Fleet([1, 2, 3, 4]) as fleet:
        fleet.down(0)
        fleet.admin(2, DRAIN)
        assert agrees(counts(seeded(fleet), 4), [0, 2, 0, 4])
        assert counts(seeded(fleet), 4, exclude=3, draws=100) == [0, 100, 0, 0]


def test_few_of_many():
    weights = [1 + i % 3 for i in range(200)]
    up = {13, 50, 51, 199}
    with Fleet(weights) as fleet:
        for i in set(range(200)) - up:
            fleet.down(i)
        assert agrees(counts(seeded(fleet), 200), [w if i in up else 0 for i, w in enumerate(weights)])


def test_objects_draw_differently():
    with Fleet([1] * 100) as fleet:
        sequences = {
            tuple(choose(policy, 0, 0) for _ in range(20)) for policy in (fleet.build("random") for _ in "abcd")
        }
        assert len(sequences) == 4
