"""The plan: what a configuration compiles to, immutable, sent by the master to every worker (design.md section 5).

Plain frozen dataclasses: everything is resolved here (defaults, durations in nanoseconds, sizes in bytes, references as
indices, slots and series of the shared segment), so that later code never checks configuration again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """How a pool chooses; `type` is a name of the registry in lb.balancing, `options` are the policy's own."""

    type: str
    key: str = ""  # "" | header | cookie | query | source | model
    key_name: str = ""  # name of the header, cookie or query parameter
    options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    address: str  # "host:port" with a literal IP address, "[v6]:port" or "unix:/path"
    slot: int  # record in the shared segment
    series: int
    weight: int


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """An endpoint as discovery or a supervisor gives it, before it has a slot and a series."""

    address: str  # as in EndpointPlan
    weight: int = 1


@dataclass(frozen=True, slots=True)
class PoolPlan:
    name: str
    protocol: str  # oip | http | http2 | grpc | tcp
    policy: PolicyPlan
    endpoints: tuple[EndpointPlan, ...]
    connect_timeout_ns: int
    response_timeout_ns: int  # from the request's last byte to the response's head; 0 = none
    idle_timeout_ns: int  # an idle upstream connection (http), a silent session (tcp)
    retries: int  # further tries on another endpoint
    max_idle: int  # idle upstream connections kept per worker and endpoint (http)
    send_proxy: str = ""  # "" | v1 | v2: PROXY protocol towards the endpoint (tcp)
    send_unique_id: bool = False  # a unique id for connections that came without one (v2)
    send_checksum: bool = False  # CRC-32C of the header (v2)


@dataclass(frozen=True, slots=True)
class RoutePlan:
    name: str
    series: int
    pool: int  # index into Plan.pools
    host: str  # lower case, "" = any, "*.example.org" = any one or more labels below
    path_kind: str  # "" (any) | exact | prefix | regex
    path: str
    methods: tuple[str, ...]  # () = any
    cache: bool
    cache_ttl_ns: int
    timeout_ns: int  # whole exchange; 0 = none
    max_body: int
    expose_endpoint: bool = False  # X-Tidegate-Endpoint in answers


@dataclass(frozen=True, slots=True)
class Http2Plan:
    enabled: bool
    max_streams: int
    stream_window: int
    connection_window: int
    max_age_ns: int  # 0 = none
    control_rate: int  # per second
    reset_rate: int


@dataclass(frozen=True, slots=True)
class SniRoutePlan:
    """A rule of a listener that passes TLS through; all conditions that are given have to hold."""

    pool: int  # index into Plan.pools
    sni: tuple[str, ...] = ()  # lower case, "*.example.org" = any one or more labels below; () = any, or none
    alpn: tuple[str, ...] = ()  # one of these is offered; () = any
    sources: tuple[str, ...] = ()  # networks; () = any


@dataclass(frozen=True, slots=True)
class ProxyProtocolPlan:
    """Who may send a PROXY protocol header."""

    networks: tuple[str, ...]
    unix: bool  # and clients of a Unix socket
    required: bool
    timeout_ns: int


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    name: str
    bind: str
    protocol: str  # http | tcp | tls
    series: int
    pool: int  # tcp: index into Plan.pools; tls: that of what no rule takes, -1 = none; http: -1
    routes: tuple[RoutePlan, ...]  # http: first match wins, in this order
    header_timeout_ns: int  # from the first byte of a request's head to its end
    body_timeout_ns: int  # between two reads of a request's body
    idle_timeout_ns: int  # keep-alive without a request; a silent TCP session
    send_timeout_ns: int  # a client that takes none of the bytes offered to it
    max_header_bytes: int
    max_headers: int
    max_connections: int  # per worker
    forwarded: str  # append | replace | preserve | off: what happens to X-Forwarded-*
    retry_buffer: int  # a request up to this many bytes is kept until its answer begins, so that it can be tried again
    http2: Http2Plan
    upgrades: tuple[str, ...]  # protocols that requests may change to, in lower case
    upgrade_idle_timeout_ns: int  # silence both ways behind an upgrade; 0 = no limit
    half_close_timeout_ns: int = 0  # silence of a session that one side has ended; 0 = idle_timeout_ns (tcp, tls)
    max_connections_per_source: int = 0  # per worker; 0 = no limit
    proxy_protocol: ProxyProtocolPlan | None = None
    sni_routes: tuple[SniRoutePlan, ...] = ()  # tls


@dataclass(frozen=True, slots=True)
class CachePlan:
    size: int
    max_object: int


@dataclass(frozen=True, slots=True)
class AccessLogPlan:
    path: str  # "" = off, "-" = standard output


@dataclass(frozen=True, slots=True)
class Plan:
    generation: int
    workers: int
    listeners: tuple[ListenerPlan, ...]
    pools: tuple[PoolPlan, ...]
    cache: CachePlan | None
    access_log: AccessLogPlan
    drain_timeout_ns: int

    def to_wire(self) -> dict[str, Any]:
        """The plan as plain types, for msgpack."""
        plain: dict[str, Any] = _plain(self)
        return plain

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Plan:
        """The plan from what `to_wire` gave, after msgpack (tuples may have become lists)."""
        plan: Plan = _typed(cls, data)
        return plan


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def _typed(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _typed(hints[name], v) for name, v in value.items()})
    if get_origin(kind) is tuple:
        (item, *_) = get_args(kind)
        return tuple(_typed(item, v) for v in value)
    if value is not None and any(is_dataclass(a) for a in get_args(kind)):
        return _typed(next(a for a in get_args(kind) if is_dataclass(a)), value)
    return value
