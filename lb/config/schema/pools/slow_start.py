"""Slow start: endpoints that come up get their share little by little."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lb.config.schema.base import Integer, Model, Number
from lb.config.units import MILLISECOND, Duration


class SlowStartConfig(Model):
    """How the share of an endpoint grows after it came up, was enabled or added, or is taken back after an ejection:
    over `window`, from `min_weight_percent` of its weight to all of it. For servers that have models to load, caches
    to fill or code to compile. At the start of the daemon, and for a pool that is new, nobody starts slowly."""

    window: Duration = Field(ge=100 * MILLISECOND)
    """How long it takes (HAProxy's `slowstart`, nginx' `slow_start`, Envoy's `slow_start_window`)."""
    min_weight_percent: Integer = Field(default=10, ge=1, le=100)
    """Percentage of its weight that an endpoint begins with."""
    aggression: Number = Field(default=1.0, gt=0, le=100)
    """1: the share grows evenly. Above 1 it grows fast at first, below 1 late: after a part t of the window it is t to
    the power of 1 / `aggression`, as in Envoy."""


def expand_slow_start(value: Any) -> Any:
    """`30s` for `{window: 30s}`."""
    # Numbers, too: the error then says that a duration has a unit.
    return {"window": value} if isinstance(value, str | int | float) else value
