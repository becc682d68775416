"""How fast executions proceed at each moment: full speed, slowed by antagonists, or stalled.

An execution is an amount of work, counted in nanoseconds at full speed. Where it overlaps a slow period it proceeds at
1/factor, in a stall not at all, so only the overlap delays it, as a neighbour on the same cores would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NEVER = 1 << 62
STALLED = math.inf


@dataclass(frozen=True, slots=True)
class Span:
    """[start, start + length) in absolute ns, again after each `every` (0 = once); `factor` STALLED stops all."""

    start: int
    length: int
    every: int = 0
    factor: float = STALLED

    def at(self, now: int) -> tuple[bool, int]:
        """Whether the span covers `now`, and when that changes next (NEVER if it does not)."""
        phase = now - self.start
        if phase < 0:
            return False, self.start
        if self.every:
            phase %= self.every
            if phase < self.length:
                # A span as long as its period has no end.
                return True, now + self.length - phase
            return False, now + self.every - phase
        if phase < self.length:
            return True, min(NEVER, now + self.length - phase)
        return False, NEVER


class Timeline:
    """The speed of one server over time; immutable. Factors of overlapping spans multiply."""

    __slots__ = ("_spans",)

    def __init__(self, spans: Sequence[Span] = ()) -> None:
        self._spans = tuple(spans)

    def __repr__(self) -> str:
        return f"Timeline({list(self._spans)})"

    @property
    def flat(self) -> bool:
        """Whether executions always have full speed."""
        return not self._spans

    def at(self, now: int) -> tuple[float, int]:
        """How many times slower than full speed executions are at `now`, and when that may change."""
        factor, until = 1.0, NEVER
        for span in self._spans:
            inside, change = span.at(now)
            if inside:
                factor *= span.factor
            until = min(until, change)
        return factor, until

    def clear(self, now: int) -> int:
        """The first moment from `now` on that is not in a stall; NEVER if there is none."""
        if not self._spans:
            return now
        while True:
            factor, until = self.at(now)
            if factor != STALLED or now >= NEVER:
                return now
            now = until

    def finish(self, start: int, work: float) -> int:
        """When `work` that begins at `start` is done; NEVER if a stall does not end."""
        if not self._spans:
            return start + math.ceil(work)
        while True:
            factor, until = self.at(start)
            if factor != STALLED:
                end = start + math.ceil(work * factor)
                if end <= until:
                    return end
                work -= (until - start) / factor
            if until >= NEVER:
                return NEVER
            start = until

    def progress(self, start: int, end: int) -> float:
        """The work that is done between two moments."""
        if not self._spans:
            return end - start
        done = 0.0
        while start < end:
            factor, until = self.at(start)
            until = min(until, end)
            if factor != STALLED:
                done += (until - start) / factor
            start = until
        return done
