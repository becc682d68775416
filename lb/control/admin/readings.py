"""What `/api/v1/counters` answers: all counters as they are, and what of the status document they are read with.

A reader of rates asks once a second, so this leaves out of the status document what such a reader does not show: with
a thousand endpoints it is half of the work.

    {version, state, uptime_s, generation, last_reload, workers: [{index, state}],
     listeners: [{name, address, protocol}],
     pools: [{name, protocol, policy, panic, queue: {waiting, max} | None,
              endpoints: [{address, weight, health, admin, ejection, in_flight, max_in_flight, turns}]}],
     cache: {entries, bytes, capacity, stored, evictions, …} | None,
     counters: lb.control.counters.words}

`ejection` is well, ejected or probation. `max_in_flight` is the learned limit where there is one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import lb
from lb.cache.store import ResultCache
from lb.config.plan.plan import Plan, PoolPlan
from lb.control import counters
from lb.control.registry import ADMIN, HEALTH

if TYPE_CHECKING:
    from lb.control.master import Master


def document(master: Master, now: int) -> dict[str, Any]:
    """The readings of a running master at `now` (monotonic ns)."""
    plan = master.plan
    cache = plan.cache if plan is not None else None
    return {
        "version": lb.__version__,
        "state": master.state,
        "uptime_s": round(time.time() - master.started, 3),
        "generation": plan.generation if plan is not None else 0,
        "last_reload": master.last_reload.to_dict() if master.last_reload is not None else None,
        "workers": [{"index": member.index, "state": member.state} for member in master.fleet.members],
        "listeners": _listeners(master, plan) if plan is not None else [],
        "pools": [_pool(master, pool, now) for pool in plan.pools] if plan is not None else [],
        "cache": ResultCache(master.segment, cache.max_object).stats() if cache is not None else None,
        "counters": counters.words(plan, master.segment) if plan is not None else {},
    }


def _listeners(master: Master, plan: Plan) -> list[dict[str, Any]]:
    addresses = master.addresses()
    return [
        {"name": listener.name, "address": addresses[listener.name], "protocol": listener.protocol}
        for listener in plan.listeners
        if listener.name in addresses
    ]


def _pool(master: Master, pool: PoolPlan, now: int) -> dict[str, Any]:
    segment, ejections = master.segment, master.steering.ejections(pool.name)
    config = master.config.pools.get(pool.name)
    looked = pool.managed or (config is not None and (config.health is not None or config.agent is not None))
    endpoints = []
    for endpoint in pool.endpoints:
        slot, health = endpoint.slot, HEALTH.get(segment.health(endpoint.slot), "unknown")
        endpoints.append(
            {
                "address": endpoint.address,
                "weight": segment.weight(slot),
                "health": "unchecked" if health == "up" and not looked else health,
                "admin": ADMIN.get(segment.admin(slot), "unknown"),
                "ejection": ejections.get(endpoint.address, "well"),
                "in_flight": segment.inflight(slot),
                "max_in_flight": (segment.learned_limit(slot) if pool.learns_limits else 0) or endpoint.max_in_flight,
                "turns": round(segment.turns(slot, now), 3),
            }
        )
    queue = pool.queue
    return {
        "name": pool.name,
        "protocol": pool.protocol,
        "policy": pool.policy.type,
        "panic": master.steering.panics(pool.name),
        "queue": {"waiting": master.publisher.waiting(pool.name), "max": queue.max} if queue is not None else None,
        "endpoints": endpoints,
    }
