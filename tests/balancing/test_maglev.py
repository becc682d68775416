"""Consistent hashing: who moves, who stays, who agrees."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest
from fleet import DRAIN, Fleet, choose
from hypothesis import given
from hypothesis import strategies as st
from property import examples

from lb.balancing.slots import MAX_MEMBERS, SLOTS, SlotTable
from lb.shared.hashing import hash64_bytes

KEYS = [hash64_bytes(b"client-%d" % n) for n in range(100_000)]
TEN = [f"192.0.2.{i}:8000" for i in range(1, 11)]

memberships = st.lists(
    st.tuples(st.text("abcdef0123456789.:", min_size=1, max_size=12), st.integers(0, 20)),
    min_size=1,
    max_size=8,
    unique_by=lambda member: member[0],
).filter(lambda members: any(weight for _, weight in members))


def owners(members, keys=range(SLOTS)):
    """The address that owns each key."""
    table = SlotTable(members)
    return [members[table.owner(key)][0] for key in keys]


def choices(fleet, policy, keys=KEYS):
    return [fleet.addresses[choose(policy, 0, key)] for key in keys]


@pytest.mark.parametrize("removed", TEN)
def test_removing_one_of_ten_moves_only_its_keys(removed):
    rest = [address for address in TEN if address != removed]
    with Fleet([1] * 10, addresses=TEN) as all_ten, Fleet([1] * 9, addresses=rest) as nine:
        before = choices(all_ten, all_ten.build("maglev"))
        after = choices(nine, nine.build("maglev"))
    assert removed not in after
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {removed}
    assert len(moved) == before.count(removed)
    # They go to all the others alike.
    share = Counter(new for _, new in moved)
    assert set(share) == set(rest)
    assert all(0.75 < count * 9 / len(moved) < 1.25 for count in share.values())


@pytest.mark.parametrize("how", ["down", "drain", "weight"])
def test_unavailable_is_as_good_as_removed(how):
    with Fleet([1] * 10, addresses=TEN) as fleet, Fleet([1] * 8, addresses=[*TEN[:3], *TEN[4:7], *TEN[8:]]) as fewer:
        policy = fleet.build("maglev")
        before = choices(fleet, policy)
        for i in (3, 7):
            {"down": fleet.down, "drain": lambda i: fleet.admin(i, DRAIN), "weight": lambda i: fleet.weigh(i, 0)}[how](
                i
            )
        assert choices(fleet, policy) == choices(fewer, fewer.build("maglev"))
        for i in (3, 7):
            fleet.up(i)
            fleet.admin(i, 0)
            fleet.weigh(i, 1)
        assert choices(fleet, policy) == before


def test_excluded_endpoint_is_as_good_as_removed():
    with Fleet([1] * 10, addresses=TEN) as fleet, Fleet([1] * 9, addresses=TEN[1:]) as nine:
        policy = fleet.build("maglev")
        assert [fleet.addresses[choose(policy, 0, key, 0)] for key in KEYS] == choices(nine, nine.build("maglev"))


@examples(40)
@given(members=memberships, data=st.data())
def test_removing_any_moves_only_its_slots(members, data):
    before = owners(members)
    gone = data.draw(st.sampled_from(members))
    rest = [member for member in members if member != gone]
    if any(weight for _, weight in rest):
        assert all(old in (new, gone[0]) for old, new in zip(before, owners(rest), strict=True))


@examples(40)
@given(members=memberships, data=st.data(), weight=st.integers(1, 20))
def test_new_weight_moves_slots_of_one_endpoint_only_and_one_way(members, data, weight):
    i = data.draw(st.integers(0, len(members) - 1))
    address, old_weight = members[i]
    before = owners(members)
    after = owners([*members[:i], (address, weight), *members[i + 1 :]])
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    gains = {new == address for _, new in moved}
    assert all(address in pair for pair in moved)
    assert gains <= ({True} if weight > old_weight else {False})


@examples(25)
@given(members=memberships, seed=st.integers(0, 99))
def test_order_of_endpoints_does_not_matter(members, seed):
    shuffled = members[:]
    random.Random(seed).shuffle(shuffled)
    assert owners(members) == owners(shuffled)


def reference_owner(members, slot):
    """The definition in lb/balancing/slots.pyx, without its table, its order of work or its integers' width."""
    one = 2**47
    best = None
    for address, weight in members:
        if weight == 0:
            continue
        place, shape = hash64_bytes(b"slot:" + address.encode()), hash64_bytes(b"shift:" + address.encode())
        offset, skip, shift = place % SLOTS, place // SLOTS % (SLOTS - 1) + 1, shape % SLOTS
        # Cube roots by Fermat: x**(1/3) is x**e with 3 e = 1 modulo SLOTS - 1.
        root = pow((slot - offset) * pow(skip, -1, SLOTS), pow(3, -1, SLOTS - 1), SLOTS)
        position = (root - shift) % SLOTS
        before = sum(one // (SLOTS - p) for p in range(position))
        claim = (before + (one // (SLOTS - position) * (shape >> 48) >> 16)) // weight, address
        best = claim if best is None else min(best, claim)
    return best[1]


@examples(15)
@given(members=memberships, keys=st.lists(st.integers(0, 2**64 - 1), min_size=5, max_size=5))
def test_slot_belongs_to_the_earliest_claim(members, keys):
    table = SlotTable(members)
    for key in keys:
        assert members[table.owner(key)][0] == reference_owner(members, key % SLOTS)


@pytest.mark.parametrize(
    "weights", [[1] * 2, [1] * 10, [1] * 100, [2, 1], [5, 1, 1], [1, 2, 3, 4], [100, 1], [1000] * 3]
)
def test_slots_are_shared_by_weight(weights):
    worst = 0.0
    for group in range(20):
        members = [(f"10.{group}.0.{i}:80", weight) for i, weight in enumerate(weights)]
        counts = Counter(owners(members))
        for address, weight in members:
            share = Fraction(weight * SLOTS, sum(weights))
            # In deviations of independent slots; claims from permutations deviate less.
            worst = max(worst, abs(counts[address] - share) / float(share) ** 0.5)
    assert worst < 4.5


def test_thousand_endpoints_all_get_some():
    counts = Counter(owners([(f"10.0.{i // 250}.{i % 250}:8000", 1) for i in range(1000)]))
    assert len(counts) == 1000
    assert max(counts.values()) < 1.6 * SLOTS / 1000


def test_workers_agree():
    with Fleet([1, 2, 3, 4], workers=2) as fleet:
        policies = [fleet.build("maglev", worker) for worker in range(2)]
        assert choices(fleet, policies[0]) == choices(fleet, policies[1])
        fleet.down(3)
        assert choices(fleet, policies[0]) == choices(fleet, policies[1])


def test_choice_does_not_depend_on_load_or_time():
    with Fleet([1] * 10) as fleet:
        policy = fleet.build("maglev")
        before = choices(fleet, policy)
        for i in range(10):
            fleet.load(i, 10 - i)
        assert [fleet.addresses[choose(policy, 2**40 + n, key)] for n, key in enumerate(KEYS)] == before


def test_same_after_a_restart():
    script = (
        "import json, sys; from lb.balancing.slots import SlotTable;"
        "table = SlotTable([tuple(m) for m in json.load(sys.stdin)]); print([table.owner(k) for k in range(65537)])"
    )
    members = [(address, 1 + i % 3) for i, address in enumerate(TEN)]
    table = SlotTable(members)
    for seed in ("0", "12345"):
        answer = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps(members),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert json.loads(answer) == [table.owner(key) for key in range(SLOTS)]


def test_same_as_in_earlier_versions():
    """A change here moves the clients of everyone who upgrades."""
    table = SlotTable([(address, 1) for address in TEN])
    pinned = [0, 0, 2, 2, 2, 7, 1, 4, 3, 4, 2, 3, 1, 8, 9, 9, 6, 5, 0, 0]
    assert [table.owner(key) for key in range(0, SLOTS, 3277)] == pinned


@pytest.mark.parametrize("weights", [[1, 1, 1], [0, 0, 0], [1, 0, 3]])
def test_weights_that_change_while_it_runs(weights):
    with Fleet(weights) as fleet:
        policy = fleet.build("maglev")
        for new in ([4, 1, 1], [4, 1, 7], [0, 1, 7], [2, 2, 2]):
            for i, weight in enumerate(new):
                fleet.weigh(i, weight)
            for key in KEYS[:3]:  # a round of choices
                choose(policy, 0, key)
            assert choices(fleet, policy) == choices(fleet, fleet.build("maglev"))


def test_nobody_has_a_weight():
    table = SlotTable([("a", 0), ("b", 0)])
    assert {table.owner(key) for key in range(100)} == {-1}
    assert SlotTable([]).owner(5) == -1


def test_wrong_arguments():
    with pytest.raises(ValueError, match="negative"):
        SlotTable([("a", -1)])
    with pytest.raises(ValueError, match="more than a table"):
        SlotTable([("a", 1)] * (MAX_MEMBERS + 1))


def test_largest_table():
    table = SlotTable([(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}:1", 1) for i in range(MAX_MEMBERS)])
    found = {table.owner(key) for key in range(SLOTS)}
    assert -1 not in found
    assert len(found) > 0.55 * MAX_MEMBERS
