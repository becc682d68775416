"""Policies over endpoints whose ejection state and share have a say (EndpointSet.shape)."""

from __future__ import annotations

from collections import Counter

import pytest
from fleet import MAINTENANCE, Fleet, choose

from lb.balancing import registry
from lb.balancing.guard import Guard
from lb.balancing.options import PolicyOptions
from lb.balancing.policy import Policy
from lb.endpoints.ejection_state import EjectionStates
from lb.endpoints.set import EndpointSet
from lb.errors import TidegateError
from lb.shared.hashing import hash64_bytes

HASHES = ("maglev", "ring_hash", "rendezvous")
KEYS = [hash64_bytes(b"key %d" % i) for i in range(2000)]
REASON = 1


def owners(policy, group=-1):
    return [choose(policy, 0, key, group=group) for key in KEYS]


@pytest.mark.parametrize("name", HASHES)
def test_an_ejection_moves_the_keys_of_the_ejected_only_and_its_end_brings_them_back(name):
    with Fleet([1, 2, 1, 3, 1, 1]) as fleet:
        states = EjectionStates(fleet.master, fleet.slots)
        fleet.sets[0].shape(True, 10**6)
        policy = fleet.build(name)
        before = owners(policy)
        assert states.eject_endpoint(3, REASON, 2)
        during = owners(policy)
        assert all(now == then for now, then in zip(during, before, strict=True) if then != 3)
        assert 3 not in during
        moved = Counter(now for now, then in zip(during, before, strict=True) if then == 3)
        assert set(moved) == {0, 1, 2, 4, 5}, "spread over all others"
        states.begin_probation(3, 1)
        assert owners(policy) == before
        states.reinstate(3)
        assert owners(policy) == before


@pytest.mark.parametrize("name", HASHES)
def test_a_part_of_a_share_moves_no_keys(name):
    with Fleet([1, 2, 1]) as fleet:
        states = EjectionStates(fleet.master, fleet.slots)
        fleet.sets[0].shape(True, 1)
        policy = fleet.build(name)
        before = owners(policy)
        states.hold_back(1, 900, False)
        assert owners(policy) == before


@pytest.mark.parametrize("name", sorted(set(registry.POLICIES)))
def test_nobody_who_is_ejected_is_chosen_unless_there_is_a_panic(name):
    with Fleet([1, 1, 1, 1]) as fleet:
        states = EjectionStates(fleet.master, fleet.slots)
        fleet.sets[0].shape(name in HASHES, 1)
        policy = fleet.build(name, **({"fill": 2} if name == "first" else {}))
        assert states.eject_endpoint(0, REASON, 3)
        assert states.eject_endpoint(2, REASON, 3)
        assert {choose(policy, i, KEYS[i]) for i in range(200)} <= {1, 3}
        assert choose(policy, 0, KEYS[0], 1) == 3
        for i in (1, 3):
            assert states.eject_endpoint(i, REASON, 4)
        assert choose(policy, 0, KEYS[0]) == -1
        for i in range(4):
            states.hold_back(i, 0, True)
        assert all(0 <= choose(policy, i, KEYS[i]) < 4 for i in range(200))


@pytest.mark.parametrize(("name", "slack"), [("round_robin", 0.01), ("random", 0.15), ("power_of_two", 0.15)])
def test_a_part_of_a_share_is_that_part_of_the_requests(name, slack):
    """Of endpoints of weights 2, 1 and 1, the first has a tenth of its own: 0.2, 1 and 1 of 2.2."""
    with Fleet([2, 1, 1]) as fleet:
        fleet.sets[0].shape(False, 1)
        EjectionStates(fleet.master, fleet.slots).hold_back(0, 900, False)
        policy = fleet.build(name, **({"choices": 2} if name == "power_of_two" else {}))
        counts = Counter(choose(policy, 0, 0) for _ in range(20_000))
        for i, weight in enumerate((0.2, 1, 1)):
            assert counts[i] == pytest.approx(20_000 * weight / 2.2, rel=slack)


def test_least_request_keeps_loads_in_proportion_to_shares():
    with Fleet([1, 1, 1]) as fleet:
        fleet.sets[0].shape(False, 1)
        EjectionStates(fleet.master, fleet.slots).hold_back(0, 750, False)
        policy = fleet.build("least_request")
        for _ in range(90):
            fleet.load(choose(policy, 0, 0), 1)
        assert [fleet.sets[0].inflight(i) for i in range(3)] == [10, 40, 40]


def test_first_fills_by_shares():
    with Fleet([1, 1]) as fleet:
        fleet.sets[0].shape(False, 1)
        EjectionStates(fleet.master, fleet.slots).hold_back(0, 500, False)
        policy = fleet.build("first", fill=4)
        picks = []
        for _ in range(6):
            picks.append(choose(policy, 0, 0))
            fleet.load(picks[-1], 1)
        assert picks == [0, 0, 1, 1, 1, 1]


def test_round_robin_gives_the_least_share_its_turns_while_it_grows():
    """A step of the share after every ten requests, far fewer than a round of shares has."""
    with Fleet([1] * 4) as fleet:
        fleet.sets[0].shape(False, 1)
        states = EjectionStates(fleet.master, fleet.slots)
        policy = fleet.build("round_robin")
        counts, wanted = Counter(), 0.0
        for share in range(100, 1000, 5):
            states.hold_back(0, 1000 - share, False)
            counts += Counter(choose(policy, 0, 0) for _ in range(10))
            wanted += 10 * share / (3000 + share)
        assert counts[0] == pytest.approx(wanted, rel=0.05)
        assert max(counts[i] for i in (1, 2, 3)) - min(counts[i] for i in (1, 2, 3)) <= 5


@pytest.mark.parametrize("name", sorted(set(registry.POLICIES)))
def test_only_endpoints_of_the_group_are_chosen(name):
    """Whichever group the request before was for."""
    with Fleet([1, 2, 1, 3, 1, 2]) as fleet:
        endpoints = fleet.sets[0]
        endpoints.shape(name in HASHES, 1)
        endpoints.divide([0, 0, 2, 2, 2, 5])
        policy = fleet.build(name, **({"fill": 2} if name == "first" else {}))
        members = {0: {0, 1}, 2: {2, 3, 4}, 5: {5}, 4: {-1}, -1: set(range(6))}
        seen: dict[int, set[int]] = {group: set() for group in members}
        for key in KEYS[:400]:
            for group in members:
                chosen = choose(policy, 1, key, group=group)
                seen[group].add(chosen)
                # So that all have their turn, whatever the policy looks at.
                if chosen >= 0:
                    fleet.load(chosen, 1)
        assert all(seen[group] <= members[group] for group in members)
        assert all(seen.values())
        assert choose(policy, 1, KEYS[0], 5) != 5
        assert choose(policy, 1, KEYS[0], 5, group=5) == 5, "the excluded one, where there is nobody else"


@pytest.mark.parametrize("name", HASHES)
def test_keys_of_a_group_stay_whatever_becomes_of_others(name):
    with Fleet([1, 2, 1, 3, 1, 2]) as fleet:
        endpoints = fleet.sets[0]
        endpoints.shape(True, 1)
        endpoints.divide([0, 0, 0, 2, 2, 2])
        policy = fleet.build(name)
        before = owners(policy, 0)
        assert set(before) == {0, 1, 2}
        fleet.down(4)
        fleet.weigh(3, 7)
        assert owners(policy, 0) == before
        fleet.down(1)
        during = owners(policy, 0)
        assert all(now == then for now, then in zip(during, before, strict=True) if then != 1)
        assert set(during) == {0, 2}


class Turns(Policy):
    """As a plug-in's."""

    def pick(self, choice):
        self.rotation += 1
        return (self.rotation - 1) % self.endpoints.size


def test_a_plug_in_cannot_choose_who_gets_no_requests():
    with Fleet([1, 1]) as fleet:
        limited = EndpointSet(fleet.segments[0], fleet.addresses, fleet.slots, [0, 1])
        guard = Guard(limited, Turns(limited, PolicyOptions()), "turns")
        fleet.load(1, 1)
        assert [choose(guard, 1, 0) for _ in range(2)] == [0, 1], "at its limit it is the pool that waits"
        fleet.down(1)
        assert [choose(guard, 1, 0) for _ in range(3)] == [0, 0, 0], "asked again, it may know better"
        fleet.admin(0, MAINTENANCE)
        with pytest.raises(TidegateError, match=r"'turns' chose 192\.0\.2\.0:900[01], which is not available"):
            choose(guard, 1, 0)


def test_the_turn_of_a_plug_in_is_that_of_its_guard():
    """Whoever lets it choose among several groups sees only the guard."""
    with Fleet([1, 1, 1, 1]) as fleet:
        guard = Guard(fleet.sets[0], Turns(fleet.sets[0], PolicyOptions()), "turns")
        picked = []
        kept = {"one": 0, "other": 2}
        for turn in ("one", "other", "one", "one", "other"):
            guard.rotation = kept[turn]
            picked.append(choose(guard, 1, 0))
            kept[turn] = guard.rotation
        assert picked == [0, 2, 1, 2, 3]
