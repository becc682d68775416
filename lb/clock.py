"""Time as an argument (design.md section 7): only loops read a clock, everything else takes `now`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What a loop reads; `now` is monotonic nanoseconds."""

    def now(self) -> int: ...


class MonotonicClock:
    """CLOCK_MONOTONIC, the same in every process of the machine."""

    def now(self) -> int:
        return time.monotonic_ns()


class ManualClock:
    """A clock that a test moves by hand."""

    def __init__(self, start: int = 0) -> None:
        self._now = start

    def now(self) -> int:
        return self._now

    def advance(self, ns: int) -> None:
        self._now += ns
