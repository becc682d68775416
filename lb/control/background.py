"""Work that nobody waits for now: it is kept until it ends, its errors are logged, and a stop waits for all of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from lb.errors import TidegateError


class Background:
    """Tasks of the running loop. An error of ours is logged as its text, another one as `failed` with its traceback."""

    def __init__(self, log: logging.Logger, failed: str) -> None:
        self._log = log
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def wait(self) -> None:
        """Until none is left, those included that are begun meanwhile."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, TidegateError):
            self._log.error("%s", error)
        elif error is not None:
            self._log.error(self._failed, exc_info=error)
