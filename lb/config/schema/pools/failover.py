"""Priorities and zones: which endpoints of a pool are asked before the others, and how much goes to the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from lb.config.schema.base import Integer, Model

if TYPE_CHECKING:
    from lb.config.schema.pools.pool import PoolConfig

MOST_LEVELS = 128  # as many as Envoy has; TG_GROUPS of lb/endpoints/groups.pxd is twice that


class PrioritiesConfig(Model):
    """How the levels of a pool share its requests: level 0 are the endpoints with the lowest `priority`, level 1 those
    with the next one, and so on. Gaps between the numbers mean nothing."""

    spill: Literal["share", "none"] = "share"
    """When the next level gets requests. `share`: as Envoy's priority levels, as much as this one's healthy endpoints
    do not carry (`overprovisioning`). `none`: nothing as long as this one has a healthy endpoint at all, as the
    `backup` servers of HAProxy and nginx."""
    overprovisioning: Integer = Field(default=140, ge=100, le=100_000)
    """Percentage of the requests that a level with all its endpoints could carry: of a level of which half is healthy
    140 % * 1/2 = 70 % are asked of it. Only with `spill: share`."""


class ZonesConfig(Model):
    """Requests go to endpoints of the daemon's own `zone` first, within a level; an empty mapping (`zones: {}`) takes
    the defaults. Without endpoints in its own zone zones have no say."""

    overprovisioning: Integer = Field(default=140, ge=100, le=100_000)
    """Percentage of the requests that the own zone could carry with all its endpoints there: at 140 the others get
    some when less than 71.4 % of it (by weight) are healthy, and as much as it does not carry."""
    min_endpoints: Integer = Field(default=1, ge=1, le=4096)
    """Zones have no say in a level with fewer endpoints than that in the own zone, healthy or not: a few should not get
    what is meant for many."""


class Placed(Protocol):
    """An endpoint with its place."""

    @property
    def priority(self) -> int: ...
    @property
    def zone(self) -> str: ...


def groups_of(endpoints: Sequence[Placed], zone: str, zones: ZonesConfig | None) -> tuple[int, ...]:
    """The group of each endpoint: 2 * level, and 1 more in another zone than `zone` where zones have a say there.
    Empty where all are of one group, so that nobody has to be asked before others."""
    ranks = {
        priority: min(rank, MOST_LEVELS - 1) for rank, priority in enumerate(sorted({e.priority for e in endpoints}))
    }
    own = Counter(ranks[e.priority] for e in endpoints if zone and e.zone == zone)
    groups = []
    for endpoint in endpoints:
        level = ranks[endpoint.priority]
        split = zones is not None and own[level] >= zones.min_endpoints
        groups.append(2 * level + (split and endpoint.zone != zone))
    return tuple(groups) if len(set(groups)) > 1 else ()


def check_failover(pools: Mapping[str, PoolConfig], placed: bool) -> Iterator[tuple[str, str]]:
    """Problems as (path, message) of `pools`; `placed`: the daemon's own zone is known."""
    for name, pool in pools.items():
        path = f"pools.{name}"
        if pool.priorities is not None:
            yield from _priorities(f"{path}.priorities", pool.priorities, pool)
        if pool.zones is not None:
            yield from _zones(f"{path}.zones", pool, placed)


def _priorities(path: str, priorities: PrioritiesConfig, pool: PoolConfig) -> Iterator[tuple[str, str]]:
    if pool.serve is not None:
        yield path, "not with serve: the model servers that Tidegate starts are alike"
    elif pool.endpoints and len({e.priority for e in pool.endpoints}) == 1:
        yield path, "has no effect: all endpoints have the same priority"
    if priorities.spill == "none" and "overprovisioning" in priorities.model_fields_set:
        yield f"{path}.overprovisioning", "has no effect with spill: none"


def _zones(path: str, pool: PoolConfig, placed: bool) -> Iterator[tuple[str, str]]:
    if pool.serve is not None:
        yield path, "not with serve: the model servers that Tidegate starts are where it is"
    elif pool.endpoints and not any(e.zone for e in pool.endpoints):
        yield path, "has no effect: no endpoint has a zone"
    if not placed:
        yield path, "needs the top-level zone: which zone this daemon is in"
