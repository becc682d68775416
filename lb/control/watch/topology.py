"""Which way requests can take: listeners to routes to pools, from a plan."""

from __future__ import annotations

from typing import Any

from lb.config.plan.plan import ListenerPlan, Plan, RoutePlan

_MOST = 500  # routes that are listed


def topology(plan: Plan) -> dict[str, Any]:
    """{listeners: [{name, protocol, pools}], routes: [{name, listener, host, path, pools}], routes_left_out}."""
    routes = [(listener, route) for listener in plan.listeners for route in listener.routes[:_MOST]]
    listed = [_route(plan, listener, route) for listener, route in routes[:_MOST]]
    whole = sum(len(listener.routes) for listener in plan.listeners)
    return {
        "listeners": [
            {"name": listener.name, "protocol": listener.protocol, "pools": _pools_of(plan, listener)}
            for listener in plan.listeners
        ],
        "routes": listed,
        "routes_left_out": whole - len(listed),
    }


def _pools_of(plan: Plan, listener: ListenerPlan) -> list[str]:
    """Those that sessions go to without a route."""
    numbers = [listener.pool, *(rule.pool for rule in listener.sni_routes)]
    return _names(plan, numbers)


def _route(plan: Plan, listener: ListenerPlan, route: RoutePlan) -> dict[str, Any]:
    numbers = [route.pool] if route.split is None else [share.pool for share in route.split.shares]
    return {
        "name": route.name,
        "listener": listener.name,
        "host": route.host,
        "path": route.path,
        "pools": _names(plan, numbers),
    }


def _names(plan: Plan, numbers: list[int]) -> list[str]:
    return list(dict.fromkeys(plan.pools[number].name for number in numbers if number >= 0))
