"""What the affinity of a pool cannot be together with its other settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lb.config.checks.routes import Found
from lb.config.schema.base import only_for
from lb.config.schema.file import EndpointConfig, PoolConfig
from lb.config.schema.pools.affinity import CookieConfig

# These are how cookies come and go, not what names a session.
_COOKIE_FIELDS = ("cookie", "set-cookie")


def check_server_ids(path: str, pool: PoolConfig, endpoints: Sequence[EndpointConfig]) -> Iterator[Found]:
    """The problems of the ids that `endpoints`, whose list stands at `path`, have in connection ids of QUIC."""
    quic = pool.affinity.quic
    length = 0 if quic is None else quic.server_id_length
    seen: dict[str, int] = {}
    for i, endpoint in enumerate(endpoints):
        place = f"{path}[{i}].server_id"
        if endpoint.server_id is None:
            continue
        if length == 0:
            yield place, "has no effect without affinity.quic.server_id_length of the pool"
        elif len(endpoint.server_id) != 2 * length:
            yield place, f"has {len(endpoint.server_id) // 2} bytes, and affinity.quic.server_id_length says {length}"
        elif (first := seen.setdefault(endpoint.server_id.lower(), i)) != i:
            yield place, f"is that of endpoint {first} already"


def check_affinity(path: str, pool: PoolConfig) -> Iterator[Found]:
    """The problems of `affinity`, which stands at `path`."""
    affinity = pool.affinity
    bytes_only = pool.protocol in ("tcp", "udp")
    if pool.protocol != "oip":
        yield from only_for(affinity, path, ("sequence",), "only for protocol oip")
    if affinity.quic is not None and pool.protocol != "udp":
        yield f"{path}.quic", "only for protocol udp"
    if affinity.cookie is not None:
        if bytes_only:
            yield f"{path}.cookie", f"not for protocol {pool.protocol}, which has no cookies"
        yield from _prefixed(f"{path}.cookie", affinity.cookie)
        if affinity.cookie.same_site == "none" and not affinity.cookie.secure:
            yield f"{path}.cookie.same_site", "browsers refuse none without secure: true"
    if affinity.learn is not None:
        if bytes_only:
            yield f"{path}.learn", f"not for protocol {pool.protocol}, which has no cookies and no headers"
        elif affinity.cookie is not None:
            yield f"{path}.learn", "not together with cookie: which of the two would say where a client stays"
        if (affinity.learn.header or "").lower() in _COOKIE_FIELDS:
            yield f"{path}.learn.header", f"{affinity.learn.header} names no session: say cookie: NAME"


def _prefixed(path: str, cookie: CookieConfig) -> Iterator[Found]:
    """What browsers refuse of cookies whose name has a prefix (RFC 6265bis section 4.1.3), in any case."""
    name = cookie.name.lower()
    if not name.startswith(("__secure-", "__host-")):
        return
    if not cookie.secure:
        yield f"{path}.secure", f"browsers refuse {cookie.name} without secure: true"
    if name.startswith("__host-"):
        if cookie.path != "/":
            yield f"{path}.path", f"browsers refuse {cookie.name} with a path other than /"
        if cookie.domain is not None:
            yield f"{path}.domain", f"browsers refuse {cookie.name} with a domain"
