"""The end of asyncio's tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN = 10.0  # seconds that a task has for what it does at its end, before it is cancelled once more


async def end_tasks(tasks: Iterable[asyncio.Task[Any]], again: float = _AGAIN) -> None:
    """Cancels tasks until all have ended, however they do; once more after each `again` seconds.

    One cancellation is not enough where a library waits: `asyncio.wait_for` of Python 3.11 drops one that comes with
    the result (python/cpython#86296), and the task goes on. nats-py and redis-py wait so.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        ended, pending = await asyncio.wait(pending, timeout=again)
        for task in ended:
            if not task.cancelled():
                task.exception()  # an error that nobody asks for is not reported as lost
