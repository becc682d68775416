"""A measure that takes time: it is asked for again and again, in a task of its own, so that scaling never waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from lb.clock import Clock
from lb.config.units import SECOND

log = logging.getLogger("tidegate.scaling")

T = TypeVar("T")

PERIOD = 5 * SECOND
FRESH = 3  # periods: what is older is missing


class MeasureFailed(Exception):
    """There is no measure; the message says why."""


class Polled(Generic[T]):
    """Calls `ask` every `period` ns. It raises MeasureFailed, or gives a value, in bounded time. `start` and `stop`
    belong to the running loop."""

    def __init__(self, name: str, ask: Callable[[], Awaitable[T]], clock: Clock, period: int = PERIOD) -> None:
        self.name = name
        self._ask = ask
        self._clock = clock
        self._period = period
        self._value: T | None = None
        self._at = 0
        self._error = "not asked yet"
        self._told = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"measure {self.name}")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def value(self, now: int) -> T | None:
        """The last value; None where it is too old, or there is none. `now` is monotonic ns."""
        return self._value if self._value is not None and now - self._at <= FRESH * self._period else None

    def describe(self, now: int) -> dict[str, Any]:
        """{age_s, error}: of the last value, and why the last question had none."""
        age = None if self._value is None else round((now - self._at) / SECOND, 3)
        return {"age_s": age, "error": self._error or None}

    async def _run(self) -> None:
        while True:
            try:
                self._value, self._error = await self._ask(), ""
                self._at = self._clock.now()
            except MeasureFailed as error:
                self._error = str(error)
            except Exception as error:
                # A defect in one measure must not end it: the next answer may be another.
                self._error = f"internal error: {error!r}"
            self._tell()
            await asyncio.sleep(self._period / SECOND)

    def _tell(self) -> None:
        """Once for each reason, and once when it is over."""
        if self._error == self._told:
            return
        if self._error:
            log.warning("%s is missing: %s", self.name, self._error)
        elif self._told:
            log.info("%s is there again", self.name)
        self._told = self._error
