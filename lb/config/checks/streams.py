"""Listeners below HTTP (`tcp`, `tls`, `udp`): what they cannot have, and what they name; who may connect to any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from lb.config.address import UnixPath
from lb.config.checks.routes import Found
from lb.config.checks.udp import check_udp_listener
from lb.config.schema.base import did_you_mean, only_for
from lb.config.schema.file import Config, ListenerConfig
from lb.config.schema.listeners.sni import SniRouteConfig
from lb.config.schema.pools.pool import KeyConfig
from lb.config.schema.routes.route import ShareConfig

_HTTP_ONLY = (
    "body_timeout",
    "min_body_rate",
    "send_timeout",
    "max_header_bytes",
    "max_headers",
    "forwarded",
    "trusted_proxies",
    "forwarded_header",
    "via",
    "request_id",
    "retry_buffer",
    "normalize_path",
    "aliased_headers",
    "http2",
    "upgrades",
    "upgrade_idle_timeout",
    "auth",
    "explain",
    "error_pages",
    "track",
    "table_rules",
)
_STREAM_ONLY = (
    "max_connections",
    "max_connections_per_source",
    "proxy_protocol",
    "half_close_timeout",
    "tcp_keepalive",
)
_ABOUT_SOURCES = (
    "allow",
    "allow_file",
    "deny",
    "deny_file",
    "connection_rate_per_source",
    "max_connections_per_source",
)
_POOLS_OF = {"http": ("oip", "http", "http2", "grpc"), "tcp": ("tcp",), "tls": ("tcp",), "udp": ("udp",)}


def check_stream(config: Config, broken: Set[str], name: str, listener: ListenerConfig) -> Iterator[Found]:
    """Problems of the listener `name`, whose protocol is tcp, tls or udp."""
    path = f"listeners.{name}"
    yield from only_for(listener, path, _HTTP_ONLY, "only for protocol http")
    if listener.protocol == "udp":
        yield from check_udp_listener(path, listener)
        yield from only_for(listener, path, _STREAM_ONLY, "only for protocols http, tcp and tls")
    else:
        yield from only_for(listener, path, ("udp",), "only for protocol udp")
    yield from _destination(config, broken, path, listener, listener.protocol)
    if listener.protocol == "tls":
        yield from _sni_routes(config, broken, path, listener)
        return
    yield from only_for(listener, path, ("sni_routes",), "only for protocol tls")
    if listener.protocol == "tcp":
        yield from only_for(listener, path, ("header_timeout",), "only for protocols http and tls")
        if listener.routes:
            yield f"{path}.routes", "only for protocol http; a tcp listener has one pool"
    if listener.pool is None and not listener.pools:
        yield f"{path}.pool", f"is required for protocol {listener.protocol}"


def check_sources(config: Config, name: str, listener: ListenerConfig) -> Iterator[Found]:
    """Problems with who may connect to the listener `name` of any protocol, and how often."""
    path = f"listeners.{name}"
    given = [key for key in _ABOUT_SOURCES if key in listener.model_fields_set and getattr(listener, key)]
    unix = all(isinstance(bind.sockets()[0].address, UnixPath) for bind in listener.bind)
    if unix and listener.proxy_protocol is None and not _handed_to(config, name):
        for key in given:
            yield f"{path}.{key}", "has no effect: clients of a Unix socket have no address without proxy_protocol"
    if "allow" in listener.model_fields_set and not listener.allow and listener.allow_file is None:
        yield f"{path}.allow", "is empty and would let everybody in; leave it out for that"
    counted = listener.max_connections_per_source or listener.udp.max_sessions_per_source
    if "source_network" in listener.model_fields_set and not counted and listener.connection_rate_per_source is None:
        yield f"{path}.source_network", "has no effect without a limit per source"


def _handed_to(config: Config, name: str) -> bool:
    """Whether a tls listener hands connections to the listener `name`: these clients have their own address."""
    return any(rule.listener == name for other in config.listeners.values() for rule in other.sni_routes)


def check_reference(config: Config, broken: Set[str], path: str, name: str, protocol: str) -> Iterator[Found]:
    """Problems of `name`, a pool that something of the protocol `protocol` names at `path`."""
    if "pools" in broken or f"pools.{name}" in broken:
        return
    if name not in config.pools:
        yield path, f"there is no pool {name!r}" + did_you_mean(name, config.pools)
    elif (theirs := config.pools[name].protocol) not in _POOLS_OF[protocol]:
        allowed = " or ".join(_POOLS_OF[protocol])
        yield (
            path,
            f"the pool {name!r} speaks {theirs}; a listener of protocol {protocol} needs one that speaks {allowed}",
        )


def _destination(
    config: Config, broken: Set[str], path: str, place: ListenerConfig | SniRouteConfig, protocol: str
) -> Iterator[Found]:
    """Of `pool`, `pools` and `sticky`."""
    if place.pool is not None:
        yield from check_reference(config, broken, f"{path}.pool", place.pool, protocol)
        if place.pools:
            yield f"{path}.pools", "not together with pool: one of the two says where connections go"
    yield from _shares(config, broken, path, place.pools, protocol)
    yield from _sticky(path, place.sticky, place.pools)


def _shares(
    config: Config, broken: Set[str], path: str, shares: Sequence[ShareConfig], protocol: str
) -> Iterator[Found]:
    for i, share in enumerate(shares):
        yield from check_reference(config, broken, f"{path}.pools[{i}].pool", share.pool, protocol)
    if shares and not any(share.weight for share in shares):
        yield f"{path}.pools", "none has a weight above 0"


def _sticky(path: str, sticky: KeyConfig | None, shares: Sequence[ShareConfig]) -> Iterator[Found]:
    if sticky is None:
        return
    if not shares:
        yield f"{path}.sticky", "only for pools, which share the connections"
    if sticky.source is None:
        yield f"{path}.sticky", "knows only source: below HTTP there is nothing else to tell clients apart by"


def _sni_routes(config: Config, broken: Set[str], path: str, listener: ListenerConfig) -> Iterator[Found]:
    if listener.routes:
        yield f"{path}.routes", "only for protocol http; a tls listener has sni_routes"
    rest = listener.pool is not None or bool(listener.pools)
    if not rest and not listener.sni_routes:
        yield f"{path}.sni_routes", "a tls listener needs at least one rule, or a pool"
    taken: dict[str, int] = {}
    for i, route in enumerate(listener.sni_routes):
        place = f"{path}.sni_routes[{i}]"
        yield from _destination(config, broken, place, route, "tls")
        if route.listener is not None:
            yield from _other_listener(config, broken, f"{place}.listener", route.listener)
        if route.tls == "terminate" and listener.tls is None:
            yield f"{place}.tls", "terminate needs the listener's section tls, with certificates"
        for name in route.sni or [""]:
            if name in taken and taken[name] != i:
                yield place, f"is never reached: rule {taken[name]} takes every connection for {name or 'any name'}"
            elif not route.alpn and not route.source:
                taken[name] = i
    if rest and "" in taken:
        key = "pool" if listener.pool is not None else "pools"
        yield f"{path}.{key}", f"is never reached: rule {taken['']} takes what no other does"


def _other_listener(config: Config, broken: Set[str], path: str, name: str) -> Iterator[Found]:
    if "listeners" in broken or f"listeners.{name}" in broken:
        return
    if name not in config.listeners:
        yield path, f"there is no listener {name!r}" + did_you_mean(name, config.listeners)
    elif (theirs := config.listeners[name].protocol) != "https":
        yield path, f"the listener {name!r} has protocol {theirs}; only one of protocol https takes those of others"
