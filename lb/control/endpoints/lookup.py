"""Pools and endpoints by the names that operators use: what there is, or an error that says what there is."""

from __future__ import annotations

from lb.config.plan.plan import EndpointPlan, Plan, PoolPlan
from lb.config.schema.base import did_you_mean, listed
from lb.errors import ConfigError


def find_pool(plan: Plan | None, name: str) -> PoolPlan:
    """Raises ConfigError when there is no such pool."""
    pools = {pool.name: pool for pool in plan.pools} if plan is not None else {}
    if name not in pools:
        raise ConfigError([f"there is no pool {name!r}{did_you_mean(name, pools)}"])
    return pools[name]


def find_endpoint(plan: Plan | None, pool: str, address: str) -> EndpointPlan:
    """Raises ConfigError when there is no such pool, or it has no such endpoint."""
    known = {endpoint.address: endpoint for endpoint in find_pool(plan, pool).endpoints}
    if address not in known:
        host = address.rpartition(":")[0]
        likely = sorted(known, key=lambda each: each.rpartition(":")[0] != host)  # those of the same host first
        raise ConfigError([f"pool {pool!r} has no endpoint {address!r}; it has {listed(likely)}"])
    return known[address]


def must_exist(plan: Plan | None, pool: str | None, address: str | None) -> None:
    """Of what is asked about; None stands for any. Raises ConfigError when there is no such thing."""
    if pool is not None and address is not None:
        find_endpoint(plan, pool, address)
    elif pool is not None:
        find_pool(plan, pool)
    elif address is not None and not any(
        endpoint.address == address for each in (plan.pools if plan is not None else ()) for endpoint in each.endpoints
    ):
        raise ConfigError([f"no pool has an endpoint {address!r}"])
