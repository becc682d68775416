"""Checks of who may ask that concern several sections."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from lb.config.forms import by_form, members_of
from lb.config.schema.access import access_of, credential_headers
from lb.config.schema.base import did_you_mean

if TYPE_CHECKING:
    from lb.config.schema.access import AccessConfig
    from lb.config.schema.file import Config, ListenerConfig, RouteConfig

Found = tuple[str, str]


def check_access(config: Config, broken: Set[str]) -> Iterator[Found]:
    """Problems with `auth` of routes, and with what goes by the identities that it finds."""
    yield from _servers(config, broken)
    of_jobs = None
    for name, listener in config.listeners.items():
        default = access_of(None, listener.auth)
        if default is not None:
            yield from _access(config, broken, f"listeners.{name}.auth", listener, default)
        for first, places in by_form(members_of(listener.routes)):
            path = f"listeners.{name}.routes[{places[0]}]"
            access = access_of(listener.auth, first.auth)
            yield from _route(config, broken, path, listener, first)
            if first.jobs:
                if of_jobs is not None and of_jobs[1] != access:
                    yield f"{path}.auth", f"has to be that of {of_jobs[0]}: both have jobs, for which clients ask alike"
                of_jobs = of_jobs or (path, access)
    by_identity = config.jobs is not None and config.jobs.tenant is not None and config.jobs.tenant.identity
    if by_identity and of_jobs is not None and of_jobs[1] is None:
        yield "jobs.tenant.identity", f"{of_jobs[0]} has jobs and no auth, which finds out who a request is from"
    if by_identity and of_jobs is not None and of_jobs[1] is not None:
        for name in _nameless(config, of_jobs[1]):
            yield "jobs.tenant.identity", _NAMELESS.format(of=name)


_NAMELESS = "auth.{of} has no identity_header, so that its requests have no identity"


def _nameless(config: Config, access: AccessConfig) -> list[str]:
    """Providers of a route whose requests have no identity."""
    asked = [(name, config.auth[name]) for name in access.providers if name in config.auth]
    return [name for name, provider in asked if provider.pool is not None and provider.identity_header is None]


def _servers(config: Config, broken: Set[str]) -> Iterator[Found]:
    """Problems with the pools of authorization servers."""
    for name, provider in config.auth.items():
        if name == "none":
            yield "auth.none", "is no name for a provider: auth: none of a route lets anybody in"
        if provider.pool is None or "pools" in broken or f"pools.{provider.pool}" in broken:
            continue
        pool = config.pools.get(provider.pool)
        if pool is None:
            yield f"auth.{name}.pool", f"there is no pool {provider.pool!r}" + did_you_mean(provider.pool, config.pools)
        elif pool.protocol != provider.type:
            yield f"auth.{name}.pool", f"the pool {provider.pool!r} speaks {pool.protocol}; this needs {provider.type}"


def check_quotas(config: Config, broken: Set[str]) -> Iterator[Found]:
    """Problems with `quota` of routes."""
    secret = credential_headers(config.auth)
    for name, quota in config.quotas.items():
        if quota.key.header is not None and quota.key.header.lower() in secret:
            yield f"quotas.{name}.key.header", "has the keys of auth, which would be shown; use identity"
    for name, listener in config.listeners.items():
        for first, places in by_form(members_of(listener.routes)):
            path = f"listeners.{name}.routes[{places[0]}].quota"
            access = access_of(listener.auth, first.auth)
            for i, each in enumerate(first.quota):
                known = config.quotas.get(each)
                if each in first.quota[:i]:
                    yield f"{path}[{i}]", f"has {each!r} twice; a request counts once"
                if known is None:
                    if "quotas" not in broken and f"quotas.{each}" not in broken:
                        yield f"{path}[{i}]", f"there is no quota {each!r}" + did_you_mean(each, config.quotas)
                elif known.key.identity and access is None:
                    said = "which needs auth of the route or of its listener"
                    yield f"{path}[{i}]", f"quotas.{each} counts by identity, {said}"
                elif known.key.identity and access is not None:
                    for nameless in _nameless(config, access):
                        yield f"{path}[{i}]", _NAMELESS.format(of=nameless)


def _route(
    config: Config, broken: Set[str], path: str, listener: ListenerConfig, route: RouteConfig
) -> Iterator[Found]:
    access = access_of(listener.auth, route.auth)
    paced = route.bandwidth.key if route.bandwidth is not None else None
    paced_by_identity = paced is not None and paced.identity
    if access is None:
        if route.rate_limit is not None and route.rate_limit.key.identity:
            yield f"{path}.rate_limit.key.identity", "needs auth, which finds out who a request is from"
        if paced_by_identity:
            yield f"{path}.bandwidth.key.identity", "needs auth, which finds out who a request is from"
        if route.cache is not None and route.cache.tenant is not None and route.cache.tenant.identity:
            yield f"{path}.cache.tenant.identity", "needs auth, which finds out who a request is from"
        return
    for nameless in _nameless(config, access):
        said = _NAMELESS.format(of=nameless)
        if route.rate_limit is not None and route.rate_limit.key.identity:
            yield f"{path}.rate_limit.key.identity", said
        if paced_by_identity:
            yield f"{path}.bandwidth.key.identity", said
        if route.cache is not None and route.cache.tenant is not None and route.cache.tenant.identity:
            yield f"{path}.cache.tenant.identity", said
    if route.auth is not None:
        yield from _access(config, broken, f"{path}.auth", listener, access)


def _access(
    config: Config, broken: Set[str], path: str, listener: ListenerConfig, access: AccessConfig
) -> Iterator[Found]:
    """Problems with what a route or a listener asks for."""
    if access.allow:
        for nameless in _nameless(config, access):
            yield f"{path}.allow", _NAMELESS.format(of=nameless)
    for i, name in enumerate(access.providers):
        provider = config.auth.get(name)
        if provider is None:
            if "auth" not in broken and f"auth.{name}" not in broken:
                yield f"{path}.providers[{i}]", f"there is no provider {name!r}" + did_you_mean(name, config.auth)
            continue
        if provider.type == "mtls" and (listener.tls is None or listener.tls.client_auth == "none"):
            yield f"{path}.providers[{i}]", "needs tls of the listener with client_auth: optional or required"
        if access.scopes and provider.type not in ("api_key", "jwt"):
            yield f"{path}.scopes", f"no credential of auth.{name} has scopes: they are of types api_key and jwt"
        if access.claims and provider.type != "jwt":
            yield f"{path}.claims", f"no credential of auth.{name} has claims: they are of type jwt"
