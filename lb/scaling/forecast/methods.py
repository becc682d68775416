"""Forecasters of a series of equal bins: persistence, seasonal naive, exponential smoothing, harmonic regression.

Each is told the value of one bin after the other (`learn`) and says what it expects `ahead` bins later (`ahead` of
1 is the next bin). None of them looks at the past again, so a bin costs the same however long the history is.
"""

from __future__ import annotations

import math
from array import array
from typing import Protocol


class Forecaster(Protocol):
    """One method with what it has learned."""

    def learn(self, value: float) -> None:
        """The bin that has ended had this value."""

    def expect(self, ahead: int) -> float | None:
        """The value of the bin `ahead` bins after the last one, None while the method cannot tell."""


class Persistence:
    """The future is as the last bin. What any other method has to beat."""

    def __init__(self) -> None:
        self._last: float | None = None

    def learn(self, value: float) -> None:
        self._last = value

    def expect(self, ahead: int) -> float | None:
        return self._last


class SeasonalNaive:
    """The future is as one `period` (bins) earlier, times how this hour differs from the same hour then."""

    def __init__(self, period: int, recent: int) -> None:
        self._period = period
        self._recent = recent
        self._values: array[float] = array("f")
        self._next = 0

    def learn(self, value: float) -> None:
        values, size = self._values, self._period + self._recent
        if len(values) < size:
            values.append(value)
        else:
            values[self._next] = value
        self._next = (self._next + 1) % size

    def expect(self, ahead: int) -> float | None:
        values, size = self._values, self._period + self._recent
        if len(values) < size or ahead > self._period:
            return None
        last = self._next - 1
        now = math.fsum(values[(last - i) % size] for i in range(self._recent))
        then = math.fsum(values[(last - self._period - i) % size] for i in range(self._recent))
        value = values[(last - self._period + ahead) % size]
        return value * now / then if then > 0 else value


class Smoothing:
    """Exponential smoothing with a damped trend (Gardner, McKenzie: Forecasting trends in time series, 1985)."""

    def __init__(self, level: float, trend: float, damping: float) -> None:
        self._weights = (level, trend, damping)
        self._level: float | None = None
        self._trend = 0.0

    def learn(self, value: float) -> None:
        if self._level is None:
            self._level = value
            return
        level, trend, damping = self._weights
        before = self._level
        expected = before + damping * self._trend
        self._level = expected + level * (value - expected)
        self._trend = damping * self._trend + trend * (self._level - before - damping * self._trend)

    def expect(self, ahead: int) -> float | None:
        if self._level is None:
            return None
        damping = self._weights[2]
        steps = damping * (1 - damping**ahead) / (1 - damping) if damping < 1 else ahead
        return max(0.0, self._level + steps * self._trend)


class Harmonics:
    """Regression on sines and cosines of one `period` (bins), by recursive least squares that forgets, plus what of the
    last deviation lasts."""

    def __init__(self, period: int, harmonics: int, forget: float) -> None:
        self._period = period
        self._harmonics = harmonics
        self._forget = forget
        size = 1 + 2 * harmonics
        self._weights = [0.0] * size
        self._spread = [[1e4 if i == j else 0.0 for j in range(size)] for i in range(size)]
        self._seen = 0
        self._deviation = 0.0
        # Of deviations one bin apart: their product and their square, decayed.
        self._product = self._square = 0.0

    def learn(self, value: float) -> None:
        inputs = self._inputs(self._seen)
        error = value - self._fit(inputs)
        self._product += 0.01 * (error * self._deviation - self._product)
        self._square += 0.01 * (self._deviation * self._deviation - self._square)
        self._deviation = error
        self._seen += 1
        spread, forget = self._spread, self._forget
        moved = [sum(a * b for a, b in zip(row, inputs, strict=True)) for row in spread]
        scale = forget + sum(a * b for a, b in zip(inputs, moved, strict=True))
        for i, m in enumerate(moved):
            gain = m / scale
            self._weights[i] += gain * error
            row = spread[i]
            for j, n in enumerate(moved):
                row[j] = (row[j] - gain * n) / forget
        trace = sum(spread[i][i] for i in range(len(moved)))
        if trace > 1e6:  # nothing moves: without new information forgetting would inflate it without an end
            for row in spread:
                for j in range(len(row)):
                    row[j] *= 1e6 / trace

    def expect(self, ahead: int) -> float | None:
        if self._seen < self._period:
            return None
        lasting = max(0.0, min(1.0, self._product / self._square)) if self._square > 0 else 0.0
        return max(0.0, self._fit(self._inputs(self._seen - 1 + ahead)) + self._deviation * lasting**ahead)

    def _inputs(self, bin: int) -> list[float]:
        angle = 2 * math.pi * (bin % self._period) / self._period
        inputs = [1.0]
        for k in range(1, self._harmonics + 1):
            inputs += (math.cos(k * angle), math.sin(k * angle))
        return inputs

    def _fit(self, inputs: list[float]) -> float:
        return sum(a * b for a, b in zip(self._weights, inputs, strict=True))
