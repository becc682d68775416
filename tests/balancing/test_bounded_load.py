"""Consistent hashing with bounded loads: the capacities, and where a key goes that finds its endpoint full."""

from fractions import Fraction
from math import ceil

import pytest
from compiled.endpoint_set import acquire
from fleet import DRAIN, Fleet, choose
from hypothesis import given
from hypothesis import strategies as st
from property import examples

from lb.errors import ConfigError
from lb.shared.hashing import hash64_bytes

KEYS = [hash64_bytes(b"client-%d" % n) for n in range(3_000)]
HASHES = ["maglev", "rendezvous", "ring_hash"]


def order_of(fleet, policy, key):
    """All available endpoints in the order of `key`: whom it goes to, whom when that one is down, and so on."""
    order = []
    made = fleet.build(policy)
    while (index := choose(made, 0, key)) >= 0:
        order.append(index)
        fleet.down(index)
    for index in order:
        fleet.up(index)
    return order


def capacities(fleet, weights, factor):
    """By the formula, exactly."""
    available = fleet.available
    total = sum(fleet.sets[0].inflight(i) for i in available) + 1
    whole = sum(weights[i] for i in available)
    return {i: ceil(Fraction(factor) * total * weights[i] / whole) for i in available}


@pytest.mark.slow
@pytest.mark.parametrize("policy", HASHES)
@examples(40)
@given(
    weights=st.lists(st.integers(0, 9), min_size=1, max_size=7),
    factor=st.sampled_from([1, 1.25, 1.5, 2, 16.0]),
    loads=st.lists(st.integers(0, 30), min_size=7, max_size=7),
    down=st.sets(st.integers(0, 6), max_size=3),
    exclude=st.integers(-1, 6),
    key=st.sampled_from(KEYS),
)
def test_first_in_the_order_of_the_key_that_is_below_its_capacity(policy, weights, factor, loads, down, exclude, key):
    with Fleet(weights, workers=2) as fleet:
        for i in range(len(weights)):
            fleet.load(i, loads[i], worker=i % 2)
            if i in down:
                fleet.down(i)
        order = order_of(fleet, policy, key)
        capacity = capacities(fleet, weights, factor) if order else {}
        others = [i for i in order if i != exclude]
        room = [i for i in others if fleet.sets[0].inflight(i) < capacity[i]]
        expected = (room or others or order or [-1])[0]
        assert choose(fleet.build(policy, bounded_load=factor), 0, key, exclude) == expected


def test_capacities_of_a_worked_example():
    """c = 1.25, weights 1, 1, 2 and 7 in flight: ceil(1.25 * 8 / 4) = 3 for weight 1, ceil(1.25 * 8 * 2 / 4) = 5."""
    with Fleet([1, 1, 2]) as fleet:
        for policy in HASHES:
            first, second, third = (next(k for k in KEYS if order_of(fleet, policy, k)[0] == i) for i in range(3))
            made = fleet.build(policy, bounded_load=1.25)
            for loads, goes in (
                ((2, 0, 5), (True, True, False)),
                ((3, 0, 4), (False, True, True)),
                ((0, 2, 5), (True, True, False)),
            ):
                for i, load in enumerate(loads):
                    fleet.load(i, load - fleet.sets[0].inflight(i))
                found = [choose(made, 0, key) == i for i, key in enumerate((first, second, third))]
                assert found == list(goes)
            for i in range(3):
                fleet.load(i, -fleet.sets[0].inflight(i))


@pytest.mark.parametrize("policy", HASHES)
def test_keys_of_a_full_endpoint_go_on_in_their_order(policy):
    with Fleet([1] * 5) as fleet:
        order = order_of(fleet, policy, KEYS[0])
        made = fleet.build(policy, bounded_load=1.25)
        # One key takes all: the capacity of each is ceil(1.25 * (L + 1) / 5).
        chosen = []
        for _ in range(8):
            chosen.append(choose(made, 0, KEYS[0]))
            acquire(fleet.sets[0], chosen[-1])
        # L + 1 = 1 to 8: capacities 1 1 1 1 2 2 2 2.
        assert [order.index(i) for i in chosen] == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("policy", HASHES)
@pytest.mark.parametrize("factor", [1.0, 1.25, 2.0])
def test_no_endpoint_goes_beyond_its_capacity(policy, factor):
    """Half of the requests have one key, and all of them stay."""
    weights = [1, 2, 3, 1, 4, 1]
    with Fleet(weights, workers=2) as fleet:
        made = [fleet.build(policy, worker, bounded_load=factor) for worker in range(2)]
        moved = 0
        for n in range(600):
            capacity = capacities(fleet, weights, factor)
            key = KEYS[0] if n % 2 else KEYS[n]
            index = choose(made[n % 2], 0, key)
            assert fleet.sets[0].inflight(index) < capacity[index]
            moved += index != choose(fleet.build(policy), 0, key)
            acquire(fleet.sets[n % 2], index)
        assert moved > 0


@pytest.mark.parametrize("policy", HASHES)
def test_key_keeps_its_endpoint_while_there_is_room(policy):
    with Fleet([1] * 10) as fleet:
        plain, bounded = fleet.build(policy), fleet.build(policy, bounded_load=1.25)
        for i in range(10):
            fleet.load(i, 7)  # capacity ceil(1.25 * 71 / 10) = 9
        assert [choose(bounded, 0, key) for key in KEYS] == [choose(plain, 0, key) for key in KEYS]


@pytest.mark.parametrize("policy", HASHES)
def test_what_cannot_take_requests_does_not_count(policy):
    """Neither its weight nor its load: the rest would have too much room, or none."""
    with Fleet([1, 1, 1, 50]) as fleet:
        fleet.admin(3, DRAIN)
        fleet.load(3, 1000)
        made = fleet.build(policy, bounded_load=1)
        for _ in range(30):
            acquire(fleet.sets[0], choose(made, 0, KEYS[0]))
        assert [fleet.sets[0].inflight(i) for i in range(3)] == [10, 10, 10]


@pytest.mark.parametrize("policy", HASHES)
@pytest.mark.parametrize("factor", [0.99, 0, -1, "1.25", float("inf")])
def test_factor_is_checked(policy, factor):
    with Fleet([1]) as fleet, pytest.raises(ConfigError, match=f"policy '{policy}': bounded_load: must be"):
        fleet.build(policy, bounded_load=factor)
