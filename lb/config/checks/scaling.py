"""What concerns scaling together with the rest of its section."""

from __future__ import annotations

from collections.abc import Iterator

from lb.config.schema.base import only_for
from lb.config.schema.pools.engine import EngineConfig
from lb.config.schema.pools.scaling import OF_HPA, RULES, ScalingConfig
from lb.config.schema.pools.scaling_rules import INFINITY, AlarmConfig
from lb.config.schema.pools.schedules import ScheduleConfig
from lb.config.schema.pools.serve import ServeConfig
from lb.config.schema.pools.signals import SignalConfig

_OF_PROMETHEUS = ("url", "query", "timeout", "shared")
_OF_AUTO = ("objective", "forecast")


def check_scaling(
    path: str, scaling: ScalingConfig, serve: ServeConfig | None, engine: EngineConfig | None
) -> Iterator[tuple[str, str]]:
    """Problems as (path, message) of a `scaling` section, beside its pool's `serve` and `engine`."""
    given = scaling.model_fields_set
    sections = [rule for rule in RULES if rule in given and rule != scaling.rule]
    for section in sections:
        yield f"{path}.{section}", f"only with rule {section}, and it is {scaling.rule}"
    if scaling.rule != "hpa":
        for name in OF_HPA:
            if name in given:
                has = hasattr(getattr(scaling, scaling.rule, None), name)
                meant = f"; {scaling.rule} has its own: {scaling.rule}.{name}" if has else ""
                yield f"{path}.{name}", f"only with rule hpa{meant}"
    if scaling.rule != "auto":
        yield from only_for(scaling, path, _OF_AUTO, f"only with rule auto, and it is {scaling.rule}")
    place = {"hpa": "metrics", "target_tracking": "target_tracking.metrics", "step": "step.alarms"}.get(scaling.rule)
    for i, signal in enumerate(scaling.signals):
        yield from _signal(f"{path}.{place}[{i}]", signal)
        if scaling.rule != "step" and signal.signal in [other.signal for other in scaling.signals[:i]]:
            yield f"{path}.{place}[{i}].type", f"{signal.signal} is there twice"
    if scaling.rule == "step":
        for i, alarm in enumerate(scaling.step.alarms):
            yield from _alarm(f"{path}.step.alarms[{i}]", alarm)
    for i, schedule in enumerate(scaling.schedules):
        yield from _schedule(f"{path}.schedules[{i}]", schedule, serve or engine)


def _schedule(
    path: str, schedule: ScheduleConfig, numbers: ServeConfig | EngineConfig | None
) -> Iterator[tuple[str, str]]:
    if schedule.cron is None and schedule.from_ is None and schedule.until is None:
        yield path, "says no time: cron with duration, or from and until"
    if schedule.cron is None and schedule.duration is not None:
        yield f"{path}.duration", "only with cron"
    if schedule.cron is not None and schedule.duration is None:
        yield f"{path}.duration", "is required with cron: how long it lasts each time"
    if schedule.min is None and schedule.max is None:
        yield path, "says nothing of the number: min, max or both"
    if schedule.from_ is not None and schedule.until is not None and schedule.begins() >= schedule.ends():
        yield f"{path}.until", "is not after from"
    low, high = schedule.min, schedule.max
    if low is not None and high is not None and low > high:
        yield f"{path}.min", f"{low} is more than max, which is {high}"
    section = "serve" if isinstance(numbers, ServeConfig) else "engine"
    if numbers is not None and low is not None and low > numbers.max:
        yield f"{path}.min", f"{low} is more than max of {section}, which is {numbers.max}"
    if numbers is not None and high is not None and high < numbers.min:
        yield f"{path}.max", f"{high} is less than min of {section}, which is {numbers.min}"


def _signal(path: str, signal: SignalConfig) -> Iterator[tuple[str, str]]:
    if signal.type != "latency":
        yield from only_for(signal, path, ("quantile",), "only with type latency")
    if signal.type != "prometheus":
        yield from only_for(signal, path, _OF_PROMETHEUS, "only with type prometheus")
        return
    for name in ("url", "query"):
        if getattr(signal, name) is None:
            yield f"{path}.{name}", "is required with type prometheus"


def _alarm(path: str, alarm: AlarmConfig) -> Iterator[tuple[str, str]]:
    if alarm.adjustment_type != "percent_change_in_capacity" and "min_adjustment_magnitude" in alarm.model_fields_set:
        yield f"{path}.min_adjustment_magnitude", "only with adjustment_type percent_change_in_capacity"
    for i, step in enumerate(alarm.steps):
        if alarm.adjustment_type == "exact_capacity" and step.adjustment < 0:
            yield f"{path}.steps[{i}].adjustment", "is a number of model servers with exact_capacity"
    yield from _steps(f"{path}.steps", alarm)


def _steps(path: str, alarm: AlarmConfig) -> Iterator[tuple[str, str]]:
    """The first problem with what the steps cover."""
    begin, end = (0.0, INFINITY) if alarm.comparison == "above" else (-INFINITY, 0.0)
    reached = begin
    for i in sorted(range(len(alarm.steps)), key=lambda i: alarm.bounds(alarm.steps[i])[0]):
        low, high = alarm.bounds(alarm.steps[i])
        if low < begin or high > end:
            yield f"{path}[{i}]", f"is on the other side of the threshold; the alarm is on {alarm.comparison} it"
        elif low >= high:
            yield f"{path}[{i}]", "lower_bound is not less than upper_bound"
        elif low != reached:
            yield f"{path}[{i}]", f"begins at {low:g}, and those before it end at {reached:g}: no gaps, no overlaps"
        else:
            reached = high
            continue
        return
    if reached != end:
        yield path, f"end at {reached:g}; the last one needs {'no upper_bound' if end else 'upper_bound 0'}"
