"""The rule `ray`: the default policy of Ray Serve.

Wanted are the ongoing requests, averaged over the look-back period, divided by the target; a factor makes the way there
shorter or longer. A wish has to hold for its delay without a break before it is followed. The last replica goes by a
delay of its own; a pool without replicas gets one as soon as there is a request. Ray's controller decides every 0.1 s
by what replicas push to it every 10 s; here both happen once a second.

Source: ray-project/ray, python/ray/serve/autoscaling_policy.py and AutoscalingConfig.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lb.config.schema.file import RayConfig
from lb.config.units import SECOND
from lb.scaling.plan import is_stale, latest, plan, stay
from lb.scaling.propose import EPSILON, round_up
from lb.scaling.scaler import Decision, Look
from lb.scaling.windows import Window


class Ray:
    """A Scaler."""

    name = "ray"
    interval = SECOND

    def __init__(self, settings: RayConfig) -> None:
        self._settings = settings
        self._ongoing = Window(settings.look_back_period)
        self._look: Look | None = None
        self._direction = 0  # of the wish that has not been followed yet
        self._since = 0

    def see(self, look: Look) -> None:
        self._look = look
        if look.traffic is not None and look.traffic.span > 0:
            self._ongoing.add(look.at, look.traffic.span, look.traffic.in_flight + look.traffic.waiting)

    def decide(self, now: int) -> Decision:
        look = latest(self._look)
        ongoing = self._ongoing.mean(now)
        if look.traffic is None or is_stale(look, now) or ongoing is None:
            self._direction = 0
            return stay(look, "ongoing requests are missing")
        desired = self.desired(ongoing, look.ready, look.wanted)
        bounded = max(look.minimum, min(desired, look.maximum))
        allowed = bounded if look.ready == 0 else self.delayed(bounded, look.wanted, now)
        target = self._settings.target_ongoing_requests
        reason = f"{ongoing:.4g} ongoing requests, target {target:.4g} per replica: {desired}"
        detail = {"ongoing_requests": {"target": target, "average": ongoing, "replicas": desired}}
        held = "upscale_delay" if bounded > look.wanted else "downscale_delay"
        return plan(look, desired, allowed, reason, held if allowed != bounded else "", detail)

    def desired(self, ongoing: float, ready: int, wanted: int) -> int:
        """Replicas for so many requests at once while `ready` ones run, before limits and delays."""
        settings = self._settings
        if ready == 0:
            return max(math.ceil(settings.upscaling_factor), wanted) if ongoing > EPSILON else wanted
        desired = ongoing / settings.target_ongoing_requests
        factor = settings.upscaling_factor if desired > ready else settings.downscaling_factor
        replicas = round_up(ready + factor * (desired - ready))
        # A small factor must not keep it from going down at all.
        stuck = replicas == ready and round_up(desired) < ready
        return replicas - 1 if stuck else replicas

    def delayed(self, desired: int, wanted: int, now: int) -> int:
        """`desired` once it was on the same side of `wanted` for the delay of that side, until then `wanted`."""
        direction = (desired > wanted) - (desired < wanted)
        if direction != self._direction:
            self._direction, self._since = direction, now
        if direction == 0:
            return wanted
        settings = self._settings
        delay = settings.upscale_delay if direction > 0 else settings.downscale_delay
        if direction < 0 and wanted == 1 and settings.downscale_to_zero_delay is not None:
            delay = settings.downscale_to_zero_delay
        if now - self._since < delay:
            return wanted
        self._direction = 0
        return desired if direction > 0 or wanted == 1 else max(1, desired)

    def learned(self) -> Mapping[str, Any]:
        return {}

    def memory(self) -> bytes:
        """Nothing: after a restart each delay begins anew."""
        return b""

    def restore(self, memory: bytes) -> None:
        if memory:
            raise ValueError("the rule ray keeps nothing")
