"""CDNs are told of purges: beside the purge, many tags at once, again and again until it is done.

A CDN that keeps its answers until they end would give those of a model that is gone. So nothing is given up: what
fails waits longer with each try, and what waits meanwhile goes along. Too many tags become those of their pools.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from lb.cache import tags
from lb.errors import TidegateError
from lb.tasks import end_tasks

log = logging.getLogger("tidegate.cache")

GATHER = 0.2  # seconds in which purges come together
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds between two tries
LAST = 5.0  # seconds at a stop for what waits
MOST = 10_000  # tags that wait

Sleep = Callable[[float], Awaitable[None]]


class CdnError(TidegateError):
    """A purge that a CDN did not take. `pause` is how many seconds it wants to be left alone; 0: it does not say."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class Cdn(Protocol):
    """One CDN."""

    name: str
    most: int  # tags of a call

    async def purge(self, tags: Sequence[str]) -> None:
        """Raises CdnError."""

    async def close(self) -> None: ...


class CdnPurges:
    """What waits for one CDN, and the task that tells it."""

    def __init__(self, cdn: Cdn, sleep: Sleep = asyncio.sleep, jitter: Callable[[], float] = random.random) -> None:
        self._cdn = cdn
        self._sleep = sleep
        self._jitter = jitter
        self._waiting: dict[str, None] = {}  # in the order in which they came
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._counts = {"purges": 0, "failures": 0}
        self._error: str | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"purges of {cdn.name}")

    def add(self, purged: Sequence[str]) -> None:
        """Tags to tell."""
        self._waiting |= dict.fromkeys(purged)
        if len(self._waiting) > MOST:
            self._waiting = {tags.pool_of(tag) or tag: None for tag in self._waiting}
        if self._waiting:
            self._idle.clear()
            self._wake.set()

    def status(self) -> dict[str, Any]:
        """{name, purges: calls that were taken, failures, waiting: tags, error: of the last try; None: it went well}"""
        return {"name": self._cdn.name, **self._counts, "waiting": len(self._waiting), "error": self._error}

    async def close(self) -> None:
        """Ends with a last try of what waits."""
        if self._error is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST):
                    await self._idle.wait()
        await end_tasks([self._task])
        if self._waiting:
            log.warning("%s was not told of purges before the stop: %s", self._cdn.name, _shown(self._waiting))
        await self._cdn.close()

    async def _run(self) -> None:
        failed = 0
        while True:
            await self._wake.wait()
            await self._sleep(GATHER)
            # A tag that is purged once more while it is told is told again: the CDN may have fetched between.
            batch = list(self._waiting)[: self._cdn.most]
            self._waiting = dict.fromkeys(list(self._waiting)[len(batch) :])
            try:
                await self._cdn.purge(batch)
            except CdnError as error:
                failed += 1
                self._waiting = dict.fromkeys(batch) | self._waiting
                self._failed(str(error))
                pause = max(error.pause, min(FIRST_PAUSE * 2 ** min(failed - 1, 16), LONGEST_PAUSE))
                await self._sleep(pause * (1 + self._jitter() / 4))
                continue
            except Exception as error:  # one that nobody foresaw must not be the last try
                log.exception("a purge of %s failed", self._cdn.name)
                failed += 1
                self._waiting = dict.fromkeys(batch) | self._waiting
                self._failed(repr(error))
                await self._sleep(LONGEST_PAUSE)
                continue
            if failed:
                log.info("%s takes purges again, after %d failures", self._cdn.name, failed)
            failed, self._error = 0, None
            self._counts["purges"] += 1
            if not self._waiting:
                self._wake.clear()
                self._idle.set()

    def _failed(self, text: str) -> None:
        self._counts["failures"] += 1
        if self._error is None:
            log.error("%s is not told of purges, which is tried again: %s", self._cdn.name, text)
        self._error = text


def _shown(waiting: dict[str, None]) -> str:
    more = f" and {len(waiting) - 5} more" if len(waiting) > 5 else ""
    return ", ".join(list(waiting)[:5]) + more
