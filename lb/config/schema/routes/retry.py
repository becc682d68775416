"""Retries and hedges of a request: a further attempt after the first has failed, or while it is late."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lb.config.schema.base import Integer, Model, problem, text
from lb.config.units import MILLISECOND, Duration, parse_duration

_QUANTILE = re.compile(r"p([0-9]{2})(?:\.([0-9]))?", re.ASCII)


class RetryBackoffConfig(Model):
    """The pause before a retry, in which it holds no endpoint: anything from 0 to a bound that doubles with each
    attempt (full jitter; Envoy's `retry_back_off`)."""

    base: Duration = Field(default=25 * MILLISECOND, ge=0, le=60_000 * MILLISECOND)
    """The first bound. `0s`: no pause."""
    max: Duration | None = Field(default=None, le=600_000 * MILLISECOND)
    """The last bound. Default: ten times `base`."""
    retry_after: Duration = Field(default=10_000 * MILLISECOND, ge=0, le=60_000 * MILLISECOND)
    """Longest time that a request waits for an endpoint which says by `Retry-After`, or by gRPC's
    `grpc-retry-pushback-ms`, when it may be asked again. Until then other endpoints are asked, after the usual pause;
    the request waits where none is left. The client gets the answer where that would be longer than this, or than the
    deadline. `0s`: no request waits."""

    @model_validator(mode="after")
    def _order(self) -> RetryBackoffConfig:
        if self.max is not None and self.max < self.base:
            raise problem("backoff", "max is shorter than base")
        return self

    @property
    def longest(self) -> int:
        """The last bound in ns."""
        return 10 * self.base if self.max is None else self.max


class RetryConfig(Model):
    """When a request is tried again on another endpoint of its pool. Only what is kept whole (`retry_buffer` of the
    listener), and whose answer has not begun. Unless nothing was sent, or the endpoint says that it did nothing: only
    methods that may be repeated, see `idempotent`; inferences may, but those of a sequence never are; of these
    the first alone goes on where nothing was sent, or done."""

    attempts: Integer = Field(default=1, ge=0, le=10)
    """Most retries of a request."""
    on: Annotated[
        list[
            Literal[
                "connect", "reset", "5xx", "timeout", "rate-limited",
                "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
            ]
        ],
        Field(min_length=1),
    ] = ["connect", "reset"]  # fmt: skip
    """After what: `connect` no connection came about, `reset` the connection broke before the answer, `5xx` the answer
    was 502, 503 or 504 (`oip`: the same as `reset`, UNAVAILABLE included), `timeout` `per_attempt_timeout` went by,
    `rate-limited` the answer was 429; and by Envoy's names the gRPC codes of an answer without a message: `cancelled`,
    `deadline-exceeded`, `internal`, `resource-exhausted`, `unavailable`. Naming one of these says that a call may be
    repeated after it, whatever its method."""
    per_attempt_timeout: Duration | None = Field(default=None, ge=MILLISECOND)
    """Longest time from an attempt's request to the beginning of its answer. Default: the route's
    `response_timeout`."""
    backoff: RetryBackoffConfig = RetryBackoffConfig()
    """The pause before each retry, and the longest wait for an endpoint that says when it may be asked again. A gRPC
    server may also say, by a negative `grpc-retry-pushback-ms`, that there is to be no retry (gRFC A6)."""
    budget: Integer = Field(default=20, ge=0, le=100)
    """Retries at most, in percent of the requests of the last seconds, over all workers, so that retries do not finish
    off a pool that is overloaded; 100 is no limit."""
    budget_min: Integer = Field(default=10, ge=0, le=10_000)
    """Retries a second, in all workers together, that the budget always allows."""

    @model_validator(mode="after")
    def _timeout(self) -> RetryConfig:
        if "timeout" in self.on and self.per_attempt_timeout is None:
            raise problem("retry", "timeout needs a per_attempt_timeout")
        return self


def _after(value: object) -> object:
    if isinstance(value, str) and not _QUANTILE.fullmatch(value):
        try:
            parse_duration(value)
        except ValueError:
            raise problem(
                "after", f"{value!r} is neither a quantile such as p95 or p99.9, nor a duration such as 20ms"
            ) from None
    return value


class HedgeConfig(Model):
    """A second attempt while the first is late: when its answer has not begun after some time, the request goes to
    another endpoint as well, and the first answer is taken; the other attempt is cancelled (Dean and Barroso 2013, "The
    Tail at Scale"). Only what may be repeated (see `idempotent`), is complete and kept whole (`retry_buffer`); never
    more than one, never in a queue, and none while others wait in the pool's. An answer of 5xx, or one of gRPC's
    errors, is not taken from a hedge while the first attempt still runs."""

    after: Annotated[
        str,
        BeforeValidator(_after),
        *text(r"p[0-9]{2}(?:\.[0-9])?|[0-9]+(?:\.[0-9]+)?(?:us|ms|s|m|h)", "is not a time"),
    ] = "p95"
    """When: a quantile of how long the answers of the pool have taken to begin of late (`p50` to `p99.9`), or a
    duration. A later quantile costs less and helps fewer. By quantile, a hedge waits for twice the
    endpoint's average, too, where the policy knows that. With `shortest_expected_delay` that is for each request that
    is there. With it and with `auto`, where the endpoint has answered nobody for an unusual time (of the silences a
    tenth of the share that the quantile leaves), all that wait there have their hedges at once."""
    floor: Duration = Field(default=MILLISECOND, ge=MILLISECOND)
    """With a quantile, the least delay."""
    samples: Integer = Field(default=100, ge=1, le=1_000_000)
    """With a quantile, answers of the last minute or so that each worker has to know first."""
    budget: Integer = Field(default=10, ge=0, le=100)
    """Hedges at most, in percent of the requests of the last seconds, over all workers, so that they do not finish off
    a pool that is overloaded; 100 is no limit."""
    budget_min: Integer = Field(default=1, ge=0, le=10_000)
    """Hedges a second, in all workers together, that the budget always allows."""

    @model_validator(mode="after")
    def _time(self) -> HedgeConfig:
        per_mille, delay = self.when
        if per_mille and per_mille < 500:
            raise problem("hedge", f"after: {self.after} would repeat more than half of the requests; p50 is the least")
        if not per_mille and delay < MILLISECOND:
            raise problem("hedge", "after: a hedge comes 1ms after its request at the earliest")
        return self

    @property
    def when(self) -> tuple[int, int]:
        """The quantile in thousandths, 0 for none; and the least delay in ns."""
        found = _QUANTILE.fullmatch(self.after)
        if found is None:
            return 0, parse_duration(self.after)
        return int(found[1]) * 10 + int(found[2] or 0), self.floor


# What `off` stands for, which no mapping can say.
NO_RETRY = RetryConfig.model_construct(attempts=-1)
NO_HEDGE = HedgeConfig.model_construct(budget=-1)


def _retry(value: Any) -> Any:
    return NO_RETRY if value == "off" else value


def _hedge(value: Any) -> Any:
    return NO_HEDGE if value == "off" else value


Retry = Annotated[
    RetryConfig | None, BeforeValidator(_retry, json_schema_input_type=Literal["off"] | RetryConfig | None)
]
Hedge = Annotated[
    HedgeConfig | None, BeforeValidator(_hedge, json_schema_input_type=Literal["off"] | HedgeConfig | None)
]
