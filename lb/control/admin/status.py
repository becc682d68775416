"""The status document: what `/api/v1/status` answers and `tidegate status` shows. Only plain types.

    {version,
     program: {path, pid, upgrades, old_workers: [pid], last_upgrade: {ok, at, before, after, error, admin} | None},
     state, zone, started_at, uptime_s, generation, reloads, last_reload, config, compiled: {module: bool},
     changes: [{setting, value, file, at, by}, of endpoints with pool and endpoint],
     workers: [{index, pid, state, restarts, generation, busy, last_exit, stats}],
     listeners: [{name, bind, address, addresses: [{bind, address}], sockets: [as `ss` shows them], protocol,
                  inherited}],
     pools: [{name, protocol, policy,
             endpoints: [{address, weight, priority, zone, health, admin, in_flight, outstanding_cost, max_in_flight,
                          learned_limit,
                          failing, turns, errors: {answers, faults, grpc},
                          local_transport: {sent, received, full} | None, sequences, sessions, check, steering, models,
                          report: {utilization, rps, eps, age_s} | None,
                          agent: {health, description, admin, weight_percent, max_in_flight, asked, failures,
                          last: {ok, said, at, took}} | None}],
             leaving: [{address, weight, health, admin, in_flight, outstanding_cost, sequences, leaving_for_s}],
             panic, panics, failovers,
             levels: [{priority, endpoints, healthy, carries, share, panic, own_zone, other_zones}] | None,
             managed: {wanted, standby, replicas: [{index, pid, address, state, restarts, started_at, last_error,
             output, gpus, cores}],
             next, leaving: [the same, of settings to come and of those before], restarts, scaling,
             vertical, on_demand: {asleep, since_s, idle_s, idle_timeout_s, wakes, start_s, trouble} | None} | None,
             cost: {unit, models: {name: {relative, unit_s, samples}}} | None,
             discovery: {source, target, state: waiting | current | partial | stale, endpoints, left_out, age_s,
             next_look_s, looks, failures, changes, error} | None,
             engine: {engine, target, state: waiting | current | stale, min, max, wanted, number, running, detail,
             drift, drift_s, drifts, age_s, leads, held, looks, failures, changes, conflicts, error,
             lease: {lease, identity, holder, leads, token, terms, renewed_s, failures, error,
             daemons: {identity: {in_flight, waiting, age_s, fresh}}} | None, scaling} | None}],
     removed_pools: [{name, leaving: [the same]}],
     sequences: {capacity, opened, lost, evicted}, sessions: {capacity, evicted},
     cache: {size, entries, bytes, capacity, hits, misses, …,
             cdns: [{name, purges, failures, waiting, error}]} | None, rate_limits: {buckets, evicted},
     quotas: {capacity, evicted, file, save_errors, trouble, quotas: [{name, requests, per, resets_at, clients,
              exhausted, used}]},
     canaries: [{route, pool, baseline, phase: waiting | progressing | promoted | aborted, percent, step, steps, reason,
                since, waits_for, observed: {requests, errors, baseline_requests, baseline_errors, compared,
                different}}],
     tables: [{name, key, capacity, evicted, refused, store, shared}],
     peers: {server, connected, trouble, sent, received, ignored, dropped, failures, lag_s, exchanged_s} | None,
     comparisons: [{route, equal, different, skipped}],
     source_limits: {table_full},
     jobs: {state: starting | running | backoff, pid, restarts, error, jobs: [[route, state, number]], oldest_s,
            running, submissions, ended, attempts, webhooks: {what became of it: number},
            store_error: why the store cannot be reached or written | None} | None,
     alerts: {firing, waiting, deliveries: {what became of it: number}} | None,
     tls: {certificates: [{owner, file, subject, issuer, names, not_before, not_after, fingerprint, state,
           expires_in_s}], problems, reloads}}

`health` is up, down or unknown; unchecked: the endpoint takes requests, but nothing has found out whether it is up.
`errors` and `turns` say how its attempts went of late (lb.shared.recent_failures).
Times `…_at` are Unix seconds; durations end in `_s`.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lb
from lb.cache.store import ResultCache
from lb.config.checks.descriptors import room
from lb.config.plan.plan import CachePlan, EndpointPlan, Plan, PoolPlan
from lb.control.datagrams import receive_buffer
from lb.control.registry import ADMIN, HEALTH
from lb.control.sockets import Listening
from lb.health.check import Models
from lb.shared.affinity_table import AffinityTable
from lb.shared.buckets import Buckets
from lb.shared.costs import Costs
from lb.shared.segment import Segment
from lb.shared.words import ENDPOINT
from lb.telemetry.series import Series

if TYPE_CHECKING:
    from lb.control.master import Master

# Of a pool in which nobody is steered.
_NOTHING: dict[str, Any] = {"panic": False, "panics": 0, "failovers": 0, "levels": None, "endpoints": {}}


def document(master: Master, now: int) -> dict[str, Any]:
    """The state of a running master at `now` (monotonic ns)."""
    plan = master.plan
    leaving = master.publisher.leaving.rows()
    named = {pool.name for pool in plan.pools} if plan else set()
    return {
        "version": lb.__version__,
        "program": master.program(),
        "state": master.state,
        "zone": master.config.zone if plan else None,
        "started_at": master.started,
        "uptime_s": round(time.time() - master.started, 3),
        "generation": plan.generation if plan else 0,
        "reloads": dict(master.reloads),
        "last_reload": master.last_reload.to_dict() if master.last_reload else None,
        "config": str(master.config_path),
        "compiled": dict(compiled_modules()),
        "changes": master.changes() if plan else [],
        "workers": [member.describe(now) for member in master.fleet.members],
        "open_files": _open_files(master, plan) if plan else None,
        "listeners": _listeners(master, plan) if plan else [],
        "pools": _pools(master, plan, leaving, now) if plan else [],
        "removed_pools": [{"name": name, "leaving": rows} for name, rows in leaving.items() if name not in named],
        "cache": _cache(master, plan.cache) if plan and plan.cache else None,
        "rate_limits": _rate_limits(master),
        "quotas": master.quotas.status(),
        "comparisons": master.comparisons.status(),
        "canaries": master.canaries.status(),
        "tables": master.tables.status(),
        "peers": master.peers.status(),
        "source_limits": {"table_full": master.segment.source_table_full()},
        "sequences": _sequences(master),
        "sessions": _sessions(master),
        "jobs": master.jobs.status(),
        "alerts": master.watch.status(),
        "tls": master.certificates.status(),
    }


def _open_files(master: Master, plan: Plan) -> dict[str, Any]:
    """What the limit of open files leaves room for in each worker, and what is missing, if anything is."""
    found = room(plan)
    return {"limit": found.limit, "connections_per_worker": found.connections, "shortage": master.shortage()}


@cache
def compiled_modules() -> tuple[tuple[str, bool], ...]:
    """(module, whether what would be imported is the compiled one) for every module that is to be compiled."""
    root = Path(lb.__file__).parent
    sources = set(root.rglob("*.pyx")) | {p for p in root.rglob("*.pxd") if p.with_suffix(".py").exists()}
    found = []
    for source in sorted(sources):
        name = ".".join(source.relative_to(root.parent).with_suffix("").parts)
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec is not None else None
        found.append((name, origin is not None and origin.endswith(tuple(EXTENSION_SUFFIXES))))
    return tuple(found)


def _cache(master: Master, plan: CachePlan) -> dict[str, Any]:
    found = ResultCache(master.segment, plan.max_object).stats()
    return {"size": plan.size, **found, "tier": master.tier.status(), "cdns": master.cdns.status()}


def _rate_limits(master: Master) -> dict[str, int]:
    buckets = Buckets(master.segment)
    return {"buckets": buckets.capacity, "evicted": buckets.evicted}


def _sequences(master: Master) -> dict[str, int]:
    table = AffinityTable(master.segment)
    return {"capacity": table.capacity, "opened": table.opened, "lost": table.lost, "evicted": table.evicted}


def _sessions(master: Master) -> dict[str, int]:
    """Of the table of learned sessions."""
    table = AffinityTable(master.segment, True)
    return {"capacity": table.capacity, "evicted": table.evicted}


def _listeners(master: Master, plan: Plan) -> list[dict[str, Any]]:
    """Those that are open: none is from the beginning of a drain on."""
    rows = []
    for listener in plan.listeners:
        if listener.name not in master.sockets:
            continue
        listening = master.sockets[listener.name]
        places = listener.places()
        rows.append(
            {
                "name": listener.name,
                "bind": listener.bind,
                "address": listening.address,
                "addresses": [
                    {"bind": bind, "address": master.sockets[place].address} for place, bind in places.items()
                ],
                "sockets": master.sockets.shown(places),
                "protocol": listener.protocol,
                "inherited": listening.inherited,
                "receive_buffer": _receive_buffer(listening) if listening.datagram else None,
            }
        )
    return rows


def _receive_buffer(listening: Listening) -> dict[str, int]:
    """Bytes of each worker's socket: asked for (0 = the kernel's default), and given."""
    return {"asked": listening.receive_buffer, "given": receive_buffer(listening.sockets)}


def _pools(master: Master, plan: Plan, leaving: Mapping[str, list[dict[str, Any]]], now: int) -> list[dict[str, Any]]:
    checks, managed, discovery = master.monitor.status(), master.managed.status(), master.discovered.status(now)
    engines = master.engines.status(now)
    open_, learned = master.publisher.open_sequences(), AffinityTable(master.segment, True).open(now)
    models, agents = master.models.status(), master.agents.status()
    costs = Costs(master.segment).rows()
    rows = []
    for pool in plan.pools:
        steering = master.steering.status(pool.name) or _NOTHING
        rows.append(
            {
                "name": pool.name,
                "protocol": pool.protocol,
                "policy": pool.policy.type,
                "endpoints": _endpoints(
                    master,
                    pool.endpoints,
                    checks.get(pool.name, {}),
                    open_,
                    learned if pool.learn is not None else None,
                    steering["endpoints"],
                    models.get(pool.name, {}),
                    agents.get(pool.name, {}),
                    pool.cost is not None,
                    pool.learns_limits,
                    pool.name in managed,
                    now,
                ),
                "leaving": leaving.get(pool.name, []),
                "panic": steering["panic"],
                "panics": steering["panics"],
                "failovers": steering["failovers"],
                "levels": steering["levels"],
                "queue": _queue(master, pool),
                "cost": _cost(pool, costs),
                "managed": managed.get(pool.name),
                "discovery": discovery.get(pool.name),
                "engine": engines.get(pool.name),
            }
        )
    return rows


def _queue(master: Master, pool: PoolPlan) -> dict[str, int] | None:
    """Who waits for an endpoint; None where nobody does."""
    if pool.queue is None:
        return None
    return {"waiting": master.publisher.waiting(pool.name), "max": pool.queue.max}


def _cost(pool: PoolPlan, known: Mapping[str, tuple[float, int]]) -> dict[str, Any] | None:
    """What a unit of each model costs, relative to the pool's, and in seconds of an endpoint; None where requests are
    not weighed."""
    if pool.cost is None:
        return None
    whole, prefix = known.get(pool.name, (0.0, 0))[0], f"{pool.name}|"
    models = {
        name.removeprefix(prefix): {
            "relative": round(unit / whole, 4) if whole else 1.0,
            "unit_s": unit / 1e9,
            "samples": samples,
        }
        for name, (unit, samples) in sorted(known.items())
        if name.startswith(prefix)
    }
    return {"unit": pool.cost.unit, "models": models}


def _report(segment: Segment, slot: int, now: int) -> dict[str, float] | None:
    """What the endpoint last said of its load, and how many seconds ago; None where it never did, or nobody listens."""
    utilization, rate, errors, at = segment.load_report(slot)
    if at == 0:
        return None
    return {"utilization": utilization, "rps": rate, "eps": errors, "age_s": max(now - at, 0) / 1e9}


def _errors(master: Master, endpoint: EndpointPlan) -> dict[str, Any]:
    """How many answers the endpoint gave since it is known, and how many were its fault: HTTP 5xx, or a gRPC status
    that stands for one. `grpc` has those with a gRPC status other than OK, by its name."""
    series = Series(ENDPOINT, master.segment.series_total(endpoint.series))
    codes = {name: n for name, n in series.values("grpc").items() if n and name != "OK"}
    return {"answers": series["requests"], "faults": series["errors"], "grpc": codes}


def _local_transport(master: Master, endpoint: EndpointPlan) -> dict[str, int] | None:
    """Messages to and from the endpoint that went through shared memory, and those that found no room there; None of
    one that is not on a Unix socket. Explanations say why none did (lb.proxy.exchange.explain)."""
    if not endpoint.address.startswith("unix:"):
        return None
    series = Series(ENDPOINT, master.segment.series_total(endpoint.series))
    return {**series.values("local_messages"), "full": series["local_full"]}


def _agent(master: Master, slot: int, asked: dict[str, Any] | None) -> dict[str, Any] | None:
    """What an endpoint's agent said so far, and how asking it goes; None where nobody is asked."""
    return None if asked is None else {**master.publisher.health_states.agent_state(slot).describe(), **asked}


def health_of(known: str, check: Mapping[str, Any] | None, agent: Mapping[str, Any] | None, managed: bool) -> str:
    """The health to show of an endpoint that is `known` to be up or down: `unchecked` for one that only counts as up,
    as no check, agent or supervisor has looked."""
    looked = managed or (check or {}).get("checks", 0) > 0 or (agent or {}).get("health") is not None
    return known if known != "up" or looked else "unchecked"


def _endpoints(
    master: Master,
    endpoints: Sequence[EndpointPlan],
    checks: dict[str, dict[str, Any]],
    open_: dict[int, int],
    learned: dict[int, int] | None,
    steering: dict[str, dict[str, Any]],
    models: Mapping[str, Models],
    agents: dict[str, dict[str, Any]],
    weighed: bool,
    limits_are_learned: bool,
    managed: bool,
    now: int,
) -> list[dict[str, Any]]:
    segment = master.segment
    said = {e.address: _agent(master, e.slot, agents.get(e.address)) for e in endpoints}
    return [
        {
            "address": endpoint.address,
            "weight": segment.weight(endpoint.slot),
            "priority": endpoint.priority,
            "zone": endpoint.zone or None,
            "health": health_of(
                HEALTH.get(segment.health(endpoint.slot), "unknown"),
                checks.get(endpoint.address),
                said[endpoint.address],
                managed,
            ),
            "failing": round(segment.failing(endpoint.slot, now), 3),
            "turns": round(segment.turns(endpoint.slot, now), 3),
            "errors": _errors(master, endpoint),
            "local_transport": _local_transport(master, endpoint),
            "admin": ADMIN.get(segment.admin(endpoint.slot), "unknown"),
            "in_flight": segment.inflight(endpoint.slot),
            "outstanding_cost": segment.outstanding(endpoint.slot) if weighed else None,
            "sequences": open_.get(endpoint.slot, 0),
            "sessions": None if learned is None else learned.get(endpoint.slot, 0),  # None: its pool learns none
            "max_in_flight": endpoint.max_in_flight or None,
            "learned_limit": (segment.learned_limit(endpoint.slot) or None) if limits_are_learned else None,
            "report": _report(segment, endpoint.slot, now),
            "check": checks.get(endpoint.address),
            "steering": steering.get(endpoint.address),  # None: only health, weight and the operator decide
            "models": models.get(endpoint.address),
            "agent": said[endpoint.address],
        }
        for endpoint in endpoints
    ]
