"""HAProxy's agent checks: a process beside each endpoint that says how the endpoint is, and how much it should get."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from lb.config.address import UnixPath, parse_address
from lb.config.schema.base import Integer, Model, Octets, problem
from lb.config.units import MILLISECOND, SECOND, Duration

if TYPE_CHECKING:
    from lb.config.schema.pools.pool import PoolConfig


def _ip(value: str) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise problem("ip", f"{value!r} is not an IP address") from None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.is_link_local or address.scope_id:
        raise problem("ip", f"{value!r} is a link-local address or has a scope, which is not supported")
    return str(address.ipv4_mapped or address)


class AgentConfig(Model):
    """An agent that is asked about each endpoint, beside `health`: HAProxy's `agent-check`. What it says:
    [Check the health of endpoints](howto/check-health.md)."""

    port: Integer = Field(ge=1, le=65535)
    """TCP port of the agent. HAProxy's `agent-port`."""
    interval: Duration = Field(default=2 * SECOND, ge=10 * MILLISECOND)
    """Time from the start of one question to the start of the next. HAProxy's `agent-inter`."""
    timeout: Duration = Field(default=1 * SECOND, ge=MILLISECOND)
    """Longest time for one answer, the connecting included. An agent that does not answer changes nothing."""
    send: Octets = ""
    """What is sent to the agent first, as it is: end it with `\\n`, in double quotes, if the agent reads lines. Each
    character is one byte. HAProxy's `agent-send`. Default: nothing."""
    host: Annotated[str, AfterValidator(_ip)] | None = None
    """IP address of the agent, which then speaks for every endpoint of the pool alike. HAProxy's `agent-addr`. Default:
    that of the endpoint."""


def check_agent(path: str, pool: PoolConfig) -> Iterator[tuple[str, str]]:
    """Problems as (path, message) of a pool that has agents."""
    assert pool.agent is not None
    if pool.serve is not None:
        yield path, "not with serve: nobody runs an agent beside the model servers that Tidegate starts"
    if pool.agent.host is None and any(isinstance(parse_address(e.address), UnixPath) for e in pool.endpoints):
        yield f"{path}.host", "is needed with endpoints on Unix sockets, whose agent has to be somewhere"
