"""How much of a client's address counts where requests are told apart by it."""

from __future__ import annotations

from pydantic import Field

from lb.config.schema.base import Boolean, Integer, Model


class SourcePrefixConfig(Model):
    """How much of a client's address counts. Clients of one network have one key, however often their addresses change
    within it."""

    ipv4_prefix: Integer = Field(default=32, ge=1, le=32)
    """Bits of an IPv4 address, or one that is mapped into IPv6, which count: 24 for its /24 network."""
    ipv6_prefix: Integer = Field(default=128, ge=1, le=128)
    """Bits of an IPv6 address which count; 64 is what one subscriber has."""


class SourceKeyConfig(SourcePrefixConfig):
    """What of a client's address counts: HAProxy's `balance source` with `hash … ipmask`. Clients of one network
    then have one key, however often their addresses change within it. For `udp`, `port` and `destination` together are
    the 5-tuple of other load balancers, `destination` alone is their 3-tuple, `port` alone nginx' `hash
    $remote_addr$remote_port`."""

    port: Boolean = False
    """Whether the client's port counts, too: each of its sockets is then balanced on its own. `udp` only."""
    destination: Boolean = False
    """Whether the address and the port that the client sent to count, too. It matters where several listeners, or a
    listener with many addresses, lead to the pool. `udp` only."""
