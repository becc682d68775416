"""An event loop that is turned by hand, so that what the data path does in a run depends on nothing but the run.

The data path registers one descriptor with its loop (its epoll) and asks for callbacks in the next round; that is all
of an event loop that is here. Timers are kept and never fire: what a tick costs belongs to the time that passes and
not to the requests, and how many of them fall into a run depends on the machine.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from typing import Any


class Timer:
    """What `call_later` gives."""

    def cancel(self) -> None:
        """There is nothing to stop: it never fires."""


class StepLoop:
    """The part of asyncio.AbstractEventLoop that lb.net.poller uses, for one watched descriptor."""

    def __init__(self) -> None:
        self.fd = -1
        self._callback: Callable[[], object] | None = None
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._poll = select.poll()

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        if self._callback is not None:
            raise RuntimeError("a loop turned by hand watches one descriptor")
        self.fd = fd
        self._callback = callback
        self._poll.register(fd, select.POLLIN)

    def remove_reader(self, fd: int) -> bool:
        if self._callback is None or fd != self.fd:
            return False
        self._poll.unregister(fd)
        self._callback = None
        self.fd = -1
        return True

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        self._soon.append((callback, arguments))

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        return Timer()

    def turn(self) -> bool:
        """Runs what is due: callbacks, then the reader if its descriptor is readable. False when nothing was."""
        due = len(self._soon)
        for _ in range(due):
            callback, arguments = self._soon.popleft()
            callback(*arguments)
        if self._callback is not None and self._poll.poll(0):
            self._callback()
            return True
        return due > 0
