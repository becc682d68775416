"""Waking an event loop at a time of the monotonic clock, to the precision of the kernel.

uvloop's timers count whole milliseconds (libuv's clock), far too coarse to pace thousands of requests per second. A
timerfd (timerfd_create(2)) is a descriptor that becomes readable at an absolute time in nanoseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable

_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_SECOND = 1_000_000_000

if sys.version_info >= (3, 13):

    def _create() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _set(fd: int, at_ns: int) -> None:
        os.timerfd_settime_ns(fd, flags=os.TFD_TIMER_ABSTIME, initial=at_ns)

else:

    class _Timespec(ctypes.Structure):
        _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]

    class _Itimerspec(ctypes.Structure):
        _fields_ = [("it_interval", _Timespec), ("it_value", _Timespec)]

    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.timerfd_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Itimerspec), ctypes.c_void_p]

    def _create() -> int:
        fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return fd

    def _set(fd: int, at_ns: int) -> None:
        seconds, rest = divmod(at_ns, _SECOND)
        spec = _Itimerspec(_Timespec(0, 0), _Timespec(seconds, rest))
        if _libc.timerfd_settime(fd, _TFD_TIMER_ABSTIME, spec, None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Pacer:
    """Calls `wake` from the loop once at or just after the armed time; arming again moves that time.

    Times are nanoseconds of CLOCK_MONOTONIC (`time.monotonic_ns`). Raises OSError if the kernel gives no timer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._fd = _create()
        loop.add_reader(self._fd, self._fired)

    def arm(self, at_ns: int) -> None:
        """A time that has passed wakes at once."""
        _set(self._fd, max(at_ns, 1))  # 0 would disarm

    def disarm(self) -> None:
        _set(self._fd, 0)

    def close(self) -> None:
        """Idempotent; `wake` is not called any more."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fired(self) -> None:
        with contextlib.suppress(BlockingIOError):  # armed anew since the loop saw it readable
            os.read(self._fd, 8)
            self._wake()
