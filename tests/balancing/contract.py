"""What every balancing policy must do, whatever its algorithm. A member's test class derives from PolicyContract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from compiled.endpoint_set import acquire, note_attempt_at, release
from fleet import DRAIN, ENABLED, MAINTENANCE, Fleet, choose, choose_in_turn
from hypothesis import given
from hypothesis import strategies as st
from property import examples

from lb.balancing.policy import Policy
from lb.endpoints.choice import Choice

KEYS = [0, 1, 65_536, 65_537, 2**32 + 5, 2**64 - 1, *(n * 0x9E3779B97F4A7C15 % 2**64 for n in range(1, 60))]

MS = 1_000_000

endpoint_states = st.tuples(
    st.sampled_from([0, 1, 1, 2, 7, 1000]),  # weight
    st.sampled_from([True, True, False]),  # healthy
    st.sampled_from([ENABLED, ENABLED, DRAIN, MAINTENANCE]),
)


class PolicyContract:
    policy: str
    options: dict[str, object] = {}
    weighed = False

    def fleet(self, weights: Sequence[int], **options: Any) -> Fleet:
        return Fleet(weights, weighed=self.weighed, **options)

    def build(self, fleet: Fleet, worker: int = 0) -> Policy:
        return fleet.build(self.policy, worker, **self.options)

    @examples(40)
    @given(
        costs=st.lists(st.floats(0.001, 100), min_size=1, max_size=40), choices=st.lists(st.integers(0, 7), max_size=80)
    )
    def test_what_requests_cost_is_given_back(self, costs, choices):
        with self.fleet([1, 2, 1]) as fleet:
            policy, endpoints = self.build(fleet), fleet.sets[0]
            held: list[tuple[int, int]] = []
            for now, choice in enumerate(choices):
                if choice < 5 or not held:
                    cost = costs[now % len(costs)]
                    index = choose(policy, now, now, cost=cost)
                    held.append((index, acquire(endpoints, index, cost)))
                else:
                    index, charged = held.pop(choice % len(held))
                    release(endpoints, index, charged)
                    policy.learn(index, now, 1000 + now, choice != 6, 1 + len(held), max(charged, 1))
                assert [fleet.master.inflight(slot) for slot in fleet.slots] == [
                    sum(index == i for index, _ in held) for i in range(3)
                ]
            assert all((endpoints.load(i) > 0) == any(index == i for index, _ in held) for i in range(3))
            for index, charged in held:
                release(endpoints, index, charged)
            assert [endpoints.load(i) for i in range(3)] == [0, 0, 0]

    # One test for several members on purpose: each runs all of it.
    @examples(60)
    @given(
        before=st.lists(endpoint_states, max_size=8),
        after=st.lists(endpoint_states, min_size=8, max_size=8),
        loads=st.lists(st.integers(0, 5), min_size=8, max_size=8),
        exclude=st.integers(-1, 9),
    )
    def test_picks_an_available_endpoint_or_none(self, before, after, loads, exclude):
        with self.fleet([weight for weight, _, _ in before]) as fleet:
            policy = self.build(fleet)
            for states in (before, after[: len(before)]):
                for i, (weight, healthy, admin) in enumerate(states):
                    fleet.weigh(i, weight)
                    (fleet.up if healthy else fleet.down)(i)
                    fleet.admin(i, admin)
                    fleet.load(i, loads[i])
                    fleet.charge(i, loads[i] * 0.7)
                available = fleet.available
                assert available == {i for i, (w, h, a) in enumerate(states) if w and h and a == ENABLED}
                for now, key in enumerate(KEYS):
                    assert choose(policy, now, key) in (available or {-1})
                    assert choose(policy, now, key, exclude) in (available - {exclude} or available or {-1})

    @examples(40)
    @given(
        states=st.lists(endpoint_states, min_size=1, max_size=8),
        loads=st.lists(st.integers(0, 5), min_size=8, max_size=8),
        exclude=st.integers(-1, 9),
        key=st.sampled_from(KEYS),
    )
    def test_explains_its_choice_and_changes_nothing(self, states, loads, exclude, key):
        with self.fleet([weight for weight, _, _ in states]) as fleet:
            for i, (_, healthy, admin) in enumerate(states):
                (fleet.up if healthy else fleet.down)(i)
                fleet.admin(i, admin)
                fleet.load(i, loads[i])
                fleet.charge(i, loads[i] * 0.7)
            policy, other = self.build(fleet), self.build(fleet)
            for turn in range(9):
                explained = policy.explain(Choice(policy.endpoints, turn, key, exclude))
                assert explained.rule
                indices = [score.index for score in explained.scores]
                picked, expected = choose(policy, turn, key, exclude), choose(other, turn, key, exclude)
                if not explained.random:
                    assert picked == expected, "being asked changed it"
                if indices:
                    assert indices == sorted(fleet.available - {exclude})
                    assert picked in (indices if explained.random else explained.best())

    def test_explains_its_choice_after_a_change_of_weights(self):
        with Fleet([1, 2, 3, 4]) as fleet:
            policy = self.build(fleet)
            for turn, key in enumerate(KEYS):
                fleet.weigh(turn % 4, 1 + turn % 7)
                explained = policy.explain(Choice(policy.endpoints, turn, key, -1))
                picked = choose(policy, turn, key)
                assert explained.random or picked in explained.best() or not explained.scores

    def test_no_endpoints(self):
        with self.fleet([]) as fleet:
            policy = self.build(fleet)
            assert [choose(policy, 0, key, exclude) for key in KEYS for exclude in (-1, 0)] == [-1] * 2 * len(KEYS)

    def test_one_endpoint(self):
        with self.fleet([3]) as fleet:
            policy = self.build(fleet)
            assert {choose(policy, 0, key, exclude) for key in KEYS for exclude in (-1, 0)} == {0}
            fleet.down(0)
            assert {choose(policy, 0, key, exclude) for key in KEYS for exclude in (-1, 0)} == {-1}
            fleet.up(0)
            assert {choose(policy, 0, key) for key in KEYS} == {0}

    def test_excluded_endpoint_is_chosen_when_it_is_the_last(self):
        with self.fleet([1, 1, 1]) as fleet:
            policy = self.build(fleet)
            fleet.down(0)
            assert {choose(policy, 0, key, 1) for key in KEYS} == {2}
            fleet.admin(2, DRAIN)
            assert {choose(policy, 0, key, 1) for key in KEYS} == {1}
            fleet.weigh(1, 0)
            assert {choose(policy, 0, key, 1) for key in KEYS} == {-1}

    def test_endpoint_that_comes_up_later_is_chosen(self):
        with self.fleet([0] * 20) as fleet:
            policy = self.build(fleet)
            assert {choose(policy, 0, key) for key in KEYS} == {-1}
            fleet.weigh(13, 4)
            assert [choose(policy, 0, key) for key in KEYS] == [13] * len(KEYS)

    def test_thousand_endpoints(self):
        with self.fleet([1] * 1000) as fleet:
            policy = self.build(fleet)
            assert all(0 <= choose(policy, 0, key) < 1000 for key in KEYS)
            for i in range(1000):
                if i not in (17, 801):
                    fleet.down(i)
            assert {choose(policy, 0, key) for key in KEYS} <= {17, 801}
            assert {choose(policy, 0, key, 17) for key in KEYS} == {801}

    @pytest.mark.parametrize("weight", [1, 2, 1000, 2**31 - 1, 2**32 - 1])
    def test_any_weight(self, weight):
        with self.fleet([weight, weight, 1]) as fleet:
            policy = self.build(fleet)
            assert {choose(policy, 0, key) for key in KEYS} <= {0, 1, 2}
            fleet.down(0)
            fleet.down(1)
            assert {choose(policy, 0, key) for key in KEYS} == {2}

    def test_counts_nothing_itself(self):
        with self.fleet([1, 2, 3], workers=2) as fleet:
            policy = self.build(fleet)
            for key in KEYS:
                index = choose(policy, 0, key)
                policy.observe(index, 10, 5, True)
                policy.observe(index, 11, 5, False)
            assert [fleet.sets[1].inflight(i) for i in range(3)] == [0, 0, 0]

    def test_knows_its_endpoints(self):
        with self.fleet([1, 2]) as fleet:
            assert self.build(fleet).endpoints is fleet.sets[0]

    # An endpoint that fails at once is idle and fast to whatever a policy goes by.

    def serve(self, policy: Policy, fleet: Fleet, now: int, bad: set[int], requests: int) -> tuple[int, list[int]]:
        """Lets `requests` come one after another from `now` on; those at `bad` endpoints fail within a millisecond and
        are tried again at another, which takes ten. When the last is over, and which endpoints were asked first."""
        endpoints = fleet.sets[0]
        asked = []
        for request in range(requests):
            key = KEYS[request % len(KEYS)] ^ request << 7 if request % 2 else 0
            exclude = -1
            while True:
                index = choose_in_turn(policy, now, key, exclude)
                if exclude < 0:
                    asked.append(index)
                charged, began = acquire(endpoints, index), now
                now += MS if index in bad else 10 * MS
                release(endpoints, index, charged if self.weighed else 0)
                note_attempt_at(endpoints, index, index in bad, now)
                policy.learn(index, now, now - began, index not in bad, 1, endpoints.one)
                if index not in bad or exclude >= 0:
                    break
                exclude = index
        return now, asked

    def test_an_endpoint_that_fails_at_once_gets_few_first_attempts_and_heals(self):
        with self.fleet([1, 1]) as fleet:
            policy = self.build(fleet)
            now, asked = self.serve(policy, fleet, 1000 * MS, {0}, 600)
            assert asked.count(0) <= 60, "one of two would have had 300"
            assert fleet.sets[0].failing(0, now) > 0.5
            now, asked = self.serve(policy, fleet, now, set(), 3000)
            assert fleet.sets[0].turns(0, now) == 1.0, "it was not found out that it is well again"
            now, asked = self.serve(policy, fleet, now, {1}, 600)
            assert asked.count(1) <= 60

    def test_failures_are_seen_by_all_workers(self):
        with self.fleet([1, 1, 1], workers=2) as fleet:
            policy = self.build(fleet)
            for _ in range(20):
                note_attempt_at(fleet.sets[1], 1, True, 1000 * MS)
            picked = [choose_in_turn(policy, 1000 * MS, key) for key in KEYS * 10]
            assert picked.count(1) <= len(picked) // 20

    def test_where_all_fail_the_policy_has_its_way(self):
        with self.fleet([1, 1, 1]) as fleet:
            policy, other = self.build(fleet), self.build(fleet)
            for i in range(3):
                for _ in range(20):
                    note_attempt_at(fleet.sets[0], i, True, MS)
            assert {choose_in_turn(policy, MS, key) for key in KEYS} <= {0, 1, 2}
            fleet.down(0)
            fleet.down(1)
            assert {choose_in_turn(policy, MS, key) for key in KEYS} == {2}
            assert {choose_in_turn(policy, MS, key, 2) for key in KEYS} == {2}
            assert choose(other, MS, 0, 2) == 2
