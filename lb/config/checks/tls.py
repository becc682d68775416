"""What concerns TLS together with the rest of a listener or pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lb.config.checks.endpoints import unnamed_towards
from lb.config.schema.listeners.listener import ListenerConfig
from lb.config.schema.listeners.tls import HTTPS_ALPN, PoolTlsConfig, TlsConfig
from lb.config.schema.pools.health import HealthConfig
from lb.config.schema.pools.pool import PoolConfig


def check_tls(listeners: Mapping[str, ListenerConfig], pools: Mapping[str, PoolConfig]) -> Iterator[tuple[str, str]]:
    """Problems as (path, message)."""
    for name, listener in listeners.items():
        path = f"listeners.{name}.tls"
        if listener.protocol == "https" and listener.tls is None:
            yield path, "is required for protocol https: at least certificates with cert and key"
        elif listener.protocol == "http" and listener.tls is not None:
            yield path, "only for protocols https, tcp and tls; a listener that speaks TLS has protocol https"
        elif listener.protocol == "tls" and listener.tls is not None and not listener.terminates:
            yield path, "has no effect: none of sni_routes has tls: terminate"
        elif listener.tls is not None:
            yield from _listener(path, listener, listener.tls)
    for name, pool in pools.items():
        if pool.tls is not None:
            yield from _towards(f"pools.{name}.tls", pool, pool.tls)
            yield from _pool(f"pools.{name}.tls", pool)
        if pool.health is not None:
            yield from _checks(f"pools.{name}", pool, pool.health)


def _listener(path: str, listener: ListenerConfig, tls: TlsConfig) -> Iterator[tuple[str, str]]:
    if tls.client_auth == "none" and tls.client_ca is not None:
        yield f"{path}.client_ca", "has no effect without client_auth: optional or required"
    if tls.client_auth != "none" and tls.client_ca is None:
        yield f"{path}.client_ca", f"is required for client_auth: {tls.client_auth}"
    if tls.client_auth == "none" and tls.crl_file is not None:
        yield f"{path}.crl_file", "has no effect without client_auth: optional or required"
    if tls.ciphers and tls.min_version == "tls1.3":
        yield f"{path}.ciphers", "has no effect with min_version: tls1.3, whose suites are fixed"
    if listener.protocol == "https":
        for i, offered in enumerate(tls.alpn or ()):
            if offered not in HTTPS_ALPN:
                yield (
                    f"{path}.alpn[{i}]",
                    f"{offered!r} is not spoken by listeners of protocol https; known: {', '.join(HTTPS_ALPN)}",
                )
            elif offered == "h2" and not listener.http2.enabled:
                yield f"{path}.alpn[{i}]", "'h2' is not spoken here, as http2.enabled is false"


def _towards(path: str, pool: PoolConfig, tls: PoolTlsConfig) -> Iterator[tuple[str, str]]:
    """Of TLS towards the endpoints of a pool, by requests or by checks."""
    for one, other in (("cert", "key"), ("key", "cert")):
        if getattr(tls, one) is None and getattr(tls, other) is not None:
            yield f"{path}.{other}", f"is of no use without {one}"
    if tls.server_name is not None and tls.server_name.startswith("*."):
        yield f"{path}.server_name", "is one name; a wildcard cannot be asked for"
    if tls.insecure_skip_verify and tls.ca_file is not None:
        yield f"{path}.ca_file", "has no effect with insecure_skip_verify: true"
    if tls.insecure_skip_verify and tls.crl_file is not None:
        yield f"{path}.crl_file", "has no effect with insecure_skip_verify: true"
    if pool.protocol == "udp":
        yield path, "not for protocol udp"
    if pool.serve is not None:
        yield path, "not together with serve: model servers of this machine are spoken to on Unix sockets"
    address = unnamed_towards(tls, pool.endpoints)
    if address is not None:
        yield f"{path}.server_name", f"is required: {address} has no name to check"


def _pool(path: str, pool: PoolConfig) -> Iterator[tuple[str, str]]:
    if pool.send_proxy.version != "off":
        yield path, "not together with send_proxy yet"


def _checks(path: str, pool: PoolConfig, health: HealthConfig) -> Iterator[tuple[str, str]]:
    where, tls = (f"{path}.tls", pool.tls) if health.tls is None else (f"{path}.health.tls", health.tls)
    if health.tls is not None:
        yield from _towards(where, pool, health.tls)
    if tls is not None and health.type in ("grpc", "oip") and tls.insecure_skip_verify:
        yield (
            f"{where}.insecure_skip_verify",
            f"not with checks of type {health.type}, which cannot skip it; use type tcp",
        )
