"""What is said of levels: in the log only when it changes, in status always."""

from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace

from lb.config.plan.plan import EndpointPlan, PolicyPlan, PoolPlan
from lb.control.endpoints.levels import PoolLevels
from lb.health.levels import Candidate, Rules


def plan(*groups: int) -> PoolPlan:
    endpoints = tuple(EndpointPlan(f"10.0.0.{i}:80", i, i, 1, priority=10 * (g // 2)) for i, g in enumerate(groups))
    return PoolPlan("app", "http", PolicyPlan("random"), endpoints, 1, 1, 1, 1, 1, groups=groups)


def update(levels: PoolLevels, groups: tuple[int, ...], healthy: str, spill: bool = True) -> None:
    candidates = [Candidate(g, 1, True, sign == "+") for g, sign in zip(groups, healthy, strict=True)]
    levels.update(candidates, Rules(spill))


def test_a_failover_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate.health")
    groups = (0, 0, 2, 2)
    levels = PoolLevels(plan(*groups))
    for healthy in ("----", "++++", "++--", "+-++", "+-++", "--++", "-+++", "++++", "----", "++++"):
        update(levels, groups, healthy)
    assert [record.message for record in caplog.records] == [
        "pool app fails over: priority 0 has 70 % and priority 10 has 30 % of the requests "
        "(priority 0: 1 of 2 healthy, priority 10: 2 of 2 healthy)",
        "pool app fails over: priority 10 has 100 % of the requests "
        "(priority 0: 0 of 2 healthy, priority 10: 2 of 2 healthy)",
        "pool app fails over: priority 0 has 70 % and priority 10 has 30 % of the requests "
        "(priority 0: 1 of 2 healthy, priority 10: 2 of 2 healthy)",
        "pool app: priority 0 has all requests again (priority 0: 2 of 2 healthy, priority 10: 2 of 2 healthy)",
        "pool app: no endpoint of any priority is healthy",
        "pool app: priority 0 has all requests again (priority 0: 2 of 2 healthy, priority 10: 2 of 2 healthy)",
    ]
    assert levels.failovers == 1


def test_a_zone_that_does_not_carry_its_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate.health")
    groups = (0, 0, 1, 2)
    levels = PoolLevels(plan(*groups))
    for healthy in ("++++", "+-++", "+-++", "--++", "++++"):
        update(levels, groups, healthy, spill=False)
    assert [record.message for record in caplog.records] == [
        "pool app: the own zone has 70 % of the requests of priority 0, other zones the rest",
        "pool app: the own zone has all requests of priority 0 again",
    ]


def test_why_an_endpoint_gets_nothing() -> None:
    groups = (0, 1, 2, 4)
    levels = PoolLevels(plan(*groups))
    update(levels, groups, "++++")
    assert [levels.why_not(i) for i in range(4)] == [
        "",
        "another zone: the own one has all requests",
        "priority 10: priority 0 has all requests",
        "priority 20: priority 0 has all requests",
    ]
    assert [levels.share_of(i) for i in range(4)] == [1000, 0, 0, 0]
    update(levels, groups, "-+++")
    assert [levels.why_not(i) for i in range(2)] == ["", ""], "it is down: its place is not the reason"
    update(levels, groups, "+-++")
    assert levels.why_not(3) == "priority 20: priority 0 and priority 10 have all requests"
    update(levels, groups, "----")
    assert [levels.why_not(i) for i in range(4)] == [""] * 4
    assert levels.status()[0] == {
        "priority": 0, "endpoints": 2, "healthy": 0, "carries": 0, "share": 0, "panic": False, "own_zone": 0,
        "other_zones": 0,
    }  # fmt: skip


def test_a_plan_with_other_levels() -> None:
    levels = PoolLevels(plan(0, 2))
    update(levels, (0, 2), "-+")
    assert levels.failovers == 1
    other = plan(0, 0, 2, 4)
    levels.follow(replace(other, name="app"))
    update(levels, other.groups, "+-++")
    assert [row["priority"] for row in levels.status()] == [0, 10, 20]
    assert levels.share_of(2) == 300
