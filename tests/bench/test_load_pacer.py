"""The pacer wakes at its time, never before, and once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from bench.load.pacer import Pacer

MS = 1_000_000


def on_loop(loop: Callable[[], asyncio.AbstractEventLoop], body: Callable[[], Any]) -> Any:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(body())


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_wakes_at_the_time(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def body() -> None:
        woken: asyncio.Queue[int] = asyncio.Queue()
        pacer = Pacer(asyncio.get_running_loop(), lambda: woken.put_nowait(time.monotonic_ns()))
        early = 0
        for _ in range(50):
            at = time.monotonic_ns() + 300_000
            pacer.arm(at)
            late = await asyncio.wait_for(woken.get(), 5) - at
            assert late >= 0
            early += late < MS
        assert early > 10  # a timer of 1 ms resolution could not
        pacer.arm(time.monotonic_ns() - 10**9)
        await asyncio.wait_for(woken.get(), 5)
        pacer.arm(0)
        await asyncio.wait_for(woken.get(), 5)
        assert woken.empty()
        pacer.close()
        pacer.close()

    on_loop(loop, body)


def test_arming_again_moves_the_time_and_disarming_cancels() -> None:
    async def body() -> list[int]:
        woken: list[int] = []
        other: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pacer = Pacer(asyncio.get_running_loop(), lambda: woken.append(time.monotonic_ns()))
        begin = time.monotonic_ns()
        pacer.arm(begin + 10 * MS)
        pacer.arm(begin + 30 * MS)
        stopped = Pacer(asyncio.get_running_loop(), lambda: woken.append(0))
        stopped.arm(begin + 10 * MS)
        stopped.disarm()
        end = Pacer(asyncio.get_running_loop(), lambda: other.set_result(None))
        end.arm(begin + 60 * MS)
        await asyncio.wait_for(other, 5)
        for one in (pacer, stopped, end):
            one.close()
        return [at - begin for at in woken]

    (at,) = on_loop(uvloop.new_event_loop, body)
    assert at >= 30 * MS
