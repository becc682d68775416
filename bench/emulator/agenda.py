"""When which server has something to do: one heap and one timer for all of them."""

from __future__ import annotations

import heapq
import time
from itertools import count
from typing import Protocol

from bench.emulator.timeline import NEVER


class Timer(Protocol):
    """What wakes the agenda."""

    def arm(self, at: int) -> None:
        """Calls `tick` at `at` (CLOCK_MONOTONIC, ns) instead of at the time set before."""


class Server(Protocol):
    """What the agenda wakes."""

    @property
    def due(self) -> int:
        """When it has something to do, in ns; NEVER if nothing."""

    def tick(self, now: int) -> None:
        """Does what is due up to `now`, and asks for the next `wake` if there is one."""


class Agenda:
    """Wakes servers when they are due, and knows how late it was."""

    def __init__(self) -> None:
        self.ticks = 0
        self.late_sum = 0
        self.late_max = 0
        self._timer: Timer | None = None
        self._armed = NEVER
        self._heap: list[tuple[int, int, Server]] = []
        self._asked: dict[Server, int] = {}
        self._sequence = count()

    def start(self, timer: Timer) -> None:
        """What is asked for from now on, and was before, is waked by this timer."""
        self._timer = timer
        self._arm()

    def wake(self, server: Server, due: int) -> None:
        """Calls `server.tick` at `due`; an earlier call that was asked for comes too."""
        if due >= self._asked.get(server, NEVER):
            return
        self._asked[server] = due
        heapq.heappush(self._heap, (due, next(self._sequence), server))
        self._arm()

    def tick(self) -> None:
        """The timer went off."""
        self._armed = NEVER
        while self._heap and self._heap[0][0] <= (now := time.monotonic_ns()):
            due, _, server = heapq.heappop(self._heap)
            if self._asked.get(server) != due:
                continue
            del self._asked[server]
            server.tick(now)
        self._arm()

    def note_late(self, late: int) -> None:
        """Something was done `late` ns after it was due, whoever came to do it."""
        self.ticks += 1
        self.late_sum += late
        self.late_max = max(self.late_max, late)

    def stats(self) -> dict[str, int]:
        """How late answers were for want of this process's time, in ns. A core that has none left shows here."""
        return {"ticks": self.ticks, "late_mean_ns": self.late_sum // max(1, self.ticks), "late_max_ns": self.late_max}

    def _arm(self) -> None:
        if self._timer is not None and self._heap and self._heap[0][0] < self._armed:
            self._armed = self._heap[0][0]
            self._timer.arm(self._armed)
