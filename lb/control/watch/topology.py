"""Which way requests can take: listeners to routes to pools, from a plan."""

from __future__ import annotations

from typing import Any

from lb.config.plan.plan import ListenerPlan, Plan, RoutePlan, SniRoutePlan

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
    numbers = _numbers(listener)
    for rule in listener.sni_routes:
        numbers += _numbers(rule)
    return _names(plan, numbers)


def _numbers(place: ListenerPlan | SniRoutePlan | RoutePlan) -> list[int]:
    return [place.pool] if place.split is None else [share.pool for share in place.split.shares]


def _route(plan: Plan, listener: ListenerPlan, route: RoutePlan) -> dict[str, Any]:
    return {
        "name": route.name,
        "listener": listener.name,
        "host": route.host,
        "path": route.path,
        "pools": _names(plan, _numbers(route)),
    }


def _names(plan: Plan, numbers: list[int]) -> list[str]:
    return list(dict.fromkeys(plan.pools[number].name for number in numbers if number >= 0))
