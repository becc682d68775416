"""Who may connect to a listener, and how often: lists of networks, and rates of one network's connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from lb.config.network import parse_network
from lb.config.plan.plan import SourcesPlan
from lb.config.schema.base import Integer, Model, problem
from lb.config.schema.routes.rate import LONGEST, Rate, interval
from lb.config.sources import refused_ranges
from lb.config.units import SECOND

if TYPE_CHECKING:
    from lb.config.schema.listeners.listener import ListenerConfig
    from lb.config.schema.listeners.tls import Material


class SourceNetworkConfig(Model):
    """How much of a client's address says which network it is of."""

    ipv4_prefix: Integer = Field(default=32, ge=1, le=32)
    """Bits of an IPv4 address, or one that is mapped into IPv6: 24 counts each /24 as one."""
    ipv6_prefix: Integer = Field(default=64, ge=1, le=64)
    """Bits of an IPv6 address. A /64 is what one subscriber has, and many have a /56 or a /48."""


class ConnectionRateConfig(Model):
    """How often one network may connect."""

    rate: Rate
    """Connections, or UDP sessions, that come back in a unit of time: `10/s`, `300/m`. They come back one by one, not
    all at the end of the unit."""
    burst: Integer | None = Field(default=None, ge=1, le=1_000_000)
    """Connections that may come at once after a pause. Default: those of one second, at least 1."""

    @model_validator(mode="after")
    def _countable(self) -> ConnectionRateConfig:
        if interval(self.rate) * self.allowance > LONGEST:
            raise problem("rate", f"a burst of {self.burst} at {self.rate} takes more than a year to come back")
        return self

    @property
    def allowance(self) -> int:
        """The burst, or its default."""
        return self.burst if self.burst is not None else max(1, SECOND // interval(self.rate))


def _rate(value: Any) -> Any:
    return {"rate": value} if isinstance(value, str | int | float) else value


ConnectionRate = Annotated[
    ConnectionRateConfig | None, BeforeValidator(_rate, json_schema_input_type=str | ConnectionRateConfig)
]


def sources_plan(name: str, listener: ListenerConfig, material: Material) -> SourcesPlan:
    """The plan of the listener `name`. Raises KeyError when `material` was read for another configuration."""
    rate = listener.connection_rate_per_source
    if listener.allow_file is not None or listener.deny_file is not None:
        four, six = material.sources[name]
    elif listener.lists_sources:
        allow, deny = ([parse_network(text) for text in texts] for texts in (listener.allow, listener.deny))
        four, six = refused_ranges(allow if listener.allow else None, deny)
    else:
        four = six = b""
    return SourcesPlan(
        ipv4_prefix=listener.source_network.ipv4_prefix,
        ipv6_prefix=listener.source_network.ipv6_prefix,
        refused4=four,
        refused6=six,
        rate_interval_ns=interval(rate.rate) if rate is not None else 0,
        rate_burst=rate.allowance if rate is not None else 0,
    )
