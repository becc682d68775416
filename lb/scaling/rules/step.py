"""The rule `step`: step scaling of AWS.

An alarm is on after so many data points in a row at or beyond its threshold. Its steps say, by how far the last data
point is beyond the threshold, how many replicas to add or remove. Alarms that add win over those that remove; of
several the one with the most replicas does. A missing data point keeps an alarm off.

Source: EC2 Auto Scaling user guide, "Step and simple scaling policies" (bounds, adjustment types, rounding, and the
example that is the default); Application Auto Scaling, "Step scaling policies".
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from lb.config.schema.file import AlarmConfig, StepScalingConfig
from lb.scaling.cooldown import Cooldown
from lb.scaling.plan import is_stale, latest, plan
from lb.scaling.scaler import Decision, Look
from lb.scaling.windows import Meter


class _Alarm:
    def __init__(self, config: AlarmConfig) -> None:
        self.config = config
        self.meter = Meter(config.level)
        self._points: deque[float | None] = deque(maxlen=config.evaluation_periods)

    @property
    def last(self) -> float | None:
        return self._points[-1] if self._points else None

    def close(self, missing: bool) -> None:
        """End a data point."""
        reading = self.meter.take()
        self._points.append(None if reading is None or missing else reading.values[0])

    def is_on(self) -> bool:
        points = self._points
        return len(points) == points.maxlen and all(p is not None and beyond(self.config, p) for p in points)

    def wish(self, wanted: int, base: int) -> int:
        """The replicas it asks for, if it is on: those that add count from `base`."""
        assert self.last is not None
        step = adjustment_of(self.config, self.last)
        after = adjusted(self.config, base, step)
        return max(after, wanted) if after >= base else min(adjusted(self.config, wanted, step), wanted)


class Step:
    """A Scaler. One decision ends a data point of each alarm."""

    name = "step"

    def __init__(self, settings: StepScalingConfig) -> None:
        self.interval = settings.period
        self._alarms = [_Alarm(alarm) for alarm in settings.alarms]
        self._cooldown = Cooldown(settings.cooldown, settings.cooldown)
        self._look: Look | None = None

    def see(self, look: Look) -> None:
        self._look = look
        for alarm in self._alarms:
            alarm.meter.add(look.readings.get(alarm.config.signal))

    def decide(self, now: int) -> Decision:
        look = latest(self._look)
        for alarm in self._alarms:
            alarm.close(is_stale(look, now))
        base = self._cooldown.base(look.wanted, now)
        wishes = {i: alarm.wish(look.wanted, base) for i, alarm in enumerate(self._alarms) if alarm.is_on()}
        recommended, reason = self._combine(look.wanted, wishes)
        holds = recommended < look.wanted and self._cooldown.holds(now)
        detail = {
            f"{alarm.config.signal} {alarm.config.comparison} {alarm.config.threshold:g}": {
                "target": alarm.config.threshold, "average": alarm.last, "replicas": wishes.get(i)
            }
            for i, alarm in enumerate(self._alarms)
        }  # fmt: skip
        allowed = look.wanted if holds else recommended
        decision = plan(look, recommended, allowed, reason, "the cooldown" if holds else "", detail)
        self._cooldown.changed(look.wanted, decision.replicas, now)
        return decision

    def learned(self) -> Mapping[str, Any]:
        return {}

    def memory(self) -> bytes:
        """Nothing: alarms need data points of their own time."""
        return b""

    def restore(self, memory: bytes) -> None:
        if memory:
            raise ValueError("the rule step keeps nothing")

    def _combine(self, wanted: int, wishes: Mapping[int, int]) -> tuple[int, str]:
        """The largest wish; while the measure of any alarm is missing, nothing is removed."""
        missing = [alarm.config.signal for alarm in self._alarms if alarm.last is None]
        if wishes:
            i = max(wishes, key=lambda i: wishes[i])
            alarm, replicas = self._alarms[i], wishes[i]
            seen = f"{alarm.config.signal} {alarm.last:.4g}, {alarm.config.comparison} {alarm.config.threshold:.4g}"
            if replicas >= wanted or not missing:
                return replicas, f"{seen}: {replicas}"
        if missing:
            return wanted, "; ".join(f"{signal} is missing" for signal in dict.fromkeys(missing))
        return wanted, "no alarm"


def beyond(alarm: AlarmConfig, value: float) -> bool:
    """Whether a data point is at the threshold or on the alarm's side of it."""
    difference = _difference(alarm, value)
    return difference >= 0 if alarm.comparison == "above" else difference <= 0


def _difference(alarm: AlarmConfig, value: float) -> float:
    return round(value - alarm.threshold, 9)  # a mean of floats is a few units in the last place off


def adjustment_of(alarm: AlarmConfig, value: float) -> int:
    """The adjustment of the step that `value` lies in; 0 where it lies in none. The bound at the threshold's side
    belongs to a step, the other one does not."""
    difference = _difference(alarm, value)
    for step in alarm.steps:
        low, high = alarm.bounds(step)
        if low <= difference < high if alarm.comparison == "above" else low < difference <= high:
            return step.adjustment
    return 0


def adjusted(alarm: AlarmConfig, replicas: int, adjustment: int) -> int:
    """The replicas after an adjustment of so many."""
    if alarm.adjustment_type == "exact_capacity":
        return adjustment
    if alarm.adjustment_type == "change_in_capacity":
        return max(0, replicas + adjustment)
    change = math.trunc(replicas * adjustment / 100)
    if adjustment and abs(change) < alarm.min_adjustment_magnitude:
        change = int(math.copysign(alarm.min_adjustment_magnitude, adjustment))
    return max(0, replicas + change)
