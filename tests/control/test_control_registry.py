"""Slots and series: kept by name, never shared, freed when unused."""

from __future__ import annotations

import pytest
from compiled.shared_segment import add_inflight
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.control.registry import DRAIN, ENABLED, LINGER_NS, MAINTENANCE, Initial, Registry
from lb.errors import StartError
from lb.shared.segment import Segment


class Plans:
    """Compiles lists of endpoints, as a plan would."""

    def __init__(self, endpoints: int = 64, series: int = 64) -> None:
        self.segment = Segment.create(2, endpoints, series)
        self.worker = Segment.attach(__import__("os").dup(self.segment.fd), 0)
        self.registry = Registry(self.segment, endpoints, series)
        self.now = 0

    def __del__(self) -> None:
        self.worker.close()
        self.segment.close()

    def stage(self, weights: dict[str, int]) -> dict[int, Initial]:
        self.registry.begin()
        try:
            slots = {self.registry.endpoint("pool", a): Initial(w, True) for a, w in weights.items()}
            for address in weights:
                self.registry.series("endpoint", f"pool|{address}")
        except StartError:
            self.registry.rollback()
            raise
        self.registry.prepare(slots, self.now)
        return slots

    def apply(self, weights: dict[str, int]) -> dict[str, int]:
        self.registry.commit(self.stage(weights), self.now)
        return {address: slot for _, address, slot in self.registry.slots()}


def test_a_new_endpoint_is_ready_for_requests() -> None:
    plans = Plans()
    slot = plans.apply({"a:1": 5})["a:1"]
    segment = plans.segment
    assert (segment.health(slot), segment.admin(slot), segment.weight(slot)) == (1, ENABLED, 5)


def test_state_survives_and_only_a_changed_weight_is_written() -> None:
    plans = Plans()
    slot = plans.apply({"a:1": 5})["a:1"]
    plans.segment.set_health(slot, False, 1)
    plans.segment.set_weight(slot, 2)  # an operator's
    assert plans.apply({"b:1": 1, "a:1": 5})["a:1"] == slot
    assert (plans.segment.health(slot), plans.segment.weight(slot)) == (2, 2)
    plans.apply({"a:1": 9})
    assert plans.segment.weight(slot) == 9


def test_a_removed_endpoint_drains_before_its_slot_is_used_again() -> None:
    plans = Plans()
    slot = plans.apply({"a:1": 1})["a:1"]
    add_inflight(plans.worker, slot, 1)
    plans.apply({"b:1": 1})
    assert plans.segment.admin(slot) == DRAIN
    plans.now += LINGER_NS
    assert plans.registry.sweep(plans.now) == 1
    assert slot not in plans.apply({"b:1": 1, "c:1": 1}).values()
    add_inflight(plans.worker, slot, -1)
    assert plans.registry.sweep(plans.now) == 0
    assert plans.apply({"b:1": 1, "d:1": 1})["d:1"] == slot


def test_the_endpoints_of_a_pool_that_is_removed_serve_those_who_wait_for_it() -> None:
    plans = Plans()
    slot = plans.apply({"a:1": 1})["a:1"]
    plans.apply({})
    assert takes_requests(plans, slot)
    plans.now += LINGER_NS
    add_inflight(plans.worker, slot, 1)
    assert plans.registry.sweep(plans.now) == 1
    add_inflight(plans.worker, slot, -1)
    assert plans.registry.sweep(plans.now) == 0
    assert not takes_requests(plans, slot)


def test_an_endpoint_that_comes_back_in_time_gets_its_slot_and_is_enabled() -> None:
    plans = Plans()
    slot = plans.apply({"a:1": 1, "b:1": 1})["a:1"]
    plans.segment.set_health(slot, False, 1)
    plans.apply({"b:1": 1})
    assert plans.apply({"a:1": 1, "b:1": 1})["a:1"] == slot
    assert (plans.segment.admin(slot), plans.segment.health(slot)) == (ENABLED, 1)


def test_an_operators_drain_survives_a_reload() -> None:
    plans = Plans()
    slot = plans.apply({"a:1": 1})["a:1"]
    plans.segment.set_admin(slot, DRAIN)
    plans.apply({"a:1": 1, "b:1": 1})
    assert plans.segment.admin(slot) == DRAIN


def test_our_own_drain_ends_when_a_plan_names_the_endpoint_again() -> None:
    plans = Plans()
    slot = plans.apply({"a:1": 1})["a:1"]
    plans.registry.drain(slot)
    assert plans.segment.admin(slot) == DRAIN
    plans.apply({"a:1": 1})
    assert plans.segment.admin(slot) == ENABLED


def test_a_failed_plan_takes_nothing_and_retires_nothing() -> None:
    plans = Plans(endpoints=3)
    slot = plans.apply({"a:1": 1})["a:1"]
    for _ in range(10):
        plans.stage({"b:1": 1, "c:1": 1})
        plans.registry.rollback()
    with pytest.raises(StartError, match="too many endpoints"):
        plans.stage({f"{n}:1": 1 for n in range(4)})
    plans.now += LINGER_NS
    plans.registry.sweep(plans.now)
    assert plans.segment.admin(slot) == ENABLED
    assert plans.apply({"a:1": 1, "b:1": 1, "c:1": 1})["a:1"] == slot


def test_a_sweep_during_a_publication_leaves_what_comes_back() -> None:
    plans = Plans()
    slot = plans.apply({"a:1": 1})["a:1"]
    plans.apply({})
    staged = plans.stage({"a:1": 1})
    plans.now += LINGER_NS
    plans.registry.sweep(plans.now)
    plans.registry.commit(staged, plans.now)
    assert {address: s for _, address, s in plans.registry.slots()} == {"a:1": slot}


def test_series_are_cleared_before_they_are_used_again() -> None:
    plans = Plans()
    plans.apply({"a:1": 1})
    index = plans.registry.series_index("endpoint", "pool|a:1")
    plans.worker.add_series(index, 0, 7)
    plans.apply({})
    plans.now += LINGER_NS
    plans.registry.sweep(plans.now)
    plans.registry.sweep(plans.now)
    assert plans.segment.series_total(index)[0] == 0
    plans.apply({"b:1": 1})
    assert plans.registry.series_index("endpoint", "pool|b:1") == index


def test_a_busy_endpoint_that_was_removed_keeps_no_series_but_its_own() -> None:
    """A stream may go on for days, while discovery finds other endpoints every few seconds."""
    plans = Plans(endpoints=8, series=8)
    slot = plans.apply({"busy:1": 1})["busy:1"]
    index = plans.registry.series_index("endpoint", "pool|busy:1")
    add_inflight(plans.worker, slot, 1)
    for n in range(50):
        plans.apply({f"{n}:1": 1, f"{n}:2": 1})
        plans.now += LINGER_NS
        plans.registry.sweep(plans.now)
    assert plans.registry.series_index("endpoint", "pool|busy:1") == index
    add_inflight(plans.worker, slot, -1)
    plans.registry.sweep(plans.now)
    assert plans.registry.series_index("endpoint", "pool|busy:1") is None


def test_endpoints_that_keep_changing_keep_no_series_of_others() -> None:
    """There is always one that was removed just now."""
    plans = Plans(endpoints=16, series=16)
    for n in range(50):
        staged = plans.stage({f"{n}:1": 1})
        plans.registry.series("route", f"route-{n}")
        plans.registry.commit(staged, plans.now)
        plans.now += LINGER_NS // 4
        plans.registry.sweep(plans.now)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(0, 11)),
            st.booleans(),
            st.integers(0, LINGER_NS),
            st.dictionaries(st.integers(0, 11), st.integers(0, 2)),
        ),
        max_size=25,
    )
)
def test_no_two_endpoints_ever_share_a_slot(steps: list) -> None:
    """Also not with one whose requests still run."""
    plans = Plans(endpoints=40)
    running: dict[str, tuple[int, int]] = {}
    for names, succeeds, wait, load in steps:
        weights = {f"{n}:1": 1 for n in names}
        if succeeds:
            plans.apply(weights)
        else:
            plans.stage(weights)
            plans.registry.rollback()
        current = {address: slot for _, address, slot in plans.registry.slots()}
        if succeeds:
            assert current.keys() == weights.keys()
        assert len(set(current.values())) == len(current)
        for address, (slot, count) in running.items():
            assert plans.registry.slot("pool", address) == slot
            assert plans.segment.inflight(slot) == count
        for n, wanted in load.items():
            slot = plans.registry.slot("pool", f"{n}:1")
            if slot is not None:
                add_inflight(plans.worker, slot, wanted - running.get(f"{n}:1", (slot, 0))[1])
                running[f"{n}:1"] = (slot, wanted)
                if not wanted:
                    del running[f"{n}:1"]
        plans.now += wait
        plans.registry.sweep(plans.now)


def takes_requests(plans: Plans, slot: int) -> bool:
    segment = plans.segment
    return segment.health(slot) == 1 and segment.admin(slot) == ENABLED and segment.weight(slot) > 0


@pytest.mark.parametrize("before", [{"b:1": 1}, {"b:1": 1, "a:1": 0}])
def test_what_comes_back_takes_requests_before_the_plan_is_committed(before: dict[str, int]) -> None:
    """A worker has the plan before the commit; were its only endpoint still drained, it would refuse everything."""
    plans = Plans()
    slot = plans.apply({"a:1": 1, "b:1": 1})["a:1"]
    plans.apply(before)
    assert not takes_requests(plans, slot)
    staged = plans.stage({"a:1": 3})
    assert takes_requests(plans, slot)
    plans.registry.rollback()
    assert not takes_requests(plans, slot)
    assert plans.stage({"a:1": 3}) == staged
    plans.registry.commit(staged, plans.now)
    assert takes_requests(plans, slot)
    assert plans.segment.weight(slot) == 3


def test_what_is_drained_while_workers_take_the_plan_stays_so() -> None:
    plans = Plans()
    slot = plans.apply({"a:1": 1})["a:1"]
    staged = plans.stage({"a:1": 1})
    plans.registry.drain(slot)
    plans.registry.commit(staged, plans.now)
    assert plans.segment.admin(slot) == DRAIN
    plans.apply({"a:1": 1})
    assert plans.segment.admin(slot) == ENABLED


def test_an_operators_word_comes_before_and_after_our_own() -> None:
    plans = Plans()
    slot = plans.apply({"a": 1, "b": 1})["a"]
    plans.registry.operate(slot, MAINTENANCE)
    assert plans.segment.admin(slot) == MAINTENANCE
    assert plans.registry.in_maintenance(slot)
    # Removed, it is drained by us; it comes back as the operator left it.
    plans.apply({"b": 1})
    assert plans.segment.admin(slot) == DRAIN
    plans.registry.operate(slot, DRAIN)
    assert plans.apply({"a": 1, "b": 1})["a"] == slot
    assert plans.segment.admin(slot) == DRAIN
    plans.registry.operate(slot, ENABLED)
    assert plans.segment.admin(slot) == ENABLED
    # Enabled by an operator while it is drained by us: it stays so until a plan names it.
    plans.apply({"b": 1})
    plans.registry.operate(slot, ENABLED)
    assert plans.segment.admin(slot) == DRAIN


def test_an_operators_word_ends_with_the_endpoint() -> None:
    plans = Plans()
    slot = plans.apply({"a": 1, "b": 1})["a"]
    plans.registry.operate(slot, MAINTENANCE)
    plans.apply({"b": 1})
    plans.registry.sweep(10 * LINGER_NS)
    assert plans.apply({"c": 1, "b": 1})["c"] == slot
    assert plans.segment.admin(slot) == ENABLED
    assert not plans.registry.in_maintenance(slot)


def test_an_operators_weight_holds_until_the_configurations_changes() -> None:
    plans = Plans()
    slot = plans.apply({"a": 2, "b": 1})["a"]
    plans.registry.operate_weight(slot, 7)
    plans.apply({"a": 2, "b": 1})
    assert plans.segment.weight(slot) == 7
    plans.registry.operate_weight(slot, None)
    assert plans.segment.weight(slot) == 2
    plans.registry.operate_weight(slot, 7)
    plans.apply({"a": 3, "b": 1})
    assert plans.segment.weight(slot) == 3
