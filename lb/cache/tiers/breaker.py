"""Decides whether a tier is asked: it is left alone after failures in a row, or while most calls are slow.

    CLOSED     it is asked
    OPEN       nobody asks it until `retry_at`
    HALF_OPEN  one probe is under way, which no request waits for

Pure: time is an argument, ns of a monotonic clock. The pattern is Nygard's ("Release It!"), the share of slow calls is
that of resilience4j.
"""

from __future__ import annotations

import random
from typing import Literal

from lb.config.units import SECOND

State = Literal["closed", "open", "half_open"]

IN_A_ROW = 5
SLOW_SHARE = 0.5
# A call moves the share by a 32nd of the way, so that it opens after about 22 slow calls, and not by a few in many.
_WEIGHT = 1 / 32
FIRST_PAUSE = 1 * SECOND
LONGEST_PAUSE = 30 * SECOND


class Breaker:
    """Of one tier in one process. It begins open, with a probe due at once, so that no request waits for the first
    connection."""

    def __init__(self, slow: int, rng: random.Random | None = None) -> None:
        """`slow`: a call that takes longer, ns, counts as slow."""
        self.state: State = "open"
        self.retry_at = 0
        self.opened = 0  # how often
        self.slow_share = 0.0
        self._slow = slow
        self._failures = 0  # in a row
        self._pauses = 0  # since it was last well for a while
        self._closed_at: int | None = None
        self._random = rng or random.Random()  # noqa: S311 - it spreads load, it guards nothing

    def succeeded(self, now: int, took: int) -> bool:
        """After a call that was answered in `took` ns. True: this has opened it."""
        self._failures = 0
        return self._count(now, took > self._slow)

    def failed(self, now: int) -> bool:
        """After a call that failed or was given up. True: this has opened it."""
        self._failures += 1
        return self._count(now, True)

    def _count(self, now: int, slow: bool) -> bool:
        if self.state != "closed":  # a call that began before it opened
            return False
        self.slow_share += (slow - self.slow_share) * _WEIGHT
        if self._failures < IN_A_ROW and self.slow_share <= SLOW_SHARE:
            return False
        well = self._closed_at is not None and now - self._closed_at >= LONGEST_PAUSE
        self._pauses = 0 if well else self._pauses
        self.opened += 1
        self._open(now)
        return True

    def probe(self) -> None:
        """A probe begins."""
        self.state = "half_open"

    def probe_failed(self, now: int) -> None:
        self._open(now)

    def probe_succeeded(self, now: int) -> None:
        self.state, self._closed_at = "closed", now
        self._failures, self.slow_share = 0, 0.0

    def _open(self, now: int) -> None:
        pause = min(FIRST_PAUSE << min(self._pauses, 10), LONGEST_PAUSE)
        self._pauses += 1
        self.state = "open"
        # Daemons that lost a server together do not come back to it together.
        self.retry_at = now + int(pause * self._random.uniform(0.5, 1))
