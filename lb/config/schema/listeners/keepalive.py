"""How the kernel notices that the other side of a TCP connection has vanished: `tcp_keepalive`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lb.config.plan.plan import KeepalivePlan
from lb.config.schema.base import Integer, Model, problem
from lb.config.units import HOUR, MILLISECOND, SECOND, Duration, format_duration

_LONGEST = 32_767 * SECOND  # MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL of the kernel
_MOST = 127  # MAX_TCP_KEEPCNT
_POOL_TIMEOUT = 20 * SECOND
_SHARED = ("oip", "http2", "grpc")  # protocols whose connections many requests share


class TcpKeepaliveConfig(Model):
    """How the kernel finds out that a client has vanished without a word: switched off, out of reach, forgotten by a
    NAT in between. Times are whole seconds; parts of one are rounded up."""

    idle: Duration = Field(default=60 * SECOND, ge=SECOND, le=_LONGEST)
    """Silence after which the client is asked whether it is still there (`TCP_KEEPIDLE`). The kernel's own two hours
    are longer than NATs and load balancers of clouds remember a silent connection, which may be four minutes."""
    interval: Duration = Field(default=15 * SECOND, ge=SECOND, le=_LONGEST)
    """Time between two such probes (`TCP_KEEPINTVL`)."""
    probes: Integer = Field(default=4, ge=1, le=_MOST)
    """Probes without an answer, after which the connection is over (`TCP_KEEPCNT`): with the defaults two minutes after
    the last sign of life."""
    user_timeout: Duration = Field(default=0, le=24 * HOUR)
    """Longest time for which what was sent may stay unacknowledged, or a probe unanswered; it then decides in the place
    of `probes` (`TCP_USER_TIMEOUT`). It also ends clients that are there and take nothing for so long, as one that
    pauses a download does. `0s`: as the kernel has it, a quarter of an hour for data."""


class PoolTcpKeepaliveConfig(Model):
    """How the kernel finds out that an endpoint has vanished without a word. Times are whole seconds; parts of one are
    rounded up."""

    idle: Duration = Field(default=15 * SECOND, ge=SECOND, le=_LONGEST)
    """Silence after which the endpoint is asked whether it is still there (`TCP_KEEPIDLE`)."""
    interval: Duration = Field(default=5 * SECOND, ge=SECOND, le=_LONGEST)
    """Time between two such probes (`TCP_KEEPINTVL`)."""
    probes: Integer = Field(default=3, ge=1, le=_MOST)
    """Probes without an answer, after which the connection is over (`TCP_KEEPCNT`)."""
    user_timeout: Duration | None = Field(default=None, le=24 * HOUR)
    """Longest time for which what was sent may stay unacknowledged, or a probe unanswered; it then decides in the place
    of `probes` (`TCP_USER_TIMEOUT`). It also ends connections to an endpoint that is there and takes nothing for so
    long. `0s`: as the kernel has it, a quarter of an hour for data. Default: for `oip`, `http2` and `grpc`, where many
    requests share a connection, `20s`, or `connect_timeout` if that is longer; for `http` and `tcp`, where an endpoint
    may hold its one sender back for as long as it likes, `0s`."""


def _off(value: Any) -> Any:
    if value == "off":
        return None
    if not isinstance(value, dict | TcpKeepaliveConfig | PoolTcpKeepaliveConfig):
        raise problem("keepalive", "must be off, or a mapping")
    return value


TcpKeepalive = Annotated[
    TcpKeepaliveConfig | None, BeforeValidator(_off, json_schema_input_type=Literal["off"] | TcpKeepaliveConfig)
]
PoolTcpKeepalive = Annotated[
    PoolTcpKeepaliveConfig | None,
    BeforeValidator(_off, json_schema_input_type=Literal["off"] | PoolTcpKeepaliveConfig),
]


def check_pool_keepalive(
    path: str, keepalive: PoolTcpKeepaliveConfig | None, connect_timeout: int
) -> Iterator[tuple[str, str]]:
    """Problems as (path, message): the kernel counts attempts to connect, too."""
    limit = keepalive.user_timeout if keepalive is not None else None
    if limit and limit < connect_timeout:
        yield f"{path}.user_timeout", f"is shorter than connect_timeout ({format_duration(connect_timeout)})"


def keepalive_plan(keepalive: TcpKeepaliveConfig | None) -> KeepalivePlan | None:
    """None where it is off."""
    return None if keepalive is None else _plan(keepalive, keepalive.user_timeout)


def pool_keepalive_plan(
    keepalive: PoolTcpKeepaliveConfig | None, protocol: str, connect_timeout: int
) -> KeepalivePlan | None:
    """None where it is off, and for protocol udp."""
    if keepalive is None or protocol == "udp":
        return None
    default = max(_POOL_TIMEOUT, connect_timeout) if protocol in _SHARED else 0
    return _plan(keepalive, default if keepalive.user_timeout is None else keepalive.user_timeout)


def _plan(keepalive: TcpKeepaliveConfig | PoolTcpKeepaliveConfig, user_timeout: int) -> KeepalivePlan:
    idle, interval = (-(-time // SECOND) for time in (keepalive.idle, keepalive.interval))
    return KeepalivePlan(idle, interval, keepalive.probes, -(-user_timeout // MILLISECOND))
