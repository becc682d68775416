"""What the limit of open files (RLIMIT_NOFILE) leaves room for in one worker.

A client's connection may need a second descriptor, towards its endpoint. A worker that accepted as many as it has
descriptors could answer none of them, so it takes half of what is left when its own needs are met, and leaves the rest
in the queues of the sockets.
"""

from __future__ import annotations

import resource

from msgspec import Struct

from lb.config.plan.plan import Plan

_OWN = 48  # the loop, the log, the channel, modules that are loaded later, pipes of splice(2)


class Room(Struct, frozen=True):
    """Descriptors of one worker."""

    limit: int
    reserved: int  # for listeners, one connection to each endpoint, and the worker itself
    sessions: int  # of udp listeners
    connections: int  # of clients


def room(plan: Plan, limit: int | None = None) -> Room:
    """What `limit` (default: this process's soft limit) has room for under `plan`."""
    if limit is None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = 1 << 30 if soft == resource.RLIM_INFINITY else soft
    # However many endpoints there are: the most of a small limit is for clients.
    reserved = min(_OWN + len(plan.listeners) + _endpoints(plan), limit // 4)
    sessions = min(_sessions(plan), limit // 2)
    return Room(limit, reserved, sessions, max(1, (limit - reserved - sessions) // 2))


def shortage(plan: Plan, found: Room, workers: int) -> str | None:
    """What an operator is told when `workers` workers cannot hold the connections that the configuration allows."""
    wanted = sum(listener.max_connections for listener in plan.listeners if listener.udp is None)
    if wanted <= workers * found.connections:
        return None
    needed = limit_for(len(plan.listeners), _endpoints(plan), _sessions(plan), wanted, workers)
    return (
        f"listeners may have {wanted} connections, but {found.limit} open files a worker leave room for "
        f"{workers * found.connections}, and further ones wait: raise the limit to {needed} (LimitNOFILE, ulimit -Hn) "
        "or lower max_connections"
    )


def limit_for(listeners: int, endpoints: int, sessions: int, connections: int, workers: int) -> int:
    """The limit with which `workers` workers have room for that many connections of clients, beside all of the rest."""
    return _OWN + listeners + endpoints + sessions + 2 * -(-connections // workers)


def _endpoints(plan: Plan) -> int:
    return sum(len(pool.endpoints) for pool in plan.pools if pool.protocol not in ("tcp", "udp"))


def _sessions(plan: Plan) -> int:
    return sum(listener.udp.max_sessions for listener in plan.listeners if listener.udp is not None)
