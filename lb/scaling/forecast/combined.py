"""The forecast of a pool's load: the forecasters weighed by their recent errors, and a quantile of what they missed."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from lb.config.units import DAY, MINUTE
from lb.scaling.forecast.methods import Forecaster, Harmonics, Persistence, SeasonalNaive, Smoothing

BIN = MINUTE
DAY_BINS = DAY // BIN
HISTORY_BINS = 15 * DAY_BINS  # two weeks and a day
# Errors count for about this many bins: long enough to be known, short enough to follow another regime.
ERROR_BINS = 720
# A forecaster is not believed before it was held against what came this often.
LEAST_CHECKED = 60
# Forecasts are used while their error is this part of persistence's or less; what is no better only costs replicas.
WORTH = 0.8
QUANTILE = 0.9
MISSES = 240


class _History(Struct, array_like=True):
    """What `memory` keeps: the format's number, the end of the last bin (seconds since the epoch), float32 values."""

    version: int
    end: float
    values: bytes


class Method(Struct):
    """A forecaster with its errors: a decayed mean of |error| and of error², over what came."""

    name: str
    forecaster: Forecaster
    absolute: float = 0.0
    square: float = 0.0
    checked: int = 0


class Forecast(Struct, frozen=True):
    """`expected` and `quantile` requests/s `ahead` bins from now; `used` says whether forecasts are worth it."""

    expected: float
    quantile: float
    ahead: int
    used: bool


class LoadForecast:
    """Learns from requests and says what to expect. Errors are those of forecasts `ahead` bins before.

    The history can be kept (`memory`) and taken over (`restore`): all that is learned comes from it anew.
    """

    def __init__(self) -> None:
        self._values: array[float] = array("f")
        self._begin()

    def _begin(self) -> None:
        self._ahead = 1
        self._found: Forecast | None = None
        self._methods = [
            Method("persistence", Persistence()),
            Method("seasonal_naive", SeasonalNaive(DAY_BINS, 60)),
            Method("weekly_naive", SeasonalNaive(7 * DAY_BINS, 60)),
            Method("smoothing", Smoothing(0.6, 0.0, 0.9)),
            Method("smoothing_trend", Smoothing(0.6, 0.2, 0.9)),
            Method("harmonics", Harmonics(DAY_BINS, 6, 1 - 1 / (3 * DAY_BINS))),
        ]
        # What was expected of the bins to come, by method, the next one first; and by the combination.
        self._expected: deque[tuple[list[float | None], float | None]] = deque()
        self._absolute = self._checked = 0.0
        self._persistence = self._level = 0.0
        self._misses: deque[float] = deque(maxlen=MISSES)
        self._bin: int | None = None
        self._requests = 0.0
        self._seconds = 0.0

    def see(self, wall: float, span: float, requests: float, ahead: float) -> None:
        """`requests` came in the `span` s until `wall` (s since the epoch). Forecasts are for `ahead` s later."""
        self._horizon(max(1, math.ceil(ahead * 1e9 / BIN)))
        number = int((wall - span / 2) * 1e9 // BIN)
        if self._bin is None:
            self._bin = number
        if number != self._bin:
            self._finish(number)
        self._requests += requests
        self._seconds += span

    def forecast(self) -> Forecast | None:
        """What to expect; None before the first bin has ended. It changes when a bin ends."""
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> Forecast | None:
        expected = self._combined([method.forecaster.expect(self._ahead) for method in self._methods])
        if expected is None:
            return None
        return Forecast(expected, expected * self._missed(), self._ahead, self._worth())

    def learned(self) -> Mapping[str, Any]:
        """For status: errors as parts of the load, and whether forecasts are used."""
        level = self._level or 1.0
        return {
            "bins": len(self._values),
            "used": self._worth(),
            "error": round(self._absolute / level, 4),
            "error_of_persistence": round(self._persistence / level, 4),
            "errors": [f"{m.name} {m.absolute / level:.4f}" for m in self._methods if m.checked],
        }

    def memory(self) -> bytes:
        """The history, at most two weeks and a day of minutes."""
        if self._bin is None or not self._values:
            return b""
        return msgspec.msgpack.encode(_History(1, self._bin * BIN / 1e9, self._values.tobytes()))

    def restore(self, memory: bytes) -> None:
        """Takes over what `memory` gave. Raises ValueError for other bytes."""
        if not memory:
            return
        try:
            kept = msgspec.msgpack.decode(memory, type=_History)
            values: array[float] = array("f")
            values.frombytes(kept.values)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ValueError(f"no history of a forecast: {error}") from None
        if kept.version != 1 or not all(math.isfinite(v) and v >= 0 for v in values):
            raise ValueError("no history of a forecast")
        self._begin()
        self._values = array("f")
        self._bin = round(kept.end * 1e9 / BIN)
        for value in values[-HISTORY_BINS:]:
            self._learn(value)

    def _horizon(self, ahead: int) -> None:
        if ahead != self._ahead:
            self._ahead = ahead
            self._expected.clear()
            self._found = None

    def _finish(self, number: int) -> None:
        """The bin is over. Time that nobody saw is not taken for one without requests: its bins repeat the last."""
        assert self._bin is not None
        missed = number - self._bin
        rate = self._requests / self._seconds if self._seconds else 0.0
        if missed < 0 or missed > HISTORY_BINS:  # the clock was set, or the history says nothing any more
            self._values = array("f")
            self._begin()
        else:
            self._learn(rate)
            for _ in range(missed - 1):
                self._learn(self._values[-DAY_BINS] if len(self._values) >= DAY_BINS else rate)
        self._bin = number
        self._requests = self._seconds = 0.0

    def _learn(self, value: float) -> None:
        self._found = None
        self._values.append(value)
        if len(self._values) > HISTORY_BINS + DAY_BINS:
            del self._values[:DAY_BINS]
        if len(self._expected) >= self._ahead:
            self._check(*self._expected.popleft(), value)
        for method in self._methods:
            method.forecaster.learn(value)
        each = [method.forecaster.expect(self._ahead) for method in self._methods]
        self._expected.append((each, self._combined(each)))

    def _check(self, each: list[float | None], combined: float | None, value: float) -> None:
        for method, expected in zip(self._methods, each, strict=True):
            if expected is not None:
                method.checked += 1
                weight = max(1 / method.checked, 1 / ERROR_BINS)
                method.absolute += weight * (abs(value - expected) - method.absolute)
                method.square += weight * ((value - expected) ** 2 - method.square)
        if combined is not None and each[0] is not None:
            self._checked += 1
            weight = max(1 / self._checked, 1 / ERROR_BINS)
            self._absolute += weight * (abs(value - combined) - self._absolute)
            self._persistence += weight * (abs(value - each[0]) - self._persistence)
            self._level += weight * (value - self._level)
            if combined > 0:
                self._misses.append(value / combined)

    def _combined(self, each: list[float | None]) -> float | None:
        """Weights are the inverse of the mean squared errors (Bates, Granger: The combination of forecasts, 1969), to
        the second power, so that a method which is far off has no say."""
        total = weights = 0.0
        for method, expected in zip(self._methods, each, strict=True):
            if expected is not None and method.checked >= LEAST_CHECKED:
                weight = 1.0 / max(method.square, 1e-12) ** 2
                total += weight * expected
                weights += weight
        return total / weights if weights else each[0]

    def _missed(self) -> float:
        """The quantile of what came, divided by what was expected."""
        if len(self._misses) < LEAST_CHECKED:
            return 1.0
        ordered = sorted(self._misses)
        return max(1.0, ordered[min(len(ordered) - 1, int(QUANTILE * len(ordered)))])

    def _worth(self) -> bool:
        return self._checked >= LEAST_CHECKED and self._absolute <= WORTH * self._persistence
