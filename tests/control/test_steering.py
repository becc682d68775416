"""When a pool is in a panic, and what is said of it: whom an operator took out does not count."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from lb.clock import ManualClock
from lb.config.plan.compile import compile_plan
from lb.config.schema.file import Config
from lb.control.endpoints import targets
from lb.control.endpoints.steering import Steering
from lb.control.registry import DRAIN, Registry
from lb.endpoints.ejection_state import EjectionStates
from lb.shared.segment import Segment


class Rig:
    """A pool of endpoints, one for each of `priorities`, in slots from 0."""

    def __init__(self, priorities: list[int], settings: dict[str, Any]) -> None:
        self.known: set[int] = set()  # slots whose checks were good once
        self.doubted: set[int] = set()  # slots whose checks time out
        self.settings = settings
        self.segment = Segment.create(1, 128, 256)
        self.registry = Registry(self.segment, 128, 256)
        self.clock = ManualClock(1_000_000_000)
        self.steering = Steering(
            self.segment,
            self.clock,
            lambda pool, address, slot: slot in self.known,
            lambda pool, address, slot: slot in self.doubted,
        )
        self.have(*priorities)

    def have(self, *priorities: int) -> None:
        """From now on these are the endpoints."""
        endpoints = [{"address": f"10.0.0.{i}:80", "priority": p} for i, p in enumerate(priorities)]
        pool = {"protocol": "http", "endpoints": endpoints, "panic_threshold": 50, **self.settings}
        pool = {key: value for key, value in pool.items() if value is not None}
        config = Config.model_validate({"listeners": {}, "pools": {"app": pool}})
        self.registry.begin()
        plan = compile_plan(config, generation=1, workers=1, allocator=self.registry, managed={})
        self.registry.prepare(dict(targets.initial(plan, config)), 1)
        self.registry.commit(dict(targets.initial(plan, config)), 1)
        self.steering.update(plan, config)

    def up(self, *slots: int) -> None:
        for slot in slots:
            self.known.add(slot)
            self.segment.set_health(slot, True, 1)
        self.steering.look()

    def panicking(self) -> list[bool]:
        return [row["panic"] for row in self.status["endpoints"].values()]

    def down(self, *slots: int) -> None:
        for slot in slots:
            self.segment.set_health(slot, False, 1)
        self.steering.look()

    @property
    def status(self) -> dict[str, Any]:
        found = self.steering.status("app")
        assert found is not None
        return found


@pytest.fixture
def rig(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    caplog.set_level(logging.INFO, "tidegate.health")
    made: list[Rig] = []

    def make(*priorities: int, **settings: Any) -> Rig:
        made.append(Rig(list(priorities), settings))
        return made[-1]

    yield make
    for one in made:
        one.segment.close()


def test_who_was_taken_out_does_not_count(rig: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool = rig(0, 0, 0, 0)
    pool.registry.operate(0, DRAIN)
    pool.registry.operate_weight(1, 0)
    pool.down(2)
    assert not pool.status["panic"], "one of two is healthy"
    pool.registry.operate(3, DRAIN)
    pool.steering.look()
    assert pool.status["panic"], "the only one that may have requests is down"
    pool.registry.operate_weight(1, None)
    pool.steering.look()
    assert [record.message for record in caplog.records] == [
        "pool app is in a panic: all endpoints get requests, 0 of 1 are healthy",
        "pool app is no longer in a panic, 1 of 2 are healthy",
    ]
    assert pool.status["panics"] == 1


def test_who_is_surely_down_gets_nothing_in_a_panic_of_the_default(rig: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool = rig(0, 0, 0, panic_threshold=None)
    pool.down(0, 1)
    assert not pool.status["panic"], "it would bring nobody back"
    pool.doubted.add(1)
    pool.clock.advance(1_000_000_000)
    pool.steering.look()
    assert pool.panicking() == [False, True, True]
    pool.up(0)
    assert not pool.status["panic"]
    assert [record.message for record in caplog.records] == [
        "pool app is in a panic: all endpoints but those that are surely down get requests, 1 of 3 are healthy",
        "pool app is no longer in a panic, 2 of 3 are healthy",
    ]


def test_who_is_surely_down_takes_no_level_into_a_panic(rig: Any) -> None:
    pool = rig(0, 0, 0, 10, 10, 10, panic_threshold=None)
    pool.down(0, 1, 3, 4)
    assert not pool.status["panic"]
    assert [level["share"] for level in pool.status["levels"]] == [0.5, 0.5]
    pool.doubted.add(0)
    pool.clock.advance(1_000_000_000)
    pool.steering.look()
    assert pool.panicking() == [True, False, True, False, False, True]


def test_a_panic_that_the_file_asks_for_is_for_all(rig: Any) -> None:
    pool = rig(0, 0, 0)
    pool.down(0, 1)
    assert pool.panicking() == [True] * 3


def test_a_pool_in_which_nothing_moves_is_not_looked_into(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    pool = rig(0, 0, 0)
    inner = Steering._share
    monkeypatch.setattr(Steering, "_share", lambda self, at, now: (looks.append(now), inner(self, at, now)))
    for _ in range(5):
        pool.clock.advance(100_000_000)
        pool.steering.look()
    assert looks == []
    pool.registry.operate_weight(1, 7)
    pool.steering.look()
    pool.registry.operate(2, DRAIN)
    pool.steering.look()
    pool.down(0)
    assert len(looks) == 3
    states = EjectionStates(pool.segment, [0, 1, 2])
    states.eject_endpoint(1, 1, 1)
    for _ in range(4):  # its end is awaited
        pool.clock.advance(100_000_000)
        pool.steering.look()
    assert len(looks) == 7


def test_many_that_go_down_together_are_one_look(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    inner = Steering._share
    monkeypatch.setattr(Steering, "_share", lambda self, at, now: (looks.append(now), inner(self, at, now)))
    for endpoints, expected in ((64, 64), (65, 1)):
        pool = rig(*[0] * endpoints)
        looks.clear()
        for slot in range(endpoints):
            pool.segment.set_health(slot, False, 1)
            pool.steering.health_changed("app")
        pool.steering.look()
        assert len(looks) == expected
        assert pool.status["panic"]


def test_the_levels_in_a_panic_are_named(rig: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool = rig(0, 0, 10, 10, 10)
    pool.down(0, 1, 2)
    pool.segment.set_health(3, False, 1)
    pool.steering.look()
    pool.segment.set_health(0, True, 1)
    pool.segment.set_health(1, True, 1)
    pool.steering.look()
    assert [record.message for record in caplog.records if "panic" in record.message] == [
        "pool app is in a panic at priority 0: all endpoints there are as good as healthy ones, 2 of 5 are healthy",
        "pool app is in a panic: all endpoints get requests, 1 of 5 are healthy",
        "pool app is no longer in a panic, 3 of 5 are healthy",
    ]
    assert pool.status["panics"] == 1


STARTING = {"type": "tcp", "initial": "down"}


def test_who_was_never_up_is_not_missed_and_gets_nothing_in_a_panic(rig: Any) -> None:
    pool = rig(0, 0, 0, 0, health=STARTING)
    assert not pool.status["panic"], "at the start"
    pool.up(0)
    assert not pool.status["panic"], "three are still starting"
    pool.down(0)
    assert pool.panicking() == [True, False, False, False]
    pool.up(1, 2)
    assert not pool.status["panic"]
    pool.down(1, 2)
    assert pool.panicking() == [True, True, True, False]


def test_who_was_never_up_takes_nothing_from_what_its_level_carries(rig: Any) -> None:
    pool = rig(0, 0, 0, 10, health=STARTING)
    pool.up(0, 3)
    assert [level["share"] for level in pool.status["levels"]] == [1, 0]
    pool.up(1, 2)
    pool.down(1, 2)
    assert [level["share"] for level in pool.status["levels"]] == [0.467, 0.533]
    pool.down(0, 3)
    assert pool.panicking() == [True] * 4


@pytest.mark.parametrize("priorities", [(0, 0, 0), (0, 0, 0, 1)])
def test_in_a_panic_those_who_are_down_have_their_whole_share(rig: Any, priorities: tuple[int, ...]) -> None:
    pool = rig(*priorities, health={"type": "tcp", "initial": "up"}, slow_start={"window": "1h"})

    def shares() -> list[float]:
        return [row["share"] for row in pool.status["endpoints"].values()]

    others = [1.0] * len(priorities[3:])
    pool.down(*range(len(priorities)))
    assert shares() == [1.0] * len(priorities)
    pool.up(0)
    assert shares() == pytest.approx([0.1, 1.0, 1.0, *others])
    pool.up(1, *range(3, len(priorities)))
    assert not any(pool.panicking())
    assert shares() == pytest.approx([0.1, 0.1, 0.1, *([0.1] * len(others))])


def test_who_comes_back_at_once_is_ejected_no_longer_than_before(rig: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool = rig(0, 0, outlier={"base_ejection_time": "30s"})
    pool.up(0, 1)
    EjectionStates(pool.segment, [0, 1]).eject_endpoint(1, 1, 1)

    def row() -> tuple[str, float, dict[str, int]]:
        found = pool.status["endpoints"]["10.0.0.1:80"]
        return found["ejection_state"], found["ejected_for_s"], found["ejections"]

    pool.steering.look()
    assert row() == ("ejected", 30.0, {"consecutive_5xx": 1})
    for _ in range(2):
        pool.clock.advance(10_000_000_000)
        pool.have(0)
        pool.have(0, 0)
    assert row() == ("ejected", 10.0, {"consecutive_5xx": 1})
    assert caplog.text.count("is ejected for") == 1
    pool.clock.advance(10_000_000_000)
    pool.steering.look()
    assert row()[0] == "probation"
