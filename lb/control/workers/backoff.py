"""When a process that died is started again: at once, then later and later, and slowly when it dies all the time."""

from __future__ import annotations

from collections import deque

from msgspec import Struct, field

SECOND = 1_000_000_000


class RestartSettings(Struct, frozen=True):
    """All times in nanoseconds. The first restart after a stable run is immediate, or waits `initial`."""

    initial: int = SECOND // 2
    max: int = 30 * SECOND
    stable: int = 60 * SECOND  # a run this long forgets the failures before it
    crash_loop_restarts: int = 5
    crash_loop_within: int = 60 * SECOND
    immediate: bool = True


class Restarts(Struct):
    """Decides for one process. `count` is the number of restarts in its life, for status."""

    settings: RestartSettings
    count: int = 0
    crash_loop: bool = False
    _failures: int = 0
    _recent: deque[int] = field(default_factory=deque)

    def serving(self) -> None:
        """The process does its work: what failed before is forgotten."""
        self._failures = 0
        self._recent.clear()
        self.crash_loop = False

    def died(self, started: int, now: int) -> int:
        """The process, well since `started`, is gone; returns the nanoseconds to wait before it is started again."""
        settings = self.settings
        if now - started >= settings.stable:
            self.serving()
        self.count += 1
        self._recent.append(now)
        while now - self._recent[0] > settings.crash_loop_within:
            self._recent.popleft()
        # Once it is one, only a stable run ends it: the slow attempts do not add up within the window any more.
        self.crash_loop = self.crash_loop or len(self._recent) >= settings.crash_loop_restarts
        doublings = self._failures - settings.immediate
        delay = settings.initial << doublings if doublings >= 0 else 0
        self._failures = min(self._failures + 1, 32)
        return settings.max if self.crash_loop else min(delay, settings.max)
