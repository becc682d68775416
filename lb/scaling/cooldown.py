"""The cooldowns of AWS Application Auto Scaling.

After replicas were added, those count as a part of what is added next, until the cooldown is over: an alarm that added
2 and now wants 3 adds 1. After any change none are removed until its cooldown is over. Adding ends the cooldown of a
removal.

Source: Application Auto Scaling, API reference, StepScalingPolicyConfiguration.Cooldown and
TargetTrackingScalingPolicyConfiguration.ScaleOutCooldown, ScaleInCooldown.
"""

from __future__ import annotations


class Cooldown:
    """`scale_out` and `scale_in` are ns; `now` is monotonic ns."""

    def __init__(self, scale_out: int, scale_in: int) -> None:
        self._scale_out = scale_out
        self._scale_in = scale_in
        self._base: int | None = None  # replicas before those that were added
        self._out_until = 0
        self._in_until = 0

    def base(self, wanted: int, now: int) -> int:
        """The replicas from which one that adds has to count."""
        if self._base is not None and now >= self._out_until:
            self._base = None
        return wanted if self._base is None else min(self._base, wanted)

    def holds(self, now: int) -> bool:
        """Whether nothing may be removed yet."""
        return now < self._out_until or now < self._in_until

    def changed(self, before: int, after: int, now: int) -> None:
        """The number of replicas was changed at `now`."""
        if after > before:
            if self._base is None:
                self._base = before
            self._out_until, self._in_until = now + self._scale_out, 0
        elif after < before:
            self._base, self._in_until = None, now + self._scale_in
