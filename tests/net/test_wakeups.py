"""Wakeups: one worker wakes another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from compiled.shared_segment import ring

from lb.net.poller import Poller
from lb.net.wakeups import Wakeups


@pytest.fixture
def fds() -> Iterator[list[int]]:
    made = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(3)]
    yield made
    for fd in made:
        os.close(fd)


def rung(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


async def test_a_wakeup_is_heard_by_its_worker_only(fds: list[int]) -> None:
    loop = asyncio.get_running_loop()
    pollers = [Poller(loop) for _ in range(2)]
    wakeups = [Wakeups(poller, own, fds) for own, poller in enumerate(pollers)]
    ring(wakeups[0], 2)
    assert [rung(fd) for fd in fds] == [0, 0, 1]
    ring(wakeups[0], 1)
    for _ in range(100):
        await asyncio.sleep(0.01)
        if not rung(fds[1]):
            break
    ring(wakeups[0], 0)  # our own: nothing to do
    assert [rung(fd) for fd in fds] == [0, 0, 0]
    for each, poller in zip(wakeups, pollers, strict=True):
        each.close()
        each.close()
        poller.close()


async def test_a_wakeup_that_nobody_hears_takes_no_harm(fds: list[int]) -> None:
    poller = Poller(asyncio.get_running_loop())
    wakeups = Wakeups(poller, 0, fds)
    os.eventfd_write(fds[1], 2**64 - 2)  # full: writing one more would block
    ring(wakeups, 1)
    assert rung(fds[1]) == 2**64 - 2
    wakeups.close()
    poller.close()


async def test_no_such_worker(fds: list[int]) -> None:
    poller = Poller(asyncio.get_running_loop())
    wakeups = Wakeups(poller, 0, fds)
    with pytest.raises(IndexError):
        ring(wakeups, 3)
    wakeups.close()
    alone = Wakeups(poller, 0, ())
    with pytest.raises(IndexError):
        ring(alone, 0)
    alone.close()
    poller.close()
