"""lb.tasks: tasks end, also those that a library keeps from their cancellation."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from lb.tasks import end_tasks


async def forever() -> None:
    await asyncio.Event().wait()


async def started(*tasks: asyncio.Task[None]) -> None:
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_all_end_and_those_that_have_ended_stay_as_they_are() -> None:
    over = asyncio.create_task(asyncio.sleep(0, "result"))
    assert await over == "result"
    tasks = [asyncio.create_task(forever()) for _ in range(3)]
    await started(*tasks)
    await end_tasks([over, *tasks])  # type: ignore[list-item]
    assert all(task.cancelled() for task in tasks)
    assert over.result() == "result"
    await end_tasks([])


async def test_a_task_that_has_lost_a_cancellation_is_cancelled_again() -> None:
    """As `asyncio.wait_for` of Python 3.11 loses one that comes with its result."""
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while lost < 2:
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
            lost += 1
        await forever()

    task = asyncio.create_task(deaf())
    await started(task)
    await end_tasks([task], again=0.01)
    assert (task.cancelled(), lost) == (True, 2)


async def test_what_a_task_does_at_its_end_is_waited_for() -> None:
    ended = False

    async def tidy() -> None:
        nonlocal ended
        try:
            await forever()
        finally:
            await asyncio.sleep(0.05)
            ended = True

    task = asyncio.create_task(tidy())
    await started(task)
    await end_tasks([task])
    assert ended


async def test_an_error_at_the_end_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        try:
            await forever()
        finally:
            raise ValueError("at its end")

    task = asyncio.create_task(fails())
    await started(task)
    await end_tasks([task])
    assert isinstance(task.exception(), ValueError)
    del task
    assert not caplog.records
