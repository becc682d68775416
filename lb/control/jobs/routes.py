"""The configuration with what jobs need: routes, a pool and a listener that no file has.

Beside each route with `jobs` stand routes that take what is about jobs and leads to the jobs process, the pool `jobs`.
The listener `jobs` takes the requests of jobs that run; it has the routes with `jobs` as the file has them, without the
limits that the request has passed when it was accepted. Workers see routes as any: the data path knows nothing of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lb.config.checks.jobs import NAME
from lb.config.forms import by_form, members_of
from lb.config.schema.access import NO_AUTH, AccessConfig, access_of
from lb.config.schema.file import (
    Config,
    FieldsConfig,
    ListenerConfig,
    MatchConfig,
    NormalizeConfig,
    PathMatch,
    PoolConfig,
    RespondConfig,
    RouteConfig,
    TextMatch,
)
from lb.config.schema.listeners.bind import BindConfig
from lb.config.schema.routes.match import Conditions, Group
from lb.config.schema.routes.retry import NO_HEDGE, NO_RETRY
from lb.config.units import MIB
from lb.jobs.settings import ROUTE_FIELD

# `respond-async` among the preferences of a line (RFC 7240): names know no case, and may have parameters.
RESPOND_ASYNC = r"(?i)(^|,)\s*respond-async\s*($|[,;])"
_GRPC = TextMatch.model_construct(prefix="application/grpc", invert=True)
# The listener that accepted the job has brought its path into its form.
_AS_IT_IS = NormalizeConfig(decode=False, dot_segments=False, merge_slashes=False, escaped_slash="keep")
# A network of nobody: with any at all, what a client on a Unix socket says of its own client is believed.
_TRUST = ["192.0.2.0/32"]  # TEST-NET-1
_RUNS = "/job"  # behind the name of a route, for its jobs that run
_SPARE = 16  # connections of attempts that were just given up
_Match = TypeVar("_Match", MatchConfig, Group, Conditions)


def service_socket(folder: Path) -> Path:
    """Where the jobs process listens."""
    return folder / "jobs.sock"


def calls_socket(folder: Path) -> Path:
    """Where the listener `jobs` listens."""
    return folder / "jobs-calls.sock"


def with_jobs(config: Config, find_folder: Callable[[], Path]) -> Config:
    """`config` with the routes, pool and listener of jobs; itself, where it has no section for them. `find_folder`
    gives that for their sockets."""
    if config.jobs is None:
        return config
    folder = find_folder()
    prefix = config.jobs.prefix
    inner: list[RouteConfig] = []
    listeners = dict(config.listeners)
    for name, listener in config.listeners.items():
        if any(first.jobs for first, _ in by_form(members_of(listener.routes))):
            routes = list(_named(name, listener.routes))
            default = listener.auth
            inner += [_inner(default, route) for route in routes if route.jobs]
            outer = [made for route in routes for made in _outer(default, route)]
            routes = [*_resources(name, default, routes, prefix), *outer]
            listeners[name] = listener.model_copy(update={"routes": routes})
    # A job whose route is gone waits for its return: 503 is no answer to it.
    inner.append(RouteConfig.model_construct(name=f"{NAME}/no-route", respond=RespondConfig(status=503)))
    listeners[NAME] = ListenerConfig(
        protocol="http", bind=[BindConfig(address=f"unix:{calls_socket(folder)}")], routes=inner, forwarded="preserve",
        trusted_proxies=_TRUST, via="", aliased_headers="pass", normalize_path=_AS_IT_IS,
        max_header_bytes=MIB, max_headers=1000, max_connections=config.jobs.concurrency + _SPARE,
    )  # fmt: skip
    pool = PoolConfig.model_validate(
        {
            "protocol": "http",
            "endpoints": [f"unix:{service_socket(folder)}"],
            "policy": "round_robin",
            "retries": 0,
            "outlier": "off",
            "avoid_failing": False,
            "response_timeout": 0,  # of a client that waits for news
        }
    )
    return config.model_copy(update={"listeners": listeners, "pools": {**config.pools, NAME: pool}})


def route_of(name: str) -> str:
    """The route of the file whose jobs the route `name` runs; of another its own name."""
    return name.removesuffix(_RUNS)


def shares(config: Config) -> dict[str, dict[str, float]]:
    """For each route with jobs of a configuration that has them added, the part of its requests that each pool gets."""
    found = {}
    for route in config.listeners[NAME].routes if config.jobs is not None else ():
        split = {share.pool: share.weight for share in route.pools}
        weights = split if route.pool is None else {route.pool: 1}
        total = sum(weights.values())
        if total:
            found[route_of(str(route.name))] = {pool: weight / total for pool, weight in weights.items()}
    return found


def _named(listener: str, routes: Sequence[RouteConfig]) -> Iterator[RouteConfig]:
    """The routes with the names that they would have without those that are put between them."""
    for i, member in enumerate(members_of(routes)):
        route = member.route
        yield route if route.name is not None else route.model_copy(update={"name": f"{listener}/{i}"})


def _outer(default: AccessConfig | None, route: RouteConfig) -> Iterator[RouteConfig]:
    """A route as clients see it: in front of it, if it has jobs, the one that accepts them. What the route has of
    limits holds for submissions; what it does to requests is for jobs that run."""
    if route.jobs:
        headers = {**route.match.headers, "prefer": TextMatch(regex=RESPOND_ASYNC)}
        if not any(name.lower() == "content-type" for name in headers):
            headers["content-type"] = _GRPC
        yield RouteConfig.model_construct(
            name=f"{route.name}/async",
            match=route.match.model_copy(update={"headers": headers}),
            pool=NAME,
            request_headers=FieldsConfig(set={ROUTE_FIELD: str(route.name)}),
            max_body=route.max_body,
            rate_limit=route.rate_limit,
            quota=route.quota,
            track=route.track,
            table_rules=route.table_rules,
            max_in_flight=route.max_in_flight,
            cors=route.cors,
            auth=_told(default, route),
            retry=NO_RETRY,
            hedge=NO_HEDGE,
        )
    yield route


def _resources(
    listener: str, default: AccessConfig | None, routes: Sequence[RouteConfig], prefix: str
) -> Iterator[RouteConfig]:
    """The routes by which clients find their jobs, on each host that has routes with jobs."""
    hosts = {(route.match.host, route.match.host_regex): route for route in routes if route.jobs}
    for i, ((host, host_regex), route) in enumerate(hosts.items()):
        for part, methods in (("", ["GET", "HEAD", "DELETE"]), ("/result", ["GET", "HEAD"]), ("/events", ["GET"]),
                              ("/retry", ["POST"])):  # fmt: skip
            yield RouteConfig.model_construct(
                name=f"{listener}/{NAME}{part}{f'/{i}' if i else ''}",
                match=MatchConfig(
                    host=host, host_regex=host_regex, path=PathMatch(template=f"{prefix}/{{job}}{part}"), method=methods
                ),
                pool=NAME,
                request_headers=FieldsConfig(remove=[ROUTE_FIELD]),
                cors=route.cors,
                auth=_told(default, route),
                retry=NO_RETRY,
                hedge=NO_HEDGE,
            )


def _told(default: AccessConfig | None, route: RouteConfig) -> AccessConfig:
    """Of a route that leads to the jobs process, which has to know whose a job is, and keeps no credentials."""
    access = access_of(default, route.auth)
    if access is None:
        return NO_AUTH
    return access.model_copy(update={"forward_identity": True, "forward_credential": False})


def _without_client(match: _Match) -> _Match:
    """Without what was looked at when the job was accepted: where its client is, and what tables had counted. Each
    group of `any` asks for less then. A group of `none` goes: nobody knows which part of it did not hold."""
    kept: dict[str, Any] = {"source": None, "not_source": None, "tables": {}}
    if not isinstance(match, MatchConfig | Group):
        return match.model_copy(update=kept)
    groups = [_without_client(group) for group in match.any]
    kept["any"] = groups if all(map(_has_conditions, groups)) else []
    kept["none"] = [group for group in match.none if not _is_about_client(group)]
    return match.model_copy(update=kept)


def _has_conditions(group: Conditions) -> bool:
    return any(getattr(group, name) for name in type(group).model_fields)


def _is_about_client(group: Conditions) -> bool:
    inner = (*group.any, *group.none) if isinstance(group, Group) else ()
    return bool(group.source or group.not_source or group.tables) or any(map(_is_about_client, inner))


def _inner(default: AccessConfig | None, route: RouteConfig) -> RouteConfig:
    """A route for the requests of its jobs. Where the client is, what it has done and how often it asks was looked at
    when the job was accepted; and jobs wait for others, who are waited for. An answer is kept as the endpoint gave it:
    the runner goes by its status, and who fetches it may accept other codings than who asked."""
    name = TextMatch(exact=str(route.name))
    match = _without_client(route.match)
    match = match.model_copy(update={"headers": {**match.headers, ROUTE_FIELD.lower(): name}})
    fields = route.request_headers or FieldsConfig()
    return route.model_copy(
        update={
            "request_headers": fields.model_copy(update={"remove": [*fields.remove, ROUTE_FIELD]}),
            "name": f"{route.name}{_RUNS}",
            "auth": access_of(default, route.auth),
            "match": match,
            "jobs": False,
            "rate_limit": None,
            "bandwidth": None,
            "quota": [],
            "track": [],
            "table_rules": [],
            "max_in_flight": None,
            "cors": None,
            "compression": None,
            "error_pages": [],
            "priority": "low",
        }
    )
