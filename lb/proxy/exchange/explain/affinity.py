"""What the affinity of a pool says of a request that is only described: its part of `tidegate explain`.

A cookie of the pool's own or a session that it learned names an endpoint, which has the request before the policy is
asked. It only looks: a session is not in use because somebody asked where it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lb.config.plan.plan import PoolPlan


def sticky(plan: PoolPlan, pool: Any, value_of: Callable[[str, str], str | None], now: int) -> dict[str, Any] | None:
    """Where the request's client stays, as plain types: {by, address, taken, why}; None where the pool has no such
    affinity, or the request nothing of it. `value_of(kind, name)` is what the request has of a header or cookie."""
    if plan.cookie is not None:
        by, value = f"cookie {plan.cookie.name}", value_of("cookie", plan.cookie.name)
        if value is None:
            return None
        index = pool.cookie.look(value.encode(), int(time.time()))
        if index < 0:
            return _answer(by, None, False, "is not valid: by the policy")
    elif plan.learn is not None:
        by, value = f"session of {plan.learn.kind} {plan.learn.name}", value_of(plan.learn.kind, plan.learn.name)
        if not value:
            return None
        known, index = pool.sessions.look(value.encode(), now)
        if not known:
            return _answer(by, None, False, "is not known, no endpoint has set it: by the policy")
        if index < 0:
            return _answer(by, None, False, "is of an endpoint that has left: by the policy")
    else:
        return None
    return _answer(by, plan.endpoints[index].address, *_verdict(pool.endpoints, index))


def _verdict(endpoints: Any, index: int) -> tuple[bool, str]:
    """Whether the endpoint gets the request, and in words."""
    hindrance = endpoints.hindrance(index)
    if hindrance:
        return False, f"falls back to the policy, because it is {hindrance}"
    limit = endpoints.limit(index)
    if limit and endpoints.inflight(index) >= limit:
        return False, "lent to another endpoint or to the queue, because it is full; the client stays with it"
    if not endpoints.takes_requests(index):
        return True, "sticky, although it takes no new clients"
    return True, "sticky"


def _answer(by: str, address: str | None, taken: bool, why: str) -> dict[str, Any]:
    return {"by": by, "address": address, "taken": taken, "why": why}
