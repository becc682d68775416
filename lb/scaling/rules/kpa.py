"""The rule `kpa`: Knative's Pod Autoscaler.

The stable window asks for `ceil(observed / target)` replicas, the panic window for the same by its own, shorter mean.
Both are kept within the rates of change, counted from the replicas that are ready. Once the panic window asks for twice
what is ready, nothing is removed until a stable window after the last such moment. What Knative's activator does,
holding requests and bursts, is here the pool's queue, so that there is no target burst capacity.

Source: knative/serving, pkg/autoscaler/scaling/autoscaler.go (the algorithm), pkg/autoscaler/config (the defaults).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lb.config.schema.file import KpaConfig
from lb.config.units import SECOND
from lb.scaling.plan import is_stale, latest, plan, stay
from lb.scaling.propose import round_up
from lb.scaling.scaler import Decision, Look, Traffic
from lb.scaling.windows import Highest, Window

TICK = 2 * SECOND  # Knative's tick-interval
LEAST_TARGET = 0.01
# Of a replica without a target of its own: container-concurrency-target-default and requests-per-second-target-default.
CONCURRENCY = 100.0
RPS = 200.0


class Kpa:
    """A Scaler."""

    name = "kpa"
    interval = TICK

    def __init__(self, settings: KpaConfig) -> None:
        self.target = target_of(settings)
        self._settings = settings
        self._stable = Window(settings.stable_window)
        self._panic = Window(round(settings.stable_window * settings.panic_window_percentage / 100))
        self._delayed = Highest(settings.scale_down_delay) if settings.scale_down_delay else None
        self._look: Look | None = None
        self._panic_since: int | None = None
        self._peak = 0  # most replicas of this panic

    def see(self, look: Look) -> None:
        # Without history the first moments would remove what runs.
        if self._look is None and look.wanted > 1:
            self.begin_panic(look.at, look.wanted)
        self._look = look
        if look.traffic is not None and look.traffic.span > 0:
            observed = _observed(look.traffic, self._settings.metric)
            self._stable.add(look.at, look.traffic.span, observed)
            self._panic.add(look.at, look.traffic.span, observed)

    def decide(self, now: int) -> Decision:
        look = latest(self._look)
        stable, panic = self._stable.mean(now), self._panic.mean(now)
        if look.traffic is None or is_stale(look, now) or stable is None or panic is None:
            return stay(look, f"{self._settings.metric} is missing")
        recommended = self.recommend(stable, panic, look.ready, now)
        wanted = recommended if self._delayed is None else self._delayed.of(now, recommended)
        detail = {
            "stable": {"target": self.target, "average": stable, "replicas": round_up(stable / self.target)},
            "panic": {"target": self.target, "average": panic, "replicas": round_up(panic / self.target)},
        }
        reason = (
            f"{self._settings.metric} {stable:.4g} in the stable window, {panic:.4g} in the panic window, "
            f"target {self.target:.4g} per replica: {recommended}"
        )
        if self._panic_since is not None:
            reason += f", in a panic for {(now - self._panic_since) / SECOND:.0f} s"
        return plan(look, recommended, wanted, reason, "scale_down_delay", detail)

    def recommend(self, stable: float, panic: float, ready: int, now: int) -> int:
        """Replicas for the means of both windows (requests at once, or per second) while `ready` ones serve, at `now`
        (monotonic ns): the panic is begun, goes on or ends."""
        settings = self._settings
        ready = max(1, ready)
        highest = round_up(settings.max_scale_up_rate * ready)
        lowest = math.floor(ready / settings.max_scale_down_rate)
        by_stable, by_panic = round_up(stable / self.target), round_up(panic / self.target)
        if by_panic / ready >= settings.panic_threshold_percentage / 100:
            self.begin_panic(now, self._peak)
        elif self._panic_since is not None and now - self._panic_since > settings.stable_window:
            self._panic_since, self._peak = None, 0
        wanted = min(max(by_stable, lowest), highest)
        if self._panic_since is None:
            return wanted
        self._peak = max(self._peak, wanted, min(max(by_panic, lowest), highest))
        return self._peak

    def begin_panic(self, now: int, peak: int) -> None:
        """Or go on with it: from `now` on for a stable window at least, with `peak` replicas at least."""
        self._panic_since, self._peak = now, peak

    def learned(self) -> Mapping[str, Any]:
        return {"panic": self._panic_since is not None, "panic_peak": self._peak}

    def memory(self) -> bytes:
        """Nothing: a start with several replicas is a panic, in which none is removed."""
        return b""

    def restore(self, memory: bytes) -> None:
        if memory:
            raise ValueError("the rule kpa keeps nothing")


def target_of(settings: KpaConfig) -> float:
    """What one replica is to have: the most that it may have, less the room that is kept."""
    default = (settings.container_concurrency or CONCURRENCY) if settings.metric == "concurrency" else RPS
    most = default if settings.target is None else settings.target
    if settings.metric == "concurrency" and settings.container_concurrency:
        most = min(most, settings.container_concurrency)
    return max(LEAST_TARGET, most * settings.target_utilization_percentage / 100)


def _observed(traffic: Traffic, metric: str) -> float:
    if metric == "rps":
        return traffic.arrived * SECOND / traffic.span
    return traffic.in_flight + traffic.waiting
