"""What has to hold for the endpoints of a pool, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lb.config.address import HostPort, UnixPath, parse_address
from lb.config.checks.affinity import check_server_ids
from lb.config.schema.listeners.tls import PoolTlsConfig
from lb.config.schema.pools.pool import EndpointConfig, PoolConfig

# The key of an endpoint record in lb/shared/segment.h, "pool|address" with a NUL.
KEY_MAX = 127


def check_endpoints(
    path: str, name: str, pool: PoolConfig, endpoints: Sequence[EndpointConfig]
) -> Iterator[tuple[str, str]]:
    """Every problem of `endpoints` as those of the pool `name`, as (path, message); `path` is that of the list."""
    seen: dict[str, int] = {}
    for i, endpoint in enumerate(endpoints):
        place, address = f"{path}[{i}]", parse_address(endpoint.address)
        if seen.setdefault(endpoint.address, i) != i:
            yield place, f"{endpoint.address} is endpoint {seen[endpoint.address]} already"
        if isinstance(address, HostPort) and address.port == 0:
            yield place, "port 0 cannot be connected to"
        if len(f"{name}|{endpoint.address}".encode()) > KEY_MAX:
            yield place, f"the names of pool and address are longer than {KEY_MAX - 1} bytes together"
    yield from check_server_ids(path, pool, endpoints)


def unnamed(pool: PoolConfig, endpoints: Sequence[EndpointConfig]) -> str | None:
    """The first address without a name that its certificate could be checked for, where the pool, or its checks, need
    one."""
    checks = pool.health.tls if pool.health is not None else None
    return unnamed_towards(pool.tls, endpoints) or unnamed_towards(checks, endpoints)


def unnamed_towards(tls: PoolTlsConfig | None, endpoints: Sequence[EndpointConfig]) -> str | None:
    """The same of one section."""
    if tls is None or tls.server_name is not None or tls.insecure_skip_verify:
        return None
    return next((e.address for e in endpoints if isinstance(parse_address(e.address), UnixPath)), None)
