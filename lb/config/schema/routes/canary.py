"""Canaries: how a pool takes a route over from another, step by step."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from lb.config.schema.base import Integer, Number, problem
from lb.config.schema.pools.platforms import RareModel
from lb.config.units import SECOND, Duration

_STEPS = 50


class CanaryConfig(RareModel):
    """A pool that takes the route's requests over from `pool`, the baseline, by itself: a growing share of them as long
    as its answers are as good, none of them as soon as they are worse. How that is decided:
    [Canaries](howto/canaries.md)."""

    pool: str
    """Name of the new pool, of the same protocol as the baseline."""
    steps: Annotated[list[Annotated[Number, Field(gt=0, le=100)]], Field(min_length=1, max_length=_STEPS)] = [
        1,
        5,
        25,
        50,
        100,
    ]
    """Shares of the requests that the canary gets one after another, in percent. After the last step it is promoted:
    it gets all of them."""
    interval: Duration = Field(default=60 * SECOND, ge=SECOND)
    """Shortest time of a step."""
    min_requests: Integer = Field(default=100, ge=1, le=1_000_000_000)
    """Answers that the canary gives in a step before the next one begins; as many of the baseline are needed before
    latencies are compared."""
    max_error_increase: Number = Field(default=1, ge=0, le=100)
    """By how many percentage points the canary's share of errors may be above the baseline's."""
    latency_quantile: Number = Field(default=95, ge=50, le=99.9)
    """Percentile of the baseline's latency that the canary's is compared with."""
    max_latency_ratio: Number | None = Field(default=1.5, ge=1, le=1000)
    """How many times the baseline's percentile the canary's may be, rounded up to the buckets of the histogram of
    latencies. `null`: latencies are not compared."""

    max_difference: Number | None = Field(default=None, ge=0, le=100)
    """Share of the compared answers that may differ from the baseline's, in percent. It needs a `mirror` of the route
    to the same pool with `compare`. Default: answers may differ."""

    @model_validator(mode="after")
    def _rising(self) -> CanaryConfig:
        for before, after in pairwise(self.steps):
            if after <= before:
                raise problem("steps", f"steps: {after:g} after {before:g}; each has to be larger than the one before")
        return self
