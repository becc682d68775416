"""The options of the scaling rules, under the names and with the defaults of those who made them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lb.config.schema.base import Boolean, Integer, Model, Number
from lb.config.schema.pools.signals import MetricConfig, SignalConfig, Target
from lb.config.units import HOUR, SECOND, Duration

INFINITY = float("inf")


class KpaConfig(Model):
    """Knative's KPA: concurrency or requests per second over a stable window, and a short panic window for bursts.
    Decides every 2 s. Knative's activator, which holds requests, is here the pool's `queue`."""

    metric: Literal["concurrency", "rps"] = "concurrency"
    """What is measured: requests at the model servers and in the queue at once, or requests per second."""
    target: Number | None = Field(default=None, gt=0, le=1_000_000)
    """The most that one model server is to have. Default: `container_concurrency` if it is set, else 100; of `rps`
    200."""
    container_concurrency: Integer = Field(default=0, ge=0, le=1_000_000)
    """Requests that one model server can work on at once; `target` is never more. `0`: no limit."""
    target_utilization_percentage: Number = Field(default=70, ge=1, le=100)
    """Part of the target that is aimed at, so that there is room until new model servers are ready."""
    stable_window: Duration = Field(default=60 * SECOND, ge=6 * SECOND, le=HOUR)
    """Time over which the measure is averaged."""
    panic_window_percentage: Number = Field(default=10, ge=1, le=100)
    """Length of the panic window as part of the stable one."""
    panic_threshold_percentage: Number = Field(default=200, gt=100, le=1000)
    """The panic begins when the panic window asks for so many percent of the model servers that are ready. In a panic
    the larger of both windows counts, and none is removed until one stable window after the last such moment."""
    max_scale_up_rate: Number = Field(default=1000, gt=1, le=1_000_000)
    """Most model servers after one decision, as a multiple of those that are ready."""
    max_scale_down_rate: Number = Field(default=2, gt=1, le=1_000_000)
    """Fewest model servers after one decision: those that are ready divided by this."""
    scale_down_delay: Duration = Field(default=0, le=HOUR)
    """The highest wish of this span of time counts."""


class TargetTrackingConfig(Model):
    """Target tracking of AWS Application Auto Scaling: in proportion to the measure, out after 3 data points above the
    target, in after 15 data points more than 10 % below it."""

    metrics: list[MetricConfig] = Field(default=[MetricConfig(type="cpu", target=50)], min_length=1)
    """What is measured. The metric that asks for the most model servers wins; they are removed when all agree."""
    period: Duration = Field(default=60 * SECOND, ge=1 * SECOND, le=HOUR)
    """Time of one data point and between two decisions. AWS has 1 minute, with high resolution metrics 10 s."""
    scale_out_cooldown: Duration = Field(default=300 * SECOND, le=HOUR)
    """Time after model servers were added in which they count as a part of what is added next."""
    scale_in_cooldown: Duration = Field(default=300 * SECOND, le=HOUR)
    """Time after model servers were removed in which no more are."""
    disable_scale_in: Boolean = False
    """Whether model servers are never removed."""


class StepAdjustmentConfig(Model):
    """How far to go when the measure is so far beyond an alarm's threshold."""

    lower_bound: Number | None = None
    """Least difference of measure and threshold, in the unit of the measure. Default: of an alarm `above` 0, of one
    `below` no bound."""
    upper_bound: Number | None = None
    """Greatest difference. Default: of an alarm `above` no bound, of one `below` 0."""
    adjustment: Integer = Field(ge=-1_000_000, le=1_000_000)
    """What is added, or removed if it is negative, as `adjustment_type` says."""


class AlarmConfig(SignalConfig):
    """A threshold of one measure, averaged over the ready model servers, and what to do beyond it."""

    threshold: Target = Field(ge=0)
    """The alarm is on when the measure is at or beyond this."""
    comparison: Literal["above", "below"] = "above"
    """The side on which the alarm is on."""
    evaluation_periods: Integer = Field(default=2, ge=1, le=100)
    """Data points in a row that have to be beyond the threshold."""
    adjustment_type: Literal["change_in_capacity", "percent_change_in_capacity", "exact_capacity"] = (
        "change_in_capacity"
    )
    """What an `adjustment` counts: model servers, percent of them, or model servers there are to be. Percent are
    rounded towards 0, but a change is at least 1."""
    min_adjustment_magnitude: Integer = Field(default=1, ge=1, le=100_000)
    """Least change of `percent_change_in_capacity`, in model servers."""
    steps: list[StepAdjustmentConfig] = Field(min_length=1)
    """What to do, by how far the measure is beyond the threshold. The steps have no gaps and do not overlap."""

    def bounds(self, step: StepAdjustmentConfig) -> tuple[float, float]:
        """The differences of measure and threshold that a step of this alarm is for."""
        begin, end = (0.0, INFINITY) if self.comparison == "above" else (-INFINITY, 0.0)
        return (
            begin if step.lower_bound is None else step.lower_bound,
            end if step.upper_bound is None else step.upper_bound,
        )


def _example(threshold: float, comparison: str, ten: tuple[float, float], thirty: float) -> AlarmConfig:
    above = comparison == "above"
    sign = 1 if above else -1
    far = {"lower_bound": thirty} if above else {"upper_bound": thirty}
    steps = [{"lower_bound": ten[0], "upper_bound": ten[1], "adjustment": sign * 10}, {**far, "adjustment": sign * 30}]
    return AlarmConfig.model_validate(
        {
            "type": "cpu",
            "threshold": threshold,
            "comparison": comparison,
            "adjustment_type": "percent_change_in_capacity",
            "steps": steps,
        }
    )


class StepScalingConfig(Model):
    """Step scaling of AWS: alarms, and how many model servers to add or remove beyond each."""

    alarms: list[AlarmConfig] = Field(
        default=[_example(60, "above", (0, 10), 10), _example(40, "below", (-10, 0), -10)], min_length=1
    )
    """The alarms. Default: the example of AWS' documentation, by `cpu`: from 60 percent on 10 % more, from 70 on 30 %
    more; from 40 percent down 10 % less, from 30 down 30 % less."""
    period: Duration = Field(default=60 * SECOND, ge=1 * SECOND, le=HOUR)
    """Time of one data point and between two decisions."""
    cooldown: Duration = Field(default=300 * SECOND, le=HOUR)
    """Time after a change. Model servers that were added in it count as a part of what is added next (after 2, a step
    of 3 adds 1), and none are removed."""


class RayConfig(Model):
    """Ray Serve's autoscaling: ongoing requests for each model server, after a delay."""

    target_ongoing_requests: Number = Field(default=2, gt=0, le=1_000_000)
    """Requests that one model server is to have at once, those in the queue included."""
    upscale_delay: Duration = Field(default=30 * SECOND, le=HOUR)
    """Time for which more model servers have to be wished for before they are added."""
    downscale_delay: Duration = Field(default=600 * SECOND, le=HOUR)
    """Time for which fewer have to be wished for before some are removed."""
    downscale_to_zero_delay: Duration | None = Field(default=None, le=HOUR)
    """The same for the last one. Default: `downscale_delay`."""
    upscaling_factor: Number = Field(default=1, gt=0, le=1000)
    """Multiplies each wish for more: less than 1 goes up in smaller steps."""
    downscaling_factor: Number = Field(default=1, gt=0, le=1000)
    """Multiplies each wish for fewer."""
    look_back_period: Duration = Field(default=30 * SECOND, ge=1 * SECOND, le=HOUR)
    """Time over which the requests are averaged."""
