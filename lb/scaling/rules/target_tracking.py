"""The rule `target_tracking`: target tracking of AWS Application Auto Scaling.

Each metric has two alarms. The high one is on after 3 data points in a row above the target; then
`ceil(replicas * measured / target)` are wanted. The low one is on after 15 data points below nine tenths of the target;
then the same number is, which is smaller. Of several metrics the largest wish counts, and none is removed unless all
have their low alarm on. A missing data point keeps both alarms off.

Source: Application Auto Scaling user guide, "Target tracking scaling policies"; EC2 Auto Scaling user guide, the same
(proportion, rounding up, several policies). The alarms are those that CloudWatch shows for such policies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from lb.config.schema.file import MetricConfig, TargetTrackingConfig
from lb.scaling.cooldown import Cooldown
from lb.scaling.plan import is_stale, latest, plan
from lb.scaling.propose import round_up
from lb.scaling.scaler import Decision, Look
from lb.scaling.windows import Meter

HIGH_POINTS = 3
LOW_POINTS = 15
LOW = 0.9  # of the target


class _Wish(Struct, frozen=True):
    metric: str
    target: float
    average: float | None
    replicas: int | None  # None while no alarm is on
    high: bool = False

    @property
    def reason(self) -> str:
        if self.average is None:
            return f"{self.metric} is missing"
        seen = f"{self.metric} {self.average:.4g}, target {self.target:.4g}"
        return f"{seen}: no alarm" if self.replicas is None else f"{seen}: {self.replicas}"


class _Tracked:
    """One metric with its data points."""

    def __init__(self, metric: MetricConfig) -> None:
        self.metric = metric
        self.meter = Meter(metric.level)
        self._points: deque[float | None] = deque(maxlen=LOW_POINTS)

    def close(self, missing: bool) -> None:
        """End a data point."""
        reading = self.meter.take()
        self._points.append(None if reading is None or missing else reading.values[0])

    def wish(self, wanted: int, base: int) -> _Wish:
        """What the alarms ask for of a pool of `wanted` replicas, where adding counts from `base`."""
        target, points = self.metric.target, list(self._points)
        last = points[-1]
        if last is None:
            return _Wish(self.metric.signal, target, None, None)
        recent = points[-HIGH_POINTS:]
        if len(recent) == HIGH_POINTS and all(p is not None and p > target for p in recent):
            return _Wish(self.metric.signal, target, last, max(wanted, round_up(base * last / target)), True)
        if len(points) == LOW_POINTS and all(p is not None and p < LOW * target for p in points):
            return _Wish(self.metric.signal, target, last, min(wanted, round_up(wanted * last / target)))
        return _Wish(self.metric.signal, target, last, None)


class TargetTracking:
    """A Scaler. One decision ends a data point of each metric."""

    name = "target_tracking"

    def __init__(self, settings: TargetTrackingConfig) -> None:
        self.interval = settings.period
        self._tracked = [_Tracked(metric) for metric in settings.metrics]
        self._scale_in = not settings.disable_scale_in
        self._cooldown = Cooldown(settings.scale_out_cooldown, settings.scale_in_cooldown)
        self._look: Look | None = None

    def see(self, look: Look) -> None:
        self._look = look
        for tracked in self._tracked:
            tracked.meter.add(look.readings.get(tracked.metric.signal))

    def decide(self, now: int) -> Decision:
        look = latest(self._look)
        for tracked in self._tracked:
            tracked.close(is_stale(look, now))
        base = self._cooldown.base(look.wanted, now)
        wishes = [tracked.wish(look.wanted, base) for tracked in self._tracked]
        recommended, reason = _combine(look.wanted, wishes)
        allowed, held = recommended, ""
        if recommended < look.wanted and not self._scale_in:
            allowed, held = look.wanted, "disable_scale_in"
        elif recommended < look.wanted and self._cooldown.holds(now):
            allowed, held = look.wanted, "a cooldown"
        detail = {w.metric: {"target": w.target, "average": w.average, "replicas": w.replicas} for w in wishes}
        decision = plan(look, recommended, allowed, reason, held, detail)
        self._cooldown.changed(look.wanted, decision.replicas, now)
        return decision

    def learned(self) -> Mapping[str, Any]:
        return {}

    def memory(self) -> bytes:
        """Nothing: alarms need data points of their own time."""
        return b""

    def restore(self, memory: bytes) -> None:
        if memory:
            raise ValueError("the rule target_tracking keeps nothing")


def _combine(wanted: int, wishes: list[_Wish]) -> tuple[int, str]:
    asked = [wish for wish in wishes if wish.replicas is not None]
    best = max(asked, key=lambda wish: wish.replicas or 0, default=None)
    replicas = wanted if best is None or best.replicas is None else best.replicas
    if best is not None and replicas >= wanted:
        return replicas, best.reason
    others = [wish.reason for wish in wishes if wish.replicas is None]
    if best is None or others:  # all have to agree on removing some
        return wanted, "; ".join(others)
    return replicas, best.reason
