"""The PROXY protocol, both ways, and the types that rules about connections are written in."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from lb.config.advice.literal import host_advice
from lb.config.network import parse_network
from lb.config.schema.base import Boolean, Model, advised, problem, text
from lb.config.units import MILLISECOND, MINUTE, SECOND, Duration

UNIX = "unix"


def _network(value: str) -> str:
    try:
        return str(parse_network(value))
    except ValueError as error:
        raise problem("network", str(error)) from None


def _peer(value: str) -> str:
    return value if value == UNIX else _network(value)


def one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Network = Annotated[str, AfterValidator(_network)]
"""`10.0.0.0/8`, `2001:db8::/32` or an address, in canonical form."""


def _no_address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return value.lower()
    said = "is an address, which no client names in its ClientHello (RFC 6066 section 3); source is for clients'"
    raise problem("server_name", f"{value} {said}")


ServerName = Annotated[
    str,
    advised(lambda name: host_advice(name, False)),
    *text(
        r"(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*",
        "is not a server name; write example.org or *.example.org",
    ),
    AfterValidator(_no_address),
]


class ProxyProtocolConfig(Model):
    """Who tells us a client's address by the PROXY protocol (version 1 or 2): a load balancer in front of this one. A
    header that breaks its rules, or whose checksum is wrong, closes the connection."""

    from_: list[Annotated[str, AfterValidator(_peer)]] = Field(alias="from", min_length=1)
    """Networks and addresses of those who are trusted to say who the client is; `unix` stands for all clients of a
    listener on a Unix socket. A header from anybody else closes the connection."""
    required: Boolean = True
    """`true`: every connection has to come from one of `from` and begin with a header; any other is closed. `false`:
    those of `from` may send one, and everybody else is served under its own address. Then the client has to speak
    first, as in HTTP and TLS."""
    timeout: Duration = Field(default=5 * SECOND, ge=10 * MILLISECOND, le=10 * MINUTE)
    """Longest time for the header to come; then the connection is closed."""


class SendProxyConfig(Model):
    """The PROXY protocol towards endpoints."""

    version: Literal["off", "v1", "v2"]
    """`v1` is a line of text. `v2` is binary and also tells of the client's TLS where it ends here (version, cipher,
    certificate, ALPN, server name), and passes on the fields of a header from in front of us, custom ones included."""
    unique_id: Boolean = False
    """Whether a connection that comes without a unique id gets one (128 random bits). `v2` only."""
    checksum: Boolean = False
    """Whether the header carries its CRC-32C, which the endpoint may verify. `v2` only."""

    @model_validator(mode="after")
    def _fits(self) -> SendProxyConfig:
        for key in ("unique_id", "checksum"):
            if getattr(self, key) and self.version != "v2":
                raise problem("send_proxy", f"{key} needs version: v2")
        return self


def expand_send_proxy(value: Any) -> Any:
    """The full form of `send_proxy: v2`."""
    if isinstance(value, bool | int) or value in ("on", "yes", "true", "1", "2"):
        version = "v1" if value in (1, "1") and value is not True else "v2" if value else "off"
        raise problem("send_proxy", f"must be off, v1 or v2; write {version}")
    return {"version": value} if isinstance(value, str) else value
