"""What `/api/v1/counters` answers: all counters as they are, and what of the status document they are read with.

A reader of rates asks once a second, so this leaves out of the status document what such a reader does not show: with
a thousand endpoints it is half of the work.

    {version, state, uptime_s, generation, last_reload, workers: [{index, state}],
     listeners: [{name, address, sockets, protocol}],
     pools: [{name, protocol, policy, panic, queue: {waiting, max} | None,
              endpoints: [{address, weight, health, admin, ejection, in_flight, max_in_flight, turns}]}],
     cache: {entries, bytes, capacity, stored, evictions, …} | None,
     counters: lb.control.counters.words}

With `?models=yes` the model servers are asked, too, by ModelStatistics: {models: [{pool, model, version, success,
success_ns, fail, fail_ns, queue_ns, compute_ns, runs, rows, hits, misses}]}, for all servers of a pool together.

`ejection` is well, ejected or probation. `max_in_flight` is the learned limit where there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
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


async def models(master: Master) -> list[dict[str, Any]]:
    """What the model servers of all `oip` pools have counted; of a pool that does not answer, or whose servers have no
    statistics, nothing."""
    names = [pool.name for pool in master.plan.pools if pool.protocol == "oip"] if master.plan is not None else []
    answers = await asyncio.gather(*(master.pool_calls.statistics(name) for name in names))
    return [
        row
        for name, answer in zip(names, answers, strict=True)
        if not answer.status
        for row in _models(name, answer.reply)
    ]


def _models(pool: str, reply: bytes) -> Iterator[dict[str, Any]]:
    from google.protobuf.message import DecodeError  # for a reader who wants models: the master has no use for it else

    from lb.wire import grpc_service_pb2 as wire

    try:
        said = wire.ModelStatisticsResponse.FromString(reply)
    except DecodeError:
        return
    for model in said.model_stats:
        inference = model.inference_stats
        compute = (inference.compute_input, inference.compute_infer, inference.compute_output)
        yield {
            "pool": pool,
            "model": model.name,
            "version": model.version,
            "success": inference.success.count,
            "success_ns": inference.success.ns,
            "fail": inference.fail.count,
            "fail_ns": inference.fail.ns,
            "queue_ns": inference.queue.ns,
            "compute_ns": sum(part.ns for part in compute),
            "runs": model.execution_count,
            "rows": model.inference_count,
            "hits": inference.cache_hit.count,
            "misses": inference.cache_miss.count,
        }


def _listeners(master: Master, plan: Plan) -> list[dict[str, Any]]:
    addresses = master.addresses()
    return [
        {
            "name": listener.name,
            "address": addresses[listener.name],
            "sockets": master.sockets.shown(listener.places()),
            "protocol": listener.protocol,
        }
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
