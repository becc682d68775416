"""Listeners and routes: where clients connect and where their requests go."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from lb.config.base import (
    Bind,
    Boolean,
    HostPattern,
    HttpPath,
    Integer,
    Model,
    Name,
    Regex,
    Token,
    did_you_mean,
    only_one,
    problem,
    refuse,
)
from lb.config.http2 import Http2Config
from lb.config.tcp import ProxyProtocolConfig, SniRouteConfig
from lb.config.units import HOUR, KIB, MIB, SECOND, Duration, Size

# Those that llhttp parses, without PRI, which is no request of HTTP/1.1.
# fmt: off
METHODS = frozenset((
    "ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH", "MERGE",
    "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PURGE",
    "PUT", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
))
# fmt: on


class PathMatch(Model):
    """How a request's path is compared, without its query. Exactly one of the three."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [k]} for k in ("exact", "prefix", "regex")]})

    exact: HttpPath | None = None
    """The whole path, byte for byte."""
    prefix: HttpPath | None = None
    """The beginning of the path: `/v2/` takes `/v2/models` but not `/v2`."""
    regex: Regex | None = None
    """A regular expression (Python's syntax) that is looked for in the path; `^` and `$` bind it to the path's ends.
    Slower than the other two."""

    @model_validator(mode="after")
    def _one(self) -> PathMatch:
        only_one(self, ("exact", "prefix", "regex"))
        return self


def _methods(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _known(values: list[str]) -> list[str]:
    names = [value.upper() for value in values]
    for name in names:
        if name not in METHODS:
            raise problem("method", f"{name!r} is not a method of HTTP" + did_you_mean(name, METHODS))
    return names


class MatchConfig(Model):
    """Conditions of a route; all that are given have to hold. An empty match takes every request."""

    host: HostPattern | None = None
    """Host of the request, without its port: a name, or `*.example.org` for any name below `example.org`. Default:
    any."""
    path: PathMatch | None = None
    """Path of the request. Default: any."""
    method: (
        Annotated[
            list[str],
            Field(min_length=1),
            BeforeValidator(_methods, json_schema_input_type=str | list[str]),
            AfterValidator(_known),
        ]
        | None
    ) = None
    """One method or a list of methods, such as `GET` or `[GET, HEAD]`. Default: any."""


class RouteConfig(Model):
    """One rule of an HTTP listener. Rules are tried in their order and the first that matches takes the request."""

    name: Name | None = None
    """Name in metrics, logs and status. Default: the listener's name and the rule's number from 0, as in `web/0`."""
    match: MatchConfig = MatchConfig()
    """Which requests the rule takes. Default: all."""
    pool: str
    """Name of the pool that answers."""
    cache: Boolean = True
    """Whether answers may come from the result cache. It matters only for pools of protocol `oip` and only when
    the file has a `cache` section. Switch it off for models whose answer changes for the same input."""
    cache_ttl: Duration | None = None
    """How long an answer stays in the cache. Default: the `ttl` of the `cache` section."""
    timeout: Duration | None = None
    """Longest time for the whole exchange, from the end of the request's head to the end of the answer; then the
    client gets 504. Default: no limit beyond the pool's."""
    max_body: Size = 64 * MIB
    """Largest request body; a larger one is answered with 413. It bounds the memory that one request may take."""
    expose_endpoint: Boolean = False
    """Whether answers carry `X-Tidegate-Endpoint` with the address of the endpoint that gave them. It helps to see the
    balancing at work, and tells clients about the inside of the site: off by default."""


class ListenerConfig(Model):
    """An address on which clients connect, and how they are spoken to."""

    protocol: Annotated[Literal["http", "tcp", "tls"], refuse(("https", "udp"))]
    """`http` understands HTTP/1.1 and HTTP/2 and routes by request; `tcp` passes bytes through to one pool; `tls` passes TLS
    through undecrypted, to the pool that the name in the ClientHello (SNI) leads to."""
    bind: Bind
    """`IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`. Port 0 takes a free port."""
    pool: str | None = None
    """Name of the pool that takes the connections. Needed for `tcp`; for `tls` it takes those that no rule does, which
    otherwise are refused with the alert `unrecognized_name`."""
    routes: list[RouteConfig] = []
    """The rules that choose a pool, first match first. Protocol `http` only, and needed there; a request that none
    of them takes is answered with 404."""
    sni_routes: list[SniRouteConfig] = []
    """The rules that choose a pool by the ClientHello. Protocol `tls` only."""
    proxy_protocol: ProxyProtocolConfig | None = None
    """Reads the client's address from a PROXY protocol header. Default: no header is expected, and the client is who
    connects. The address counts for everything: limits, affinity, source networks, logs and `X-Forwarded-For`."""
    header_timeout: Duration = 10 * SECOND
    """Longest time from the first byte of a request's head to its end; then 408. It ends clients that trickle their
    headers to hold connections. For `tls`, longest time for the ClientHello. `http` and `tls` only."""
    body_timeout: Duration = 30 * SECOND
    """Longest silence while a request's body is awaited; then 408. `http` only."""
    idle_timeout: Duration = Field(
        default_factory=lambda data: HOUR if data.get("protocol") in ("tcp", "tls") else 75 * SECOND
    )
    """Longest time a connection stays open without a request (`http`) or without a byte in either direction
    (`tcp`, `tls`). Default: `75s` for `http`, `1h` for `tcp` and `tls`. Keep it above the idle timeout of the clients'
    own connection pools, or they meet connections that are just being closed. `0s`: no limit."""
    half_close_timeout: Duration = 0
    """The same once one side has ended its direction and the other has not. `0s`: as `idle_timeout`. Shorter frees
    sessions whose other side is gone; keep it above the longest answer that begins after the client's end. `tcp` and
    `tls` only."""
    send_timeout: Duration = 30 * SECOND
    """Longest time a client may take none of the bytes offered to it; then its connection is closed."""
    max_header_bytes: Size = Field(default=16 * KIB, ge=1 * KIB, le=1 * MIB)
    """Largest request head (request line and headers); a larger one is answered with 431. `http` only."""
    max_headers: Integer = Field(default=100, ge=1, le=1000)
    """Most headers in a request; more are answered with 431. `http` only."""
    max_connections: Integer = Field(default=20_000, ge=1, le=1_000_000)
    """Most connections of this listener in each worker; further ones wait in the kernel's queue. An idle
    connection costs a worker some kilobytes."""
    max_connections_per_source: Integer = Field(default=0, ge=0, le=1_000_000)
    """Most connections of this listener that one network has in each worker, a network being one IPv4 address or one
    IPv6 /64; further ones are closed at once. 0: no limit. Counted by the address of the client, also when a PROXY
    protocol header tells it."""
    forwarded: Literal["append", "replace", "preserve", "off"] = "append"
    """What endpoints see in `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`: `append` adds this hop
    to what the client sent, `replace` drops what the client sent (for listeners on the open internet),
    `preserve` passes on what the client sent and sets it only where it is missing, `off` passes headers on as
    they are. `http` only."""
    retry_buffer: Size = Field(default=64 * KIB, le=16 * MIB)
    """A request up to this size is kept in memory until its answer begins, so that it can be tried on another
    endpoint; a larger one is tried once. `http` only."""
    http2: Http2Config = Http2Config()
    """HTTP/2 with clients. `http` only."""
    upgrades: list[Token] = ["websocket"]
    """Protocols that requests to pools of protocol `http` may change to (the `Upgrade` field); bytes then pass both
    ways until one side closes. An upgrade to any other is not passed on, and the request answered as it is.
    `websocket` also serves WebSockets over HTTP/2 (RFC 8441). `http` only."""
    upgrade_idle_timeout: Duration = HOUR
    """Longest silence in both directions behind an upgrade; then both sides are closed. `0s`: no limit. `http` only."""
