"""What every engine must do. A member's test class derives from EngineContract and says how its world is made, what it
holds, and how it is broken. The engine is driven by the Keeper that the daemon has; a member that has none of its own
(local) overrides `keep`."""

from __future__ import annotations

import asyncio
import inspect
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from waiting import until

from lb.clock import ManualClock, MonotonicClock
from lb.engines.engine import Engine, Seen
from lb.engines.keeper import Keeper
from lb.platforms.error import PlatformError

SECOND = 1_000_000_000


class EngineContract:
    """Override the abstract ones; `interval` is the time between two looks in tests, ns."""

    interval = SECOND // 20

    @abstractmethod
    async def build(self) -> Engine:
        """An engine over a world that has two replicas and lets there be 0 to 9."""

    @abstractmethod
    async def number(self) -> int:
        """How many replicas the world is told to run."""

    @abstractmethod
    async def set_number(self, number: int) -> None:
        """Somebody else tells the world."""

    @asynccontextmanager
    async def kept(self, fewest: int = 1) -> AsyncIterator[Keeper]:
        engine = await self.build()
        engine.interval = self.interval  # type: ignore[misc]
        keeper = Keeper(engine, fewest, 9, MonotonicClock())
        task = asyncio.create_task(keeper.run())
        try:
            yield keeper
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def test_a_look_says_what_is_so(self) -> None:
        engine = await self.build()
        seen = await engine.look()
        assert isinstance(seen, Seen)
        assert seen.number == 2 == await self.number()
        await self.set_number(4)
        assert (await engine.look()).number == 4
        await engine.close()

    async def test_a_change_is_made(self) -> None:
        engine = await self.build()
        for number in (5, 1):
            await engine.change(number, await engine.look())
            assert await self.number() == number
            assert (await engine.look()).number == number
        await engine.close()

    async def test_describes_itself_in_one_line(self) -> None:
        engine = await self.build()
        assert 0 < len(engine.describe()) < 200
        assert "\n" not in engine.describe()
        assert all(inspect.iscoroutinefunction(getattr(type(engine), name)) for name in ("look", "change", "close"))
        await engine.close()

    async def test_a_start_changes_nothing(self) -> None:
        async with self.kept() as keeper:
            await until(lambda: keeper.status(0)["looks"] > 2, "looks")
            assert keeper.wanted == 2
            assert await self.number() == 2
            assert keeper.status(0)["changes"] == 0

    async def test_what_is_wanted_comes_about(self) -> None:
        async with self.kept() as keeper:
            await until(lambda: keeper.status(0)["looks"], "the first look")
            for number in (6, 3):
                keeper.scale_to(number)
                assert keeper.wanted == number
                await until(lambda number=number: keeper.status(0)["number"] == number, f"{number} replicas")
                assert await self.number() == number
                assert keeper.status(0)["drift"] == 0

    async def test_to_zero_and_back(self) -> None:
        async with self.kept(fewest=0) as keeper:
            await until(lambda: keeper.status(0)["looks"], "the first look")
            for number in (0, 1):
                keeper.scale_to(number)
                await until(lambda number=number: keeper.status(0)["number"] == number, f"{number} replicas")
                assert (await self.number(), keeper.wanted) == (number, number)

    async def test_drift_is_reported_and_mended(self, caplog: pytest.LogCaptureFixture) -> None:
        async with self.kept() as keeper:
            await until(lambda: keeper.status(0)["looks"], "the first look")
            keeper.scale_to(3)
            await until(lambda: keeper.status(0)["number"] == 3, "3 replicas")
            await self.set_number(7)
            await until(lambda: keeper.status(0)["drifts"] == 1, "the report")
            assert "wanted are 3 replicas" in caplog.text
            assert "says 7" in caplog.text
            await until(lambda: keeper.status(0)["number"] == 3, "3 replicas again")
            assert await self.number() == 3


class PlatformContract(EngineContract):
    """What engines must do besides that have to ask another machine."""

    @abstractmethod
    async def damage(self) -> None:
        """From now on the world gives no usable answer, until `mend`."""

    @abstractmethod
    async def mend(self) -> None: ...

    async def test_no_usable_answer_is_an_error_in_one_line(self) -> None:
        engine = await self.build()
        seen = await engine.look()
        await self.damage()
        for call in (engine.look(), engine.change(3, seen)):
            with pytest.raises(PlatformError) as caught:
                await call
            assert str(caught.value)
            assert "\n" not in str(caught.value)
        await self.mend()
        assert await self.number() == 2
        assert (await engine.look()).number == 2
        await engine.close()

    async def test_nothing_is_scaled_by_stale_data(self) -> None:
        async with self.kept() as keeper:
            await until(lambda: keeper.status(0)["looks"], "the first look")
            await self.damage()
            clock = MonotonicClock()
            await until(lambda: keeper.fresh(clock.now()) is None, "the last look's age")
            assert keeper.limits(clock.now()).minimum == keeper.limits(clock.now()).maximum == 2
            assert "old" in keeper.limits(clock.now()).held
            keeper.scale_to(8)
            assert keeper.wanted == 2
            status = keeper.status(clock.now())
            assert status["state"] == "stale"
            await until(lambda: keeper.status(clock.now())["error"], "the error")
            await self.mend()
            await until(lambda: keeper.status(clock.now())["state"] == "current", "a good look")
            assert await self.number() == 2
            keeper.scale_to(4)
            await until(lambda: keeper.status(0)["number"] == 4, "4 replicas")

    async def test_failures_are_spaced_out(self) -> None:
        engine = await self.build()
        keeper = Keeper(engine, 1, 9, ManualClock())
        pauses = [keeper.fail(PlatformError("broken")) for _ in range(8)]
        assert pauses == [s * SECOND for s in (1, 2, 4, 8, 16, 30, 30, 30)]
        await engine.close()

    async def test_a_look_can_be_cancelled(self) -> None:
        engine = await self.build()
        task = asyncio.create_task(engine.look())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await engine.look()).number == 2
        await engine.close()
