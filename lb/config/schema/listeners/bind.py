"""Where listeners listen."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from lb.config.address import INTERFACE, Bind, parse_bind_range
from lb.config.schema.base import BindRange, Boolean, Model, text

MOST = 1024  # sockets of a listener, and of a udp listener as many in each worker

InterfaceName = Annotated[str, *text(INTERFACE, "is not the name of a network interface, such as eth0")]


class BindConfig(Model):
    """An address to listen on, with options of its socket."""

    address: BindRange
    """`IP:PORT`, `[IPV6]:PORT`, `[fe80::1%eth0]:PORT` (a link-local address of that interface), `unix:/PATH`, or
    `unix:@NAME`, a name in the abstract namespace, which every local user may connect to. Port 0 takes a free port,
    `IP:9000-9010` is a socket for each of these ports."""
    ipv6only: Boolean = True
    """Whether `[::]` takes IPv6 only, as nginx' `ipv6only=on` and HAProxy's `v6only`; `0.0.0.0` can then stand beside
    it. With `false` it takes both families. `[::]` only."""
    interface: InterfaceName | None = None
    """The network interface (or VRF) through which clients come: HAProxy's `interface`, SO_BINDTODEVICE. Default:
    any."""
    transparent: Boolean = False
    """Whether the address may be one that the machine does not have, as for connections that the firewall's TPROXY
    brings: HAProxy's `transparent`, IP_TRANSPARENT. Needs CAP_NET_ADMIN."""

    def sockets(self) -> list[Bind]:
        """One for each port."""
        return [
            Bind(address, self.ipv6only, self.interface or "", self.transparent)
            for address in parse_bind_range(self.address)
        ]


def _each(value: Any) -> Any:
    return [value] if isinstance(value, str | int | dict | BindConfig) else value


def _bind(value: Any) -> Any:
    return {"address": value} if isinstance(value, str | int) else value


BindItem = Annotated[BindConfig, BeforeValidator(_bind, json_schema_input_type=str | BindConfig)]
BindList = Annotated[
    list[BindItem],
    Field(min_length=1, max_length=MOST),
    BeforeValidator(_each, json_schema_input_type=str | BindConfig | list[str | BindConfig]),
]
