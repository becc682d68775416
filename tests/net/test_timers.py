"""Deadlines to the millisecond."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

import pytest
from compiled.timers import TimersProbe

Poller = import_module("lb.net.poller").Poller
MILLISECOND = 1_000_000


@pytest.mark.slow
async def test_timers_ring_in_order_and_never_early() -> None:
    loop = asyncio.get_running_loop()
    poller = Poller(loop)
    probe = TimersProbe(poller)
    rung: list[tuple[int, float]] = []
    start = loop.time()
    kept: list[Any] = [
        probe.after(ms * MILLISECOND, lambda ms=ms: rung.append((ms, loop.time() - start)))
        for ms in (30, 5, 1200, 12, 5, 2500, 0, 1023, 1024, 1025)
    ]
    await asyncio.sleep(3)
    assert [ms for ms, _ in rung] == sorted(ms for ms, _ in rung)
    assert len(rung) == len(kept)
    assert all(when >= ms / 1000 - 0.0005 for ms, when in rung)
    probe.close()
    poller.close()


async def test_one_that_is_gone_does_not_ring() -> None:
    poller = Poller(asyncio.get_running_loop())
    probe = TimersProbe(poller)
    rung: list[str] = []
    gone = probe.after(10 * MILLISECOND, lambda: rung.append("gone"))
    kept = probe.after(20 * MILLISECOND, lambda: rung.append("kept"))
    del gone
    await asyncio.sleep(0.1)
    assert rung == ["kept"]
    assert probe.rung <= 3
    await asyncio.sleep(0.1)
    assert probe.rung <= 3  # nobody is there: it stands still
    del kept
    probe.close()
    poller.close()


async def test_one_may_be_set_again_from_a_timer() -> None:
    poller = Poller(asyncio.get_running_loop())
    probe = TimersProbe(poller)
    kept: list[Any] = []

    def again() -> None:
        if len(kept) < 20:
            kept.append(probe.after(MILLISECOND, again))

    again()
    await asyncio.sleep(0.5)
    assert len(kept) == 20
    probe.close()
    poller.close()
