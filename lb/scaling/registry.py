"""The scaling rules by name. Each is loaded by the pools that go by it: a start waits for no other."""

from __future__ import annotations

from collections.abc import Callable

from lb.config.schema.file import ScalingConfig
from lb.scaling.scaler import Scaler


def _auto(settings: ScalingConfig) -> Scaler:
    from lb.scaling.rules.auto import Auto

    return Auto(settings.objective, settings.forecast == "follow")


def _hpa(settings: ScalingConfig) -> Scaler:
    from lb.scaling.rules.hpa import Hpa

    return Hpa(settings)


def _kpa(settings: ScalingConfig) -> Scaler:
    from lb.scaling.rules.kpa import Kpa

    return Kpa(settings.kpa)


def _target_tracking(settings: ScalingConfig) -> Scaler:
    from lb.scaling.rules.target_tracking import TargetTracking

    return TargetTracking(settings.target_tracking)


def _step(settings: ScalingConfig) -> Scaler:
    from lb.scaling.rules.step import Step

    return Step(settings.step)


def _ray(settings: ScalingConfig) -> Scaler:
    from lb.scaling.rules.ray import Ray

    return Ray(settings.ray)


RULES: dict[str, Callable[[ScalingConfig], Scaler]] = {
    "auto": _auto,
    "hpa": _hpa,
    "kpa": _kpa,
    "target_tracking": _target_tracking,
    "step": _step,
    "ray": _ray,
}


def build(settings: ScalingConfig) -> Scaler:
    """The rule that `settings` name, with its options, within their schedules and without any memory."""
    rule = RULES[settings.rule](settings)
    if not settings.schedules:
        return rule
    from lb.scaling.schedules import Scheduled

    return Scheduled(rule, settings.schedules)
