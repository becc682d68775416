"""What every rule keeps, whatever the load: a suite for each, by `class TestMine(ScalerContract)` with `make`."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from looks import MINUTE, SECOND, START, Pool, of, traffic
from property import examples

from lb.scaling.scaler import Look, Scaler

LOADS = st.lists(st.tuples(st.none() | st.floats(0, 200) | st.just(0.0), st.integers(1, 200)), min_size=1, max_size=8)


class ScalerContract:
    """`make()` gives the rule with settings under which the load of `looks.Pool` means something to it."""

    NAME = ""
    PER_REPLICA = 1.0  # load at which one replica is as busy as the rule wants it
    SETTLES = 90 * MINUTE  # time in which it has come to rest after any load

    def make(self) -> Scaler:
        raise NotImplementedError

    def test_has_the_name_of_the_configuration(self) -> None:
        assert self.make().name == self.NAME

    def test_a_decision_needs_a_look(self) -> None:
        with pytest.raises(ValueError, match="look"):
            self.make().decide(START)

    @examples(25)
    @given(LOADS, st.integers(0, 5), st.integers(0, 50))
    def test_never_beyond_the_limits(self, loads: Any, low: int, span: int) -> None:
        pool = Pool(self.make(), max(low, 1), low, max(1, low + span))
        for load, seconds in loads:
            for _ in range(seconds):
                decision = pool.second(load)
                if decision is not None:
                    assert pool.minimum <= decision.replicas <= pool.maximum
                    assert decision.reason

    @examples(25)
    @given(LOADS, st.integers(1, 400))
    def test_never_in_while_signals_are_missing(self, loads: Any, seconds: int) -> None:
        pool = Pool(self.make(), 10, 1, 100)
        for load, so_long in loads:
            pool.run(so_long, load)
        before = pool.wanted
        pool.second(None)
        assert pool.wanted >= before  # the decision of that moment
        for _ in range(seconds):
            held = pool.wanted
            pool.second(None)
            assert pool.wanted >= held

    def test_never_in_on_a_look_that_is_old(self) -> None:
        pool = Pool(self.make(), 10, 1, 100)
        pool.run(self.SETTLES // SECOND // 2, 10 * self.PER_REPLICA)
        wanted = pool.wanted
        for minute in range(1, 60):
            assert pool.rule.decide(pool.now + minute * MINUTE).replicas >= wanted

    def test_without_load_it_comes_down_to_the_minimum(self) -> None:
        pool = Pool(self.make(), 3, 2, 100)
        pool.run(MINUTE // SECOND, 3 * self.PER_REPLICA)
        assert pool.run(self.SETTLES // SECOND, 0.0) == 2

    def test_with_more_load_than_anything_carries_it_goes_to_the_maximum(self) -> None:
        pool = Pool(self.make(), 1, 1, 12)
        assert pool.run(self.SETTLES // SECOND, 1000 * self.PER_REPLICA) == 12

    def test_limits_that_have_changed_hold_at_the_next_decision(self) -> None:
        for load in (5 * self.PER_REPLICA, None):
            pool = Pool(self.make(), 5, 1, 100)
            pool.run(30, load)
            pool.minimum, pool.maximum = 8, 9
            assert pool.run(self.rule_seconds(), load) in (8, 9)
            pool.minimum, pool.maximum = 1, 2
            assert pool.run(self.rule_seconds(), load) in (1, 2)

    def test_noise_does_not_make_it_flap(self) -> None:
        random_ = random.Random(1)
        pool = Pool(self.make(), 4, 1, 100)
        # In the middle between two numbers of replicas, so that noise alone asks for no other.
        for _ in range(self.SETTLES // SECOND):
            pool.second(3.5 * self.PER_REPLICA * random_.uniform(0.9, 1.1))
        pool.changes.clear()
        for _ in range(3600):
            pool.second(3.5 * self.PER_REPLICA * random_.uniform(0.9, 1.1))
        assert len(pool.changes) <= 1

    def test_equal_looks_give_equal_decisions(self) -> None:
        def run() -> list[int]:
            pool = Pool(self.make(), 2, 1, 50)
            for load in (2.0, 9.0, None, 30.0, 0.0):
                pool.run(200, None if load is None else load * self.PER_REPLICA)
            return pool.changes

        assert run() == run()

    def test_what_it_has_learned_is_plain(self) -> None:
        pool = Pool(self.make(), 2, 1, 50)
        pool.run(120, 4 * self.PER_REPLICA)
        for name, value in pool.rule.learned().items():
            assert isinstance(name, str)
            assert value is None or isinstance(value, bool | int | float | str | list)

    def test_its_memory_is_taken_over(self) -> None:
        pool = Pool(self.make(), 2, 1, 50)
        pool.run(600, 4 * self.PER_REPLICA)
        memory, heir = pool.rule.memory(), self.make()
        heir.restore(memory)
        assert heir.memory() == memory

    def test_bytes_that_are_no_memory_are_refused(self) -> None:
        for memory in (b"\xff\xff\xff", b"{"):
            with pytest.raises(ValueError, match=r"."):
                self.make().restore(memory)

    def test_a_start_does_not_remove_at_once(self) -> None:
        look = Look(START, 10, 10, 1, 100, traffic=traffic(0.0))
        assert of(self.make(), look).replicas == 10

    def rule_seconds(self) -> int:
        return self.make().interval // SECOND + 1
