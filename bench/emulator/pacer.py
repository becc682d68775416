"""Wake-ups at nanosecond times: a Linux timerfd that an event loop reads.

uvloop's own timers (libuv) have a resolution of 1 ms, which is coarser than many service times. See timerfd_create(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Callable

_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


# Python 3.13 has os.timerfd_create; the project supports 3.11.
_libc = ctypes.CDLL(None, use_errno=True)


class Pacer:
    """One alarm. `tick` is called in the loop at or after the armed time (CLOCK_MONOTONIC, ns), once per `arm`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: Callable[[], None]) -> None:
        """Raises OSError if the kernel gives no timer."""
        self._fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            raise _last_error()
        self._setting = _Itimerspec()
        self._pointer = ctypes.byref(self._setting)
        self._loop = loop
        self._tick = tick
        loop.add_reader(self._fd, self._fired)

    def arm(self, at: int) -> None:
        """Replaces the alarm; a time that has passed fires at once."""
        value = self._setting.value
        # A value of nought would disarm the timer.
        value.seconds, value.nanoseconds = divmod(max(at, 1), 1_000_000_000)
        if _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, self._pointer, None):
            raise _last_error()

    def close(self) -> None:
        """Ends the alarm and its descriptor."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _fired(self) -> None:
        # Armed anew since the loop saw it: the new alarm will come by itself.
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
            self._tick()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
