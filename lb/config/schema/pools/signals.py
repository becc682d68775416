"""Signals: what scaling goes by, and the values that rules hold them against."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo

from lb.config.schema.base import Model, Number, problem
from lb.config.units import SECOND, parse_duration

# Signals in seconds, which files spell as durations.
_TIMES = ("queue_wait",)


class SignalConfig(Model):
    """A measure of a pool."""

    type: Literal["in_flight", "cpu", "requests_per_second", "queue_length", "queue_wait"]
    """`in_flight`: requests a model server works on at once, and its share of those that wait in the pool's `queue`.
    `cpu`: percent of one core that it uses, so that 100 is one busy core. `requests_per_second`: requests that arrive
    for it, as its share of the pool's. `queue_length`: its share of the requests that wait. `queue_wait`: mean time
    that answered requests waited in the queue."""

    @property
    def signal(self) -> str:
        """Its name among the readings of a look (`lb.scaling.scaler.Look`)."""
        return self.type

    @property
    def level(self) -> bool:
        """Whether it is a state of the whole pool, and no sum over its model servers."""
        return self.type in _TIMES


def _target(value: Any, info: ValidationInfo) -> Any:
    kind = info.data.get("type")
    if kind not in _TIMES or (info.context is None and isinstance(value, int | float)):
        return value
    if not isinstance(value, str):
        raise problem("duration", "must be a duration with its unit, such as 250ms or 2s")
    try:
        return parse_duration(value) / SECOND
    except ValueError as error:
        raise problem("duration", str(error)) from None


Target = Annotated[Number, BeforeValidator(_target, json_schema_input_type=float | str)]
"""A value of a signal: a number in its unit; of times a duration in files and seconds in Python."""


class MetricConfig(SignalConfig):
    """One measure, averaged over the ready model servers, and the value that scaling aims at."""

    target: Target = Field(gt=0, le=1_000_000)
    """The value to hold. Lower keeps more spare servers. Of `queue_wait` a duration."""
