"""Automatic scaling of managed pools: the rule, and metrics, windows and step limits with the meaning of Kubernetes'
HPA v2."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from lb.config.schema.base import Integer, Model, Number, problem
from lb.config.schema.pools.scaling_rules import KpaConfig, RayConfig, StepScalingConfig, TargetTrackingConfig
from lb.config.schema.pools.schedules import ScheduleConfig
from lb.config.schema.pools.signals import MetricConfig, SignalConfig
from lb.config.units import HOUR, MILLISECOND, SECOND, Duration


class StepConfig(Model):
    """A limit of speed: at most so much change within `period`."""

    type: Literal["percent", "replicas"]
    """What `value` counts: percent of the model servers at the beginning of the period, or model servers."""
    value: Integer = Field(ge=1, le=100_000)
    """The most change in one period."""
    period: Duration = Field(default=15 * SECOND, ge=1 * SECOND, le=HOUR)
    """Length of the period."""


class BehaviorConfig(Model):
    """How fast the number of model servers may change in one direction."""

    window: Duration = Field(default=0, le=HOUR)
    """Stabilisation: the most careful wish of this span of time counts (the highest when going down, the lowest
    when going up). Longer rides out short swings. Default: `0s` for `up`, `300s` for `down`."""
    policies: list[StepConfig] = Field(
        default=[StepConfig(type="percent", value=100), StepConfig(type="replicas", value=4)], min_length=1
    )
    """Limits of speed. Default: for `up` 100 percent or 4 servers in 15 s, for `down` 100 percent in 15 s."""
    select: Literal["max", "min", "disabled"] = "max"
    """Which of several limits counts: the one that allows the most (`max`) or the least (`min`) change. `disabled`
    never scales in this direction."""


_DOWN: dict[str, Any] = {"window": "300s", "policies": [{"type": "percent", "value": 100, "period": "15s"}]}


def _down(value: Any) -> Any:
    return {**_DOWN, **value} if isinstance(value, dict) else value


Rule = Literal["auto", "hpa", "kpa", "target_tracking", "step", "ray"]
RULES: tuple[str, ...] = get_args(Rule)
OF_HPA = ("metrics", "interval", "tolerance", "up", "down")


class ScalingConfig(Model):
    """When model servers are added and removed, by a rule. An empty mapping (`scaling: {}`) is the rule `auto`, which
    learns. `metrics`, `interval`, `tolerance`, `up` and `down` are those of the rule `hpa`: desired = ceil(current *
    measured / target), the highest over all metrics. Which rule for what: [Scale](howto/scale.md)."""

    rule: Rule = "auto"
    """How the number is found: `auto`, which learns what the pool can do and what its load is like; or `hpa`
    (Kubernetes), `kpa` (Knative), `target_tracking` and `step` (AWS), `ray` (Ray Serve), each with the defaults of
    those who made it. The options of these stand in a section of the rule's name, but for those of `hpa`. Default: the
    rule whose section or keys are there, else `auto`."""
    objective: Duration | None = Field(default=None, ge=1 * MILLISECOND, le=HOUR)
    """Of `auto`: the time from a request to its answer that should not be exceeded. Default: none; a request may wait
    as long as it is served."""
    forecast: Literal["follow", "dry_run"] = "follow"
    """Of `auto`: whether forecasts of the load add model servers, or are made and shown alone. Forecasts never remove
    any."""
    metrics: list[MetricConfig] = Field(default=[MetricConfig(type="cpu", target=80)], min_length=1)
    """What is measured; the metric that asks for the most servers wins. Default: `cpu` at 80, as in Kubernetes."""
    interval: Duration = Field(default=15 * SECOND, ge=100 * MILLISECOND, le=HOUR)
    """Time between two decisions."""
    tolerance: Number = Field(default=0.1, ge=0, lt=1)
    """No change while measured / target is within 1 ± this."""
    up: BehaviorConfig = BehaviorConfig()
    """How fast servers are added."""
    down: Annotated[BehaviorConfig, BeforeValidator(_down, json_schema_input_type=BehaviorConfig)] = BehaviorConfig(
        window=300 * SECOND, policies=[StepConfig(type="percent", value=100)]
    )
    """How fast servers are removed."""
    kpa: KpaConfig = KpaConfig()
    """Options of the rule `kpa`."""
    target_tracking: TargetTrackingConfig = TargetTrackingConfig()
    """Options of the rule `target_tracking`."""
    step: StepScalingConfig = StepScalingConfig()
    """Options of the rule `step`."""
    ray: RayConfig = RayConfig()
    """Options of the rule `ray`."""
    schedules: list[ScheduleConfig] = []
    """Times with floors and ceilings of their own, under every rule. The highest floor and the lowest ceiling count,
    and a floor before a ceiling."""

    @property
    def signals(self) -> list[SignalConfig]:
        """What the rule measures by options of its own."""
        if self.rule == "hpa":
            return [*self.metrics]
        if self.rule == "target_tracking":
            return [*self.target_tracking.metrics]
        return [*self.step.alarms] if self.rule == "step" else []

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Where no rule is named, it is that of the one section that is there, or `hpa` with one of its keys."""
        if not isinstance(value, dict):
            return value
        if "rule" not in value:
            given = [rule for rule in RULES if rule in value] + ["hpa" for key in OF_HPA if key in value]
            value = {"rule": given[0], **value} if given else value
        rule = str(value.get("rule"))
        options = _SECTIONS[rule].model_fields if rule in _SECTIONS else {}
        beside = [key for key in value if key in options and key not in cls.model_fields]
        if beside:
            what = f"{' and '.join(beside)} {'is an option' if len(beside) == 1 else 'are options'} of {rule}"
            raise problem("misplaced", f"{what}; write {rule}: {{{', '.join(f'{key}: …' for key in beside)}}}")
        return value


_SECTIONS: dict[str, type[Model]] = {
    "kpa": KpaConfig,
    "target_tracking": TargetTrackingConfig,
    "step": StepScalingConfig,
    "ray": RayConfig,
}
