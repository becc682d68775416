"""Rate limits of routes: how they are written, and what they compile to."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from lb.config.advice import spelling
from lb.config.plan.routes import RatePlan
from lb.config.schema.base import Boolean, FieldName, Integer, Model, only_one, problem, text
from lb.config.units import DAY, HOUR, MINUTE, SECOND

_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_KEYS = ("header", "cookie", "query", "source", "identity", "route", "path", "uri", "text")
# What a bucket may hold, in time: far inside the 2**62 ns that lb/shared/buckets can count.
LONGEST = 365 * DAY

_FORM = r"[1-9][0-9]{0,5}/[smhd]"
_NOT_ONE = "is not a rate: a number from 1 to 999999, then /s, /m, /h or /d, such as 100/s"


def _rate(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(_FORM, value, re.ASCII):
        return value
    written = spelling.rate(value)
    raise problem("rate", f"{value!r} {_NOT_ONE}" + (f"; write {written}" if written else ""))


Rate = Annotated[str, BeforeValidator(_rate), *text(_FORM, _NOT_ONE)]
"""A number of requests in a unit of time."""


class RateKeyConfig(Model):
    """Whose requests are counted together. Exactly one of the nine. A request without the header, cookie, parameter
    or text counts for its source."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [k]} for k in _KEYS]})

    header: FieldName | None = None
    """Value of this request header. Clients can invent values: take a header that something in front has checked."""
    cookie: FieldName | None = None
    """Value of this cookie."""
    query: str | None = Field(default=None, min_length=1, max_length=256)
    """Value of this parameter of the query."""
    source: Boolean = False
    """Address of the client (`source: true`); of IPv6 its /64 network. Behind `trusted_proxies` the address they
    name."""
    identity: Boolean = False
    """Who the request is from (`identity: true`), by `auth` of the route. By any other key requests are counted before
    their credential is looked at, so that guesses count, too."""
    route: Boolean = False
    """Nothing (`route: true`): all requests of the route share one limit."""
    path: Boolean = False
    """Path of the request (`path: true`), in its normal form: all clients together."""
    uri: Boolean = False
    """Path and query (`uri: true`): all clients together."""
    text: str | None = Field(default=None, min_length=1, max_length=4096)
    """A text with [values of the request](howto/values.md), such as `${client.address}${request.path}` for each client
    and path apart. `${auth.identity}` in it counts like `identity`."""

    @model_validator(mode="after")
    def _one(self) -> RateKeyConfig:
        only_one(self, _KEYS)
        return self


class RateLimitConfig(Model):
    """How often each client may ask, over all workers together. More is answered with 429 and `Retry-After`."""

    rate: Rate
    """Requests that come back in a unit of time: `100/s`, `30/m`, `1000/h`, `5/d`. They come back one by one, not all
    at the end of the unit."""
    burst: Integer | None = Field(default=None, ge=1, le=1_000_000)
    """Requests that may come at once after a pause. Default: those of one second, at least 1."""
    delay_after: Integer | None = Field(default=None, ge=0, le=1_000_000)
    """Requests of the burst that go on at once; further ones wait for their turn, one for each token that comes back
    (nginx's `delay`): an endpoint then gets them evenly. `0` lets only one at a time go on at once. One whose turn
    comes after its deadline (the route's `timeout`, gRPC's) is refused, as is one over 4,096 that wait in a worker.
    Default: all of the burst (nginx's `nodelay`)."""
    key: RateKeyConfig = RateKeyConfig(source=True)
    """Whose requests are counted together. Default: those of one source."""
    fields: Literal["standard", "legacy", "off"] = "standard"
    """What answers tell clients of what they have left: `standard` sends `RateLimit` and `RateLimit-Policy` (IETF
    draft), `legacy` the three fields `RateLimit-Limit`, `-Remaining` and `-Reset`, `off` nothing."""

    @model_validator(mode="after")
    def _delays(self) -> RateLimitConfig:
        if self.delay_after is not None and self.delay_after >= allowance(self):
            raise problem("rate_limit", f"delay_after: a burst of {allowance(self)} leaves nothing that waits")
        return self

    @model_validator(mode="after")
    def _countable(self) -> RateLimitConfig:
        if interval(self.rate) * allowance(self) > LONGEST:
            raise problem("rate_limit", f"a burst of {self.burst} at {self.rate} takes more than a year to come back")
        return self


def interval(rate: str) -> int:
    """Nanoseconds from one token to the next."""
    count, _, unit = rate.partition("/")
    return _UNITS[unit] // int(count)


def allowance(limit: RateLimitConfig) -> int:
    """The burst, or its default."""
    return limit.burst if limit.burst is not None else max(1, SECOND // interval(limit.rate))


def planned_key(key: RateKeyConfig) -> tuple[str, str]:
    """`key` and `key_name` of RatePlan."""
    ((kind, value),) = key.model_dump(exclude_defaults=True).items()
    name = value if isinstance(value, str) else ""
    return "" if kind == "route" else kind, name.lower() if kind == "header" else name


def rate_plan(limit: RateLimitConfig | None) -> RatePlan | None:
    """What `limit` compiles to."""
    if limit is None:
        return None
    key, key_name = planned_key(limit.key)
    return RatePlan(
        interval_ns=interval(limit.rate),
        burst=allowance(limit),
        key=key,
        key_name=key_name,
        fields=limit.fields,
        delay_after=-1 if limit.delay_after is None else limit.delay_after,
    )
