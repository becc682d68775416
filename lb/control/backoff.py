"""When a process that died is started again: at once, then later and later, and slowly when it dies all the time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """All times in nanoseconds. The first restart after a stable run is immediate."""

    initial: int = SECOND // 2
    max: int = 30 * SECOND
    stable: int = 60 * SECOND  # a run this long forgets the failures before it
    crash_loop_restarts: int = 5
    crash_loop_within: int = 60 * SECOND


@dataclass(slots=True)
class Restarts:
    """Decides for one process. `count` is the number of restarts in its life, for status."""

    settings: RestartSettings
    count: int = 0
    crash_loop: bool = False
    _failures: int = 0
    _recent: deque[int] = field(default_factory=deque)

    def died(self, started: int, now: int) -> int:
        """The process started at `started` is gone; returns the nanoseconds to wait before it is started again."""
        settings = self.settings
        if now - started >= settings.stable:
            self._failures = 0
            self._recent.clear()
        self.count += 1
        self._recent.append(now)
        while now - self._recent[0] > settings.crash_loop_within:
            self._recent.popleft()
        self.crash_loop = len(self._recent) >= settings.crash_loop_restarts
        delay = settings.initial << (self._failures - 1) if self._failures else 0
        self._failures = min(self._failures + 1, 32)
        return settings.max if self.crash_loop else min(delay, settings.max)
