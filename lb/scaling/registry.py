"""The scaling rules by name."""

from __future__ import annotations

from collections.abc import Callable

from lb.config.schema.file import ScalingConfig
from lb.scaling.rules.hpa import Hpa
from lb.scaling.rules.kpa import Kpa
from lb.scaling.rules.ray import Ray
from lb.scaling.rules.step import Step
from lb.scaling.rules.target_tracking import TargetTracking
from lb.scaling.scaler import Scaler
from lb.scaling.schedules import Scheduled

RULES: dict[str, Callable[[ScalingConfig], Scaler]] = {
    "hpa": Hpa,
    "kpa": lambda settings: Kpa(settings.kpa),
    "target_tracking": lambda settings: TargetTracking(settings.target_tracking),
    "step": lambda settings: Step(settings.step),
    "ray": lambda settings: Ray(settings.ray),
}


def build(settings: ScalingConfig) -> Scaler:
    """The rule that `settings` name, with its options, within their schedules and without any memory."""
    rule = RULES[settings.rule](settings)
    return Scheduled(rule, settings.schedules) if settings.schedules else rule
