"""Quotas: how they are written, and what they compile to."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from lb.config.plan.quotas import QuotaPlan
from lb.config.schema.base import Boolean, FieldName, Integer, Model, Name, only_one, problem, text
from lb.config.windows import Per

_KEYS = ("identity", "header", "source", "all")
_MOST = (1 << 36) - 1  # what a record of lb/shared/quotas can count
# Names of quotas, keys and counts are in the admin API and in the file of counts.
CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})
"""Headers that are no keys of what is shown."""

Client = Annotated[str, *text(r"[!-~](?:[ -~]{0,126}[!-~])?", "is not a client: 1 to 128 printable ASCII characters")]
"""Whom a quota is of: an identity, the value of a header, or an address."""


class QuotaKeyConfig(Model):
    """Whose requests are counted together. Exactly one of the four. A request without the header counts for its
    source."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [k]} for k in _KEYS]})

    identity: Boolean = False
    """Who the request is from (`identity: true`), by `auth` of the route."""
    header: FieldName | None = None
    """Value of this request header. Clients can invent values: take a header that something in front has checked.
    Headers of credentials are refused, since values are shown in the admin API and stored: that is what `identity` is
    for."""
    source: Boolean = False
    """Address of the client (`source: true`); of IPv6 its /64 network. Behind `trusted_proxies` the address they
    name."""
    all: Boolean = False
    """Nothing (`all: true`): all requests share one quota."""

    @model_validator(mode="after")
    def _one(self) -> QuotaKeyConfig:
        only_one(self, _KEYS)
        if self.header is not None and self.header.lower() in CREDENTIALS:
            raise problem("header", f"{self.header} has credentials, which would be shown; use auth and identity")
        return self


class QuotaConfig(Model):
    """How many requests each client has in a window of the calendar, over all workers and all routes that name the
    quota. The counts survive restarts ([Limit traffic](howto/limit-traffic.md#quotas)). More is answered with 429 and
    `Retry-After`, or RESOURCE_EXHAUSTED."""

    requests: Integer = Field(ge=1, le=_MOST)
    """Requests that a client has in a window."""
    per: Per
    """The window. It begins with the minute, hour, day or month of the calendar, in UTC; then all is there again."""
    key: QuotaKeyConfig
    """Whose requests are counted together."""
    overrides: dict[Client, Annotated[int, Field(strict=True, ge=1, le=_MOST)]] = Field(default={}, max_length=10_000)
    """Clients with a number of requests of their own: an identity, the value of the header, or an address (of IPv6
    `2001:db8:1:2::/64`). Default: none."""
    fields: Literal["standard", "off"] = "standard"
    """What answers tell clients of what they have left: `standard` sends `RateLimit` and `RateLimit-Policy` (IETF
    draft), `off` nothing."""

    @model_validator(mode="after")
    def _known(self) -> QuotaConfig:
        if self.key.all and self.overrides:
            raise problem("overrides", "key: {all: true} knows no clients")
        if self.key.source:
            for client in self.overrides:
                _source(client)
        return self


def _names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


RouteQuotas = Annotated[
    list[Name], BeforeValidator(_names, json_schema_input_type=str | list[str]), Field(max_length=4)
]


def _source(client: str) -> str:
    """An address as workers spell it. Raises a problem."""
    try:
        if "/" not in client:
            return str(ipaddress.IPv4Address(client))
        network = ipaddress.IPv6Network(client)
    except ValueError:
        network = None
    if network is None or network.prefixlen != 64:
        raise problem("overrides", f"{client!r} is neither an IPv4 address nor a /64 network of IPv6")
    return str(network)


def quota_plan(name: Name, quota: QuotaConfig) -> QuotaPlan:
    """What `quota` compiles to."""
    key = next(kind for kind in _KEYS if getattr(quota.key, kind))
    overrides = {_source(client) if quota.key.source else client: n for client, n in quota.overrides.items()}
    return QuotaPlan(
        name=name,
        requests=quota.requests,
        per=quota.per,
        key=key,
        header=(quota.key.header or "").lower(),
        overrides=tuple(overrides.items()),
        fields=quota.fields,
    )
