"""Power of two choices: the law of the draws, and the comparison."""

from math import comb

import pytest
from fleet import Fleet, choose
from statistics_checks import agrees

from lb.balancing.options import ChoiceOptions
from lb.balancing.policies.power_of_two import PowerOfTwo
from lb.errors import ConfigError

DRAWS = 40_000


def seeded(fleet, seed=7, choices=2):
    return PowerOfTwo(fleet.sets[0], ChoiceOptions(choices=choices), seed=seed)


def counts(policy, size, exclude=-1, draws=DRAWS):
    result = [0] * size
    for _ in range(draws):
        result[choose(policy, 0, 0, exclude)] += 1
    return result


@pytest.mark.parametrize("size", [2, 3, 10, 64])
def test_two_different_endpoints_are_drawn(size):
    """With all loads different, rank r of n wins with probability 2 (n - r) / (n (n - 1)); the last one never."""
    with Fleet([1] * size) as fleet:
        for i in range(size):
            fleet.load(i, i)
        assert agrees(counts(seeded(fleet), size), [size - 1 - i for i in range(size)])


@pytest.mark.parametrize(("size", "choices"), [(5, 3), (10, 5), (40, 32), (64, 8)])
def test_as_many_different_endpoints_are_drawn_as_asked_for(size, choices):
    """With all loads different, rank r wins when it is drawn and the others are of the ranks behind it."""
    with Fleet([1] * size) as fleet:
        for i in range(size):
            fleet.load(i, i)
        expected = [comb(size - 1 - i, choices - 1) for i in range(size)]
        # Pooled where the law gives less than a handful.
        rare = [i for i in range(size) if DRAWS * expected[i] < 5 * sum(expected)]
        found = counts(seeded(fleet, choices=choices), size)
        often = [i for i in range(size) if i not in rare]
        assert agrees(
            [*(found[i] for i in often), sum(found[i] for i in rare)],
            [*(expected[i] for i in often), sum(expected[i] for i in rare)],
        )


@pytest.mark.parametrize("choices", [2, 5, 32])
def test_more_choices_than_endpoints(choices):
    with Fleet([3, 1, 1]) as fleet:
        for i in range(3):
            fleet.load(i, 9 - i)
        assert counts(seeded(fleet, choices=choices), 3, exclude=2, draws=100)[2] == 0
        if choices > 2:
            # All are compared: 9/3 per weight is the least, whatever was drawn first.
            assert counts(seeded(fleet, choices=choices), 3, draws=100) == [100, 0, 0]


@pytest.mark.parametrize("choices", [1, 33, 2.5, "2"])
def test_number_of_choices_is_checked(choices):
    with Fleet([1]) as fleet, pytest.raises(ConfigError, match="policy 'power_of_two': choices: must be"):
        fleet.build("power_of_two", choices=choices)


@pytest.mark.parametrize("weights", [[1, 1, 1], [3, 2, 1], [1000, 1], [7] * 12, [100] + [1] * 30, [0, 5, 0, 1, 1]])
def test_idle_endpoints_share_by_weight(weights):
    with Fleet(weights) as fleet:
        assert agrees(counts(seeded(fleet), len(weights)), weights)


def test_idle_endpoints_share_by_weight_when_few_are_up():
    weights = [1 + i % 3 for i in range(200)]
    up = {13, 50, 51, 199}
    with Fleet(weights) as fleet:
        for i in set(range(200)) - up:
            fleet.down(i)
        assert agrees(counts(seeded(fleet), 200), [w if i in up else 0 for i, w in enumerate(weights)])


def test_two_drawn_in_proportion_to_weight_without_replacement():
    weights = [4, 2, 1, 1]
    total = sum(weights)
    with Fleet(weights) as fleet:
        for i, weight in enumerate(weights):
            fleet.load(i, 10 * i * weight)  # loads per weight 0, 10, 20, 30: the lower index wins
        expected = [0.0] * 4
        for i in range(4):
            for j in range(4):
                if i != j:
                    expected[min(i, j)] += weights[i] / total * weights[j] / (total - weights[i])
        assert agrees(counts(seeded(fleet), 4), expected)


def test_less_loaded_per_weight_wins_always():
    with Fleet([1, 4]) as fleet:
        policy = seeded(fleet)
        fleet.load(0, 2)
        fleet.load(1, 7)
        assert counts(policy, 2, draws=500) == [0, 500]
        fleet.load(1, 2)
        assert counts(policy, 2, draws=500) == [500, 0]


def test_excluded_endpoint_is_never_drawn():
    with Fleet([100, 1, 1, 1]) as fleet:
        assert agrees(counts(seeded(fleet), 4, exclude=0), [0, 1, 1, 1])


def test_follows_weights_that_change():
    with Fleet([1, 1, 1]) as fleet:
        policy = seeded(fleet)
        for weights in ([50, 1, 1], [1, 1, 50], [2, 1, 1]):
            for i, weight in enumerate(weights):
                fleet.weigh(i, weight)
            choose(policy, 0, 0)
            assert agrees(counts(policy, 3), weights)


def test_objects_draw_differently():
    with Fleet([1] * 100) as fleet:
        sequences = {
            tuple(choose(policy, 0, 0) for _ in range(20)) for policy in (fleet.build("power_of_two") for _ in "abcd")
        }
        assert len(sequences) == 4
        assert [choose(seeded(fleet), 0, 0) for _ in "ab"] == [choose(seeded(fleet), 0, 0)] * 2
