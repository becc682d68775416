"""Ring hash and rendezvous: who moves, who stays, who agrees (as test_maglev.py); what holds for every hash."""

import random
from collections import Counter
from math import log

import pytest
from fleet import DRAIN, Fleet, choose
from hypothesis import given
from hypothesis import strategies as st
from property import examples
from statistics_checks import agrees

from lb.balancing.ring import MAX_POINTS, Ring
from lb.errors import ConfigError
from lb.shared.hashing import hash64_bytes

KEYS = [hash64_bytes(b"client-%d" % n) for n in range(20_000)]
TEN = [f"192.0.2.{i}:8000" for i in range(1, 11)]
HASHES = ["maglev", "rendezvous", "ring_hash"]
NEW = ["rendezvous", "ring_hash"]
PINNED = {
    "rendezvous": [8, 1, 7, 3, 2, 8, 1, 3, 1, 5, 8, 9, 3, 9, 7, 0, 9, 4, 0, 5],
    "ring_hash": [4, 8, 2, 0, 5, 9, 5, 3, 7, 6, 2, 9, 4, 7, 7, 3, 6, 0, 8, 6],
}

memberships = st.lists(
    st.tuples(st.text("abcdef0123456789.:", min_size=1, max_size=12), st.integers(0, 20)),
    min_size=2,
    max_size=8,
    unique_by=lambda member: member[0],
)


def choices(policy, keys=KEYS, exclude=-1):
    """The address that each key goes to."""
    addresses = policy.endpoints.addresses
    return [addresses[i] if (i := choose(policy, 0, key, exclude)) >= 0 else None for key in keys]


def fleet_of(members):
    return Fleet([weight for _, weight in members], addresses=[address for address, _ in members])


@pytest.mark.parametrize("policy", NEW)
@pytest.mark.parametrize("removed", TEN[::3])
def test_removing_one_of_ten_moves_only_its_keys(policy, removed):
    rest = [address for address in TEN if address != removed]
    with Fleet([1] * 10, addresses=TEN) as all_ten, Fleet([1] * 9, addresses=rest) as nine:
        before, after = choices(all_ten.build(policy)), choices(nine.build(policy))
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {removed}
    assert len(moved) == before.count(removed)
    share = Counter(new for _, new in moved)
    assert set(share) == set(rest)
    if policy == "rendezvous":
        assert agrees([share[address] for address in rest], [1] * 9)


@pytest.mark.parametrize("policy", HASHES)
@examples(25)
@given(members=memberships, data=st.data())
def test_leaving_moves_no_key_of_others(policy, members, data):
    gone = data.draw(st.sampled_from(members))
    rest = [member for member in members if member != gone]
    with fleet_of(members) as before, fleet_of(rest) as after:
        for old, new in zip(
            choices(before.build(policy), KEYS[:500]), choices(after.build(policy), KEYS[:500]), strict=True
        ):
            assert old in (new, gone[0])


@pytest.mark.parametrize("policy", NEW)
@examples(25)
@given(members=memberships, data=st.data(), weight=st.integers(1, 20))
def test_new_weight_moves_keys_of_one_endpoint_only_and_one_way(policy, members, data, weight):
    i = data.draw(st.integers(0, len(members) - 1))
    address, old_weight = members[i]
    with fleet_of(members) as fleet:
        before = choices(fleet.build(policy), KEYS[:500])
        fleet.weigh(i, weight)
        after = choices(fleet.build(policy), KEYS[:500])
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert all(address in pair for pair in moved)
    assert {new == address for _, new in moved} <= {weight > old_weight}


@pytest.mark.parametrize("policy", NEW)
@pytest.mark.parametrize("how", ["down", "drain", "weight", "exclude"])
def test_unavailable_is_as_good_as_removed(policy, how):
    rest = [*TEN[:3], *TEN[4:]]
    with Fleet([1] * 10, addresses=TEN) as fleet, Fleet([1] * 9, addresses=rest) as fewer:
        made = fleet.build(policy)
        before, without = choices(made), choices(fewer.build(policy))
        if how == "exclude":
            assert choices(made, exclude=3) == without
            return
        {"down": fleet.down, "drain": lambda i: fleet.admin(i, DRAIN), "weight": lambda i: fleet.weigh(i, 0)}[how](3)
        assert choices(made) == without
        fleet.up(3)
        fleet.admin(3, 0)
        fleet.weigh(3, 1)
        assert choices(made) == before


@pytest.mark.parametrize("policy", HASHES)
def test_workers_and_orders_of_the_file_agree(policy):
    members = [(address, 1 + i % 3) for i, address in enumerate(TEN)]
    shuffled = members[:]
    random.Random(4).shuffle(shuffled)
    with fleet_of(members) as fleet, fleet_of(shuffled) as other:
        expected = choices(fleet.build(policy))
        assert choices(other.build(policy)) == expected
    with Fleet([w for _, w in members], addresses=TEN, workers=2) as fleet:
        assert choices(fleet.build(policy, 1)) == expected


@pytest.mark.parametrize("policy", HASHES)
def test_load_does_not_matter_without_a_bound(policy):
    with Fleet([1] * 10) as fleet:
        made = fleet.build(policy)
        before = choices(made)
        for i in range(10):
            fleet.load(i, 100 * (i % 2))
        assert choices(made) == before


@pytest.mark.parametrize("policy", NEW)
@pytest.mark.parametrize("weights", [[1, 1, 1], [0, 0, 0], [1, 0, 3]])
def test_weights_that_change_while_it_runs(policy, weights):
    with Fleet(weights) as fleet:
        made = fleet.build(policy)
        for new in ([4, 1, 1], [4, 1, 7], [0, 1, 7], [2, 2, 2]):
            for i, weight in enumerate(new):
                fleet.weigh(i, weight)
            for key in KEYS[:3]:  # a round of choices
                choose(made, 0, key)
            assert choices(made) == choices(fleet.build(policy))


@pytest.mark.parametrize("weights", [[1, 1], [1] * 10, [2, 1], [5, 1, 1], [1, 2, 3, 4], [100, 1], [1000] * 3])
def test_rendezvous_shares_by_weight(weights):
    with Fleet(weights) as fleet:
        found = Counter(choose(fleet.build("rendezvous"), 0, key) for key in KEYS)
        assert agrees([found[i] for i in range(len(weights))], weights)


@examples(40)
@given(members=memberships, key=st.integers(0, 2**64 - 1))
def test_rendezvous_takes_the_highest_score(members, key):
    def score(address, weight):
        x = key ^ hash64_bytes(b"rendezvous:" + address.encode())
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        x ^= x >> 31
        return -weight / log(((x >> 12) + 0.5) / 2**52)

    with fleet_of(members) as fleet:
        expected = max((m for m in members if m[1]), key=lambda member: score(*member), default=(None, 0))
        assert choices(fleet.build("rendezvous"), [key]) == [expected[0]]


@pytest.mark.parametrize("policy", NEW)
def test_same_as_in_earlier_versions(policy):
    """A change here moves the clients of everyone who upgrades."""
    with Fleet([1] * 10, addresses=TEN) as fleet:
        assert [choose(fleet.build(policy), 0, key) for key in KEYS[:20]] == PINNED[policy]


def reference_points(members, points):
    """All points as (position, address), without buckets and without C."""
    for address, weight in members:
        x = hash64_bytes(b"ring:" + address.encode())
        for _ in range(points * weight):
            x = (x + 0x9E3779B97F4A7C15) % 2**64
            y = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            y = (y ^ y >> 27) * 0x94D049BB133111EB % 2**64
            yield y ^ y >> 31, address


@examples(25)
@given(members=memberships, points=st.integers(1, 9), keys=st.lists(st.integers(0, 2**64 - 1), min_size=20))
def test_ring_gives_a_key_to_the_first_point_from_it_on(members, points, keys):
    ring = sorted(reference_points(members, points))
    table = Ring(members, points)
    assert table.size == len(ring)
    positions = [position for position, _ in ring]
    for key in [*keys, *positions, *(p + 1 for p in positions), 0, 2**64 - 1]:
        expected = next((address for position, address in ring if position >= key), ring[0][1] if ring else None)
        owner = table.owner(key % 2**64)
        if key < 2**64:
            assert (members[owner][0] if owner >= 0 else None) == expected


@pytest.mark.parametrize("points", [1, 160, 1000])
def test_ring_shares_are_as_even_as_its_points(points):
    """The share of an endpoint with p of n points deviates by about 1/sqrt(p) of itself."""
    weights = [1, 2, 5, 1, 1, 10]
    worst = 0.0
    for group in range(20):
        members = [(f"10.{group}.0.{i}:80", weight) for i, weight in enumerate(weights)]
        table = Ring(members, points)
        found = Counter(table.owner(key) for key in KEYS)
        for i, weight in enumerate(weights):
            share = len(KEYS) * weight / sum(weights)
            worst = max(worst, abs(found[i] / share - 1) * (points * weight) ** 0.5)
    assert worst < 6


def test_number_of_points_is_an_option():
    with Fleet([1, 2]) as fleet:
        assert fleet.build("ring_hash").ring.size == 480
        assert fleet.build("ring_hash", points=7).ring.size == 21
        with pytest.raises(ConfigError, match="policy 'ring_hash': points: must be at least 1"):
            fleet.build("ring_hash", points=0)


def test_ring_has_a_largest_size():
    members = [(f"10.0.{i // 250}.{i % 250}:80", weight) for i, weight in enumerate([1000] * 500 + [1] * 500)]
    table = Ring(members, 160)
    assert MAX_POINTS // 2 < table.size <= MAX_POINTS
    heavy = sum(table.owner(key) < 500 for key in KEYS)
    assert heavy / len(KEYS) == pytest.approx(1000 / 1001, abs=0.003)


def test_ring_of_the_largest_weights():
    table = Ring([("a", 2**31 - 1), ("b", 2**31 - 1), ("c", 1)], 10_000)
    assert table.size <= MAX_POINTS
    assert {table.owner(key) for key in KEYS} >= {0, 1}


def test_ring_without_points():
    assert Ring([], 160).owner(5) == Ring([("a", 0)], 160).owner(5) == -1
    with pytest.raises(ValueError, match="negative"):
        Ring([("a", -1)], 160)


def test_ring_on_which_few_or_none_take_requests():
    """The walk is given up after as many points as there are endpoints, unless somebody is left."""
    with Fleet([1000] * 50) as fleet:
        made = fleet.build("ring_hash", points=1)
        for i in range(50):
            fleet.down(i)
        assert {choose(made, 0, key) for key in KEYS[:100]} == {-1}
        fleet.up(7)
        assert {choose(made, 0, key, 7) for key in KEYS[:100]} == {7}
        assert {choose(made, 0, key, 8) for key in KEYS[:100]} == {7}
        fleet.up(8)
        assert {choose(made, 0, key, 7) for key in KEYS[:100]} == {8}
        assert {choose(made, 0, key) for key in KEYS[:100]} == {7, 8}
