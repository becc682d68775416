"""What signals were over a time: means since the last decision, and over a span that ends now."""

from __future__ import annotations

import math
from collections import deque

from lb.config.units import SECOND
from lb.scaling.propose import Reading

# A look that is older says nothing about now. Far longer than the time between two looks (1 s).
STALE = 15 * SECOND


class Meter:
    """The readings of one signal since the last `take`, as one reading.

    A sum over replicas (such as requests in flight) and not its share is averaged: replicas that joined meanwhile have
    their part of the same load. A `level` (such as a queue's wait) is averaged as it is.
    """

    def __init__(self, level: bool = False) -> None:
        self._level = level
        self._total = 0.0
        self._count = 0
        self._last: Reading | None = None

    def add(self, reading: Reading | None) -> None:
        """Take note of the reading of a look; None or one without values is missing."""
        if reading is None or not reading.values:
            self._last = None
            return
        self._last = reading
        average = math.fsum(reading.values) / len(reading.values)
        self._total += average if self._level else average * (len(reading.values) + reading.missing)
        self._count += 1

    def take(self) -> Reading | None:
        """The mean for each replica of the last look; None if that had none. What was noted is over with it."""
        last, mean = self._last, self._total / max(1, self._count)
        self._total, self._count, self._last = 0.0, 0, None
        if last is None:
            return None
        count = len(last.values)
        each = mean if self._level else mean / (count + last.missing)
        return Reading((each,) * count, last.missing, last.unready)


class Window:
    """Values over a span of time that ends now; each counts for as long as it was measured."""

    def __init__(self, span: int) -> None:
        self._span = span
        self._values: deque[tuple[int, int, float]] = deque()  # when, how long, value * how long
        self._length = 0
        self._total = 0.0

    def add(self, at: int, length: int, value: float) -> None:
        """`value` was the mean over `length` ns until `at`."""
        self._forget(at)
        weighted = value * length
        self._values.append((at, length, weighted))
        self._length += length
        self._total += weighted

    def mean(self, now: int) -> float | None:
        """The mean over the span; None if nothing was measured in it."""
        self._forget(now)
        return self._total / self._length if self._length else None

    def _forget(self, now: int) -> None:
        values = self._values
        while values and values[0][0] <= now - self._span:
            _, length, weighted = values.popleft()
            self._length -= length
            self._total -= weighted
        if not values:
            self._total = 0.0  # what adding and subtracting has left


class Highest:
    """The highest value of a span of time that ends now."""

    def __init__(self, span: int) -> None:
        self._span = span
        self._values: deque[tuple[int, int]] = deque()  # falling: none that a later, higher one outlasts

    def of(self, now: int, value: int) -> int:
        """The highest since the span began, `value` at `now` included."""
        values = self._values
        while values and values[-1][1] <= value:
            values.pop()
        values.append((now, value))
        while values[0][0] <= now - self._span and len(values) > 1:
            values.popleft()
        return values[0][1]
