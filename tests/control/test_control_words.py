"""AgentState of agents: how they add up, and what they make of an endpoint's weight and state beside an operator's."""

from __future__ import annotations

import pytest

from lb.control.endpoints.agent_state import SILENT
from lb.control.registry import DRAIN, ENABLED, LINGER_NS, MAINTENANCE, NO_ADVICE, Advice, Initial, Registry, scaled
from lb.health.agent import parse
from lb.shared.segment import Segment


def test_what_a_line_does_not_speak_of_stays() -> None:
    words = SILENT.with_answer(parse(b"down #disk"))
    assert (words.down, words.reason) == (True, "its agent says down: disk")
    words = words.with_answer(parse(b"50% drain maxconn:3"))
    assert words.describe() == {
        "health": "down", "description": "disk", "admin": "drain", "weight_percent": 50, "max_in_flight": 3,
    }  # fmt: skip
    words = words.with_answer(parse(b"up ready"))
    assert (words.down, words.description, words.admin, words.percent) == (False, "", ENABLED, 50)
    assert not SILENT.down


@pytest.mark.parametrize(
    ("weight", "percent", "result"),
    [(100, 100, 100), (100, 50, 50), (1, 50, 1), (3, 50, 1), (10, 1, 1), (10, 0, 0), (0, 100, 0), (0, 256, 0),
     (100, 256, 256), (1000, 256, 1000), (1, 999999999, 1000)],
)  # fmt: skip
def test_a_percentage_of_a_weight(weight: int, percent: int, result: int) -> None:
    assert scaled(weight, percent) == result


class Rig:
    def __init__(self) -> None:
        self.segment = Segment.create(1, 8, 8)
        self.registry = Registry(self.segment, 8, 8)
        self.slot = self.plan(100)

    def plan(self, weight: int | None) -> int:
        """With a weight, `a:1` is in the pool; another endpoint always is. The slot of the first."""
        self.registry.begin()
        slots = {} if weight is None else {self.registry.endpoint("pool", "a:1"): Initial(weight, True)}
        slots[self.registry.endpoint("pool", "b:1")] = Initial(100, True)
        self.registry.prepare(slots, 0)
        self.registry.commit(slots, 0)
        return next(iter(slots))

    def state(self) -> tuple[int, int]:
        return self.segment.admin(self.slot), self.segment.weight(self.slot)


def test_operator_and_agent_each_keep_requests_away_until_they_take_it_back() -> None:
    rig = Rig()
    rig.registry.advise(rig.slot, Advice(DRAIN))
    rig.registry.operate(rig.slot, ENABLED)
    assert rig.state() == (DRAIN, 100)
    rig.registry.operate(rig.slot, MAINTENANCE)
    assert rig.state() == (MAINTENANCE, 100)
    rig.registry.advise(rig.slot, NO_ADVICE)
    assert rig.state() == (MAINTENANCE, 100)
    rig.registry.advise(rig.slot, Advice(MAINTENANCE))
    rig.registry.operate(rig.slot, ENABLED)
    assert rig.registry.in_maintenance(rig.slot)
    rig.registry.advise(rig.slot, NO_ADVICE)
    assert rig.state() == (ENABLED, 100)


def test_the_percentage_is_of_the_operators_weight_or_the_configurations() -> None:
    rig = Rig()
    rig.registry.advise(rig.slot, Advice(percent=50))
    assert rig.state() == (ENABLED, 50)
    rig.registry.operate_weight(rig.slot, 40)
    assert rig.state() == (ENABLED, 20)
    rig.plan(100)
    assert rig.state() == (ENABLED, 20)
    rig.plan(80)
    assert rig.state() == (ENABLED, 40)
    rig.registry.operate_weight(rig.slot, 10)
    rig.registry.operate_weight(rig.slot, None)
    assert rig.state() == (ENABLED, 40)
    rig.registry.advise(rig.slot, NO_ADVICE)
    assert rig.state() == (ENABLED, 80)


def test_a_freed_record_knows_nothing_of_the_agent_it_had() -> None:
    rig = Rig()
    rig.registry.advise(rig.slot, Advice(MAINTENANCE, 50))
    rig.plan(None)
    assert rig.state() == (DRAIN, 50), "it is drained by us, whatever its agent says"
    rig.registry.sweep(LINGER_NS)
    assert rig.plan(100) == rig.slot
    assert rig.state() == (ENABLED, 100)
