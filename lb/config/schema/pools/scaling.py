"""Automatic scaling of managed pools: metrics, windows and step limits, with the meaning of Kubernetes' HPA v2."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lb.config.schema.base import Integer, Model, Number
from lb.config.units import HOUR, MILLISECOND, SECOND, Duration


class MetricConfig(Model):
    """One measure, averaged over the ready model servers, and the value that scaling aims at."""

    type: Literal["in_flight", "cpu"]
    """`in_flight`: requests a model server works on at once, and its share of those that wait in the pool's `queue`.
    `cpu`: percent of one core that it uses, so that 100 is one busy core."""
    target: Number = Field(gt=0, le=1_000_000)
    """The value to hold. Lower keeps more spare servers."""


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


class ScalingConfig(Model):
    """When model servers are added and removed: desired = ceil(current * measured / target), the highest over all
    metrics."""

    metrics: list[MetricConfig] = Field(min_length=1)
    """What is measured; the metric that asks for the most servers wins."""
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
