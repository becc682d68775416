"""The keeper: what is decided of looks, without a platform."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_engines_membership import member, said
from waiting import until

from lb.clock import ManualClock
from lb.config.schema.file import PoolConfig
from lb.engines.engine import Engine, Seen
from lb.engines.keeper import Keeper
from lb.engines.lease import Standing
from lb.platforms.error import ConflictError, PlatformError

SECOND = 1_000_000_000


class World(Engine):
    """A platform in memory."""

    def __init__(self, number: int = 2) -> None:
        super().__init__("chat", None, PoolConfig.model_validate({"protocol": "http", "endpoints": ["127.0.0.1:1"]}))
        self.number = number
        self.conflicts = 0
        self.calls: list[int] = []
        self.errors: list[Exception] = []

    async def look(self) -> Seen:
        if self.errors:
            raise self.errors.pop()
        return Seen(self.number, self.number)

    async def change(self, number: int, seen: Seen) -> None:
        self.calls.append(number)
        if self.conflicts:
            self.conflicts -= 1
            raise ConflictError("somebody was faster", 409)
        self.number = number

    def describe(self) -> str:
        return "a world"


def keeper(number: int = 2, low: int = 1, high: int = 9, **more: Any) -> tuple[Keeper, ManualClock]:
    clock = ManualClock(SECOND)
    return Keeper(World(number), low, high, clock, **more), clock


def test_the_first_look_gives_what_is_wanted_within_the_limits() -> None:
    for number, wanted in ((2, 2), (0, 1), (12, 9)):
        one, clock = keeper(number)
        one.observe(Seen(number, number), clock.now())
        assert one.wanted == wanted
        assert one.to_change(clock.now()) == (None if wanted == number else wanted)


def test_nothing_is_changed_by_a_look_that_is_old() -> None:
    one, clock = keeper()
    one.observe(Seen(2, 2), clock.now())
    one.scale_to(5)
    assert one.to_change(clock.now()) == 5
    clock.advance(15 * SECOND + 1)
    assert one.to_change(clock.now()) is None
    one.scale_to(7)
    assert one.wanted == 5


def test_the_age_of_a_look_counts_from_the_question() -> None:
    one, clock = keeper()
    asked = clock.now()
    clock.advance(14 * SECOND)
    one.observe(Seen(2, 2), asked)
    assert one.fresh(clock.now())
    clock.advance(2 * SECOND)
    assert one.fresh(clock.now()) is None


def test_a_daemon_that_does_not_lead_follows_and_changes_nothing() -> None:
    clock = ManualClock(SECOND)
    membership = member("me", clock)
    one = Keeper(World(), 1, 9, clock, membership)
    membership.observe(Standing("other", 1, {}), clock.now())
    one.observe(Seen(4, 4), clock.now())
    one.scale_to(8)
    assert (one.wanted, one.to_change(clock.now())) == (4, None)
    assert one.limits(clock.now()).held == "other scales it"
    one.observe(Seen(6, 6), clock.now())
    assert one.wanted == 6
    membership.observe(Standing("me", 2, {}), clock.now())
    one.scale_to(8)
    assert one.to_change(clock.now()) == 8


def test_while_a_load_is_stale_replicas_are_added_and_never_removed() -> None:
    clock = ManualClock(SECOND)
    membership = member("me", clock)
    one = Keeper(World(), 1, 9, clock, membership)
    membership.observe(Standing("me", 1, {"b": said(1)}), clock.now())
    one.observe(Seen(4, 4), clock.now())
    clock.advance(7 * SECOND)
    membership.observe(Standing("me", 1, {"b": said(1)}), clock.now())
    one.observe(Seen(4, 4), clock.now())
    one.scale_to(2)
    assert one.wanted == 4
    one.scale_to(6)
    assert one.wanted == 6
    assert "no news of the load of b" in one.limits(clock.now()).held
    membership.observe(Standing("me", 1, {"b": said(2)}), clock.now())
    one.scale_to(2)
    assert one.wanted == 2


def test_a_change_by_others_is_reported_once_also_before_the_first_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    one, clock = keeper()
    one.observe(Seen(2, 2), clock.now())
    for _ in range(3):
        one.observe(Seen(7, 7), clock.now())
    assert one.status(clock.now())["drifts"] == 1
    assert one.status(clock.now())["drift"] == 5
    assert caplog.text.count("somebody else changed it") == 1
    assert one.to_change(clock.now()) == 2
    one.observe(Seen(2, 2), clock.now())
    one.scale_to(4)
    one.observe(Seen(2, 2), clock.now())
    assert one.status(clock.now())["drifts"] == 1, "a change of ours that is under way is none"


async def test_a_platform_that_is_slow_to_follow_is_told_at_most_once_a_second() -> None:
    from lb.clock import MonotonicClock

    class Slow(World):
        async def change(self, number: int, seen: Seen) -> None:
            self.calls.append(number)

    world = Slow()
    one = Keeper(world, 1, 9, MonotonicClock())
    task = asyncio.create_task(one.run())
    await until(lambda: one.status(0)["looks"])
    one.scale_to(5)
    await until(lambda: world.calls)
    await asyncio.sleep(0.3)
    assert len(world.calls) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_other_limits_hold_at_once_and_after_a_time_without_looks() -> None:
    one, clock = keeper()
    one.observe(Seen(2, 2), clock.now())
    one.reconfigure(3, 5)
    assert one.to_change(clock.now()) == 3
    clock.advance(60 * SECOND)
    one.reconfigure(6, 8)
    one.observe(Seen(3, 3), clock.now())
    assert one.to_change(clock.now()) == 6


def test_no_replica_can_be_had_where_there_is_none_and_the_engine_does_not_answer() -> None:
    one, clock = keeper(0, low=0)
    one.fail(PlatformError("no answer"))
    assert one.failing
    one.observe(Seen(1, 1), clock.now())
    assert not one.failing
    one.fail(PlatformError("no answer"))
    assert not one.failing  # there was one at the last look
    # What the engine has taken since then counts for more than that look.
    one.told(0)
    assert one.failing
    one.told(1)
    assert not one.failing
    one.observe(Seen(0, 0), clock.now())
    one.fail(PlatformError("no answer"))
    assert one.failing


def test_a_number_below_zero_is_refused() -> None:
    one, _ = keeper()
    with pytest.raises(ValueError, match="-1 replicas"):
        one.scale_to(-1)


async def test_conflicts_are_looked_at_again_at_once() -> None:
    from lb.clock import MonotonicClock

    world = World()
    world.conflicts = 3
    one = Keeper(world, 1, 9, MonotonicClock())
    task = asyncio.create_task(one.run())
    await until(lambda: one.status(0)["looks"])
    one.scale_to(5)
    await until(lambda: world.number == 5)
    assert world.calls == [5, 5, 5, 5]
    assert one.status(0)["conflicts"] == 3
    assert one.status(0)["failures"] == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_defect_of_an_engine_does_not_end_the_keeper(caplog: pytest.LogCaptureFixture) -> None:
    from lb.clock import MonotonicClock

    world = World()
    world.errors = [ZeroDivisionError("of a library")]
    one = Keeper(world, 1, 9, MonotonicClock())
    task = asyncio.create_task(one.run())
    await until(lambda: one.status(0)["state"] == "current")
    assert one.status(0)["failures"] == 1
    assert "ZeroDivisionError" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["look", "scale", "lead", "follow", "fail", "limits"]),
            st.integers(0, 12),
            st.integers(0, 20 * SECOND),
        ),
        max_size=60,
    )
)
def test_what_is_to_be_told_is_within_the_limits_fresh_and_ours(steps: list[tuple[str, int, int]]) -> None:
    clock = ManualClock(SECOND)
    membership = member("me", clock)
    one = Keeper(World(), 2, 8, clock, membership)
    low, high, looked = 2, 8, None
    for action, number, pause in steps:
        clock.advance(pause)
        now = clock.now()
        if action == "look":
            one.observe(Seen(number, number), now)
            looked = now
        elif action == "scale":
            one.scale_to(number)
        elif action == "fail":
            one.fail(PlatformError("gone"))
        elif action == "limits":
            low, high = 1 + number % 3, 4 + number
            one.reconfigure(low, high)
        else:
            membership.observe(Standing("me" if action == "lead" else "other", 1, {}), now)
        told = one.to_change(now)
        if told is not None:
            assert membership.leads(now)
            assert looked is not None
            assert now - looked <= 15 * SECOND
            if action in ("look", "scale"):
                assert low <= told <= high
