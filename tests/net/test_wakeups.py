"""Bells: one worker wakes another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from compiled.shared_segment import ring

from lb.net.poller import Poller
from lb.net.wakeups import Bells


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


async def test_a_bell_is_heard_by_its_worker_only(fds: list[int]) -> None:
    loop = asyncio.get_running_loop()
    pollers = [Poller(loop) for _ in range(2)]
    bells = [Bells(poller, own, fds) for own, poller in enumerate(pollers)]
    ring(bells[0], 2)
    assert [rung(fd) for fd in fds] == [0, 0, 1]
    ring(bells[0], 1)
    for _ in range(100):
        await asyncio.sleep(0.01)
        if not rung(fds[1]):
            break
    ring(bells[0], 0)  # our own: nothing to do
    assert [rung(fd) for fd in fds] == [0, 0, 0]
    for each, poller in zip(bells, pollers, strict=True):
        each.close()
        each.close()
        poller.close()


async def test_a_bell_that_nobody_hears_takes_no_harm(fds: list[int]) -> None:
    poller = Poller(asyncio.get_running_loop())
    bells = Bells(poller, 0, fds)
    os.eventfd_write(fds[1], 2**64 - 2)  # full: writing one more would block
    ring(bells, 1)
    assert rung(fds[1]) == 2**64 - 2
    bells.close()
    poller.close()


async def test_no_such_worker(fds: list[int]) -> None:
    poller = Poller(asyncio.get_running_loop())
    bells = Bells(poller, 0, fds)
    with pytest.raises(IndexError):
        ring(bells, 3)
    bells.close()
    alone = Bells(poller, 0, ())
    with pytest.raises(IndexError):
        ring(alone, 0)
    alone.close()
    poller.close()
