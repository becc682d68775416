"""What is on by default goes off by name: the plan is then that of a pool and a route without any of it."""

from __future__ import annotations

from typing import Any

import pytest
from test_config_compile import Numbers

from lb.config.checks.file import check_config
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import Plan, PolicyPlan
from lb.config.schema.file import Config

PROTOCOLS = ("http", "http2", "grpc", "oip")


def plan_of(protocol: str, pool: dict[str, Any], route: dict[str, Any]) -> Plan:
    web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "models", **route}]}
    models = {"protocol": protocol, "endpoints": ["127.0.0.1:9"], **pool}
    config = Config.model_validate({"listeners": {"web": web}, "pools": {"models": models}})
    assert check_config(config) == []
    return compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_by_default(protocol: str) -> None:
    plan = plan_of(protocol, {}, {})
    (pool,), (route,) = plan.pools, plan.listeners[0].routes
    assert pool.policy.type == "auto"
    assert pool.learns_limits
    assert pool.queue is not None
    assert pool.outlier is not None
    assert (route.safe_retries, route.safe_hedges) == (True, True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_everything_off(protocol: str) -> None:
    plan = plan_of(protocol, {"policy": "least_request", "outlier": "off"}, {"retry": "off", "hedge": "off"})
    (pool,), (route,) = plan.pools, plan.listeners[0].routes
    assert pool.policy == PolicyPlan("least_request", "", "", None)
    assert (pool.learns_limits, pool.queue, pool.outlier, pool.shaped) == (False, None, None, False)
    assert (route.retry, route.hedge, route.safe_retries, route.safe_hedges) == (None, None, False, False)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_limits_alone_off(protocol: str) -> None:
    (pool,) = plan_of(protocol, {"policy": {"type": "auto", "limits": False}}, {}).pools
    assert (pool.learns_limits, pool.queue) == (False, None)
