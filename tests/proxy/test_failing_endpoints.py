"""Endpoints that fail at once must not attract requests, whatever the policy, and get them again when they are well."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import grpc
import pytest
from compiled.endpoint_set import note_attempt_at
from datapath import Gate, Site, settle
from hedge_site import Multiplexed, Plain, call, get, idle, series
from oip_site import ModelServer, ask, echo, failing, plain
from ports import free_port
from routing_site import routing_gate

from lb.endpoints.set import EndpointSet
from lb.shared.segment import Segment

POLICIES: dict[str, dict[str, Any]] = {
    "round_robin": {}, "least_request": {}, "power_of_two": {}, "peak_ewma": {}, "least_time": {},
    "shortest_expected_delay": {}, "prequal": {}, "random": {}, "first": {"fill": 1000},
    "client_side_weighted_round_robin": {},
}  # fmt: skip
REQUESTS = 100
MOST = 15  # first attempts of them at the bad one of two; a fair share would be 50, its speed would bring it up to 99
RETRY = {"on": ["connect", "reset", "5xx"], "attempts": 1, "budget": 100}


async def two(site: Site, protocol: str, addresses: list[str], policy: str, **route: Any) -> Gate:
    chosen = {"type": policy, **POLICIES[policy]}
    pool = {"protocol": protocol, "endpoints": addresses, "policy": chosen, "retries": 1, "avoid_failing": True}
    return await routing_gate(site, [{"pool": "both", **route}], {"both": pool})


def first_attempts(gate: Gate) -> list[int]:
    found = [series(gate, endpoint.series) for endpoint in gate.plan.pools[0].endpoints]
    return [one["started"] - one["retries"] for one in found]


def turns(gate: Gate, i: int = 0) -> float:
    return gate.segment.turns(gate.plan.pools[0].endpoints[i].slot, time.monotonic_ns())


async def until_well(gate: Gate, request: Any) -> None:
    """Requests until the first endpoint has most of its turns again: by its answers, or by time where the policy
    prefers the other one."""
    deadline = asyncio.get_running_loop().time() + 60
    while turns(gate) < 0.5:
        assert asyncio.get_running_loop().time() < deadline, "it was not found out that it is well again"
        await request()
        await asyncio.sleep(0.02)  # by time: others have the processor meanwhile


@pytest.mark.parametrize("policy", POLICIES)
async def test_http(site: Site, policy: str) -> None:
    await asyncio.gather(*[fails_with_http(site, policy, kind) for kind in ("503", "500", "break")])


async def fails_with_http(site: Site, policy: str, kind: str) -> None:
    bad, good = Plain("bad", [kind]), Plain("good", ["answer"])
    gate = await two(site, "http", [await site.endpoint(bad), await site.endpoint(good)], policy, retry=RETRY)
    answers = [await get(gate) for _ in range(REQUESTS)]
    assert first_attempts(gate)[0] <= MOST
    assert sum(status == 200 for status, _ in answers) >= REQUESTS - (MOST if kind == "500" else 0)
    bad.turns[:] = ["answer"]
    await until_well(gate, lambda: get(gate))
    await idle(gate)


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_endpoint_that_refuses_each_with_429_is_left_alone(site: Site, policy: str) -> None:
    bad, good = Plain("bad", ["429"]), Plain("good", ["answer"])
    gate = await two(site, "http", [await site.endpoint(bad), await site.endpoint(good)], policy)
    answers = [await get(gate) for _ in range(REQUESTS)]
    assert sum(status == 429 for status, _ in answers) <= MOST
    bad.turns[:] = ["answer"]
    await until_well(gate, lambda: get(gate))


@pytest.mark.parametrize("policy", ["least_request", "least_time", "shortest_expected_delay", "prequal"])
async def test_refused_connections(site: Site, policy: str) -> None:
    good = Plain("good", ["answer"])
    gate = await two(site, "http", [f"127.0.0.1:{free_port()}", await site.endpoint(good)], policy)
    answers = [await get(gate) for _ in range(REQUESTS)]
    assert first_attempts(gate)[0] <= MOST
    assert {body for _, body in answers} == {b"good"}


@pytest.mark.parametrize("policy", ["least_request", "shortest_expected_delay"])
async def test_grpc(site: Site, policy: str) -> None:
    await asyncio.gather(*[fails_with_grpc(site, policy, code) for code in (2, 4, 8, 12, 13, 14, 15)])


async def fails_with_grpc(site: Site, policy: str, code: int) -> None:
    bad, good = Multiplexed("bad", [str(code)]), Multiplexed("good", ["answer"])
    gate = await two(site, "grpc", [await site.endpoint(bad), await site.endpoint(good)], policy)

    async def ask_once() -> bool:
        try:
            return bool(await call(gate))
        except grpc.aio.AioRpcError:
            return False

    answers = [await ask_once() for _ in range(REQUESTS)]
    assert answers.count(False) <= MOST
    bad.turns[:] = ["answer"]
    await until_well(gate, ask_once)


@pytest.mark.parametrize("code", [3, 5, 6, 7, 9, 10, 11, 16])
async def test_what_is_the_client_s_fault_is_not_held_against_a_grpc_endpoint(site: Site, code: int) -> None:
    endpoint = Multiplexed("a", [str(code)])
    gate = await two(site, "grpc", [await site.endpoint(endpoint)], "least_request")
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(gate)
    assert turns(gate) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
async def test_model_servers(site: Site, code: grpc.StatusCode) -> None:
    bad, good = ModelServer(failing(code, "no")), ModelServer()
    gate = await two(site, "oip", [await site.model(bad), await site.model(good)], "least_request")
    for _ in range(REQUESTS):
        await ask(gate, plain())
    assert first_attempts(gate)[0] <= MOST
    bad.behave = echo
    await until_well(gate, lambda: ask(gate, plain()))


async def test_every_tenth_failure_keeps_most_turns(site: Site) -> None:
    endpoint = Plain("a", ["answer"])
    gate = await two(site, "http", [await site.endpoint(endpoint)], "round_robin")
    for i in range(50):
        endpoint.turns[:] = ["500" if i % 10 == 0 else "answer"]
        await get(gate)
    assert turns(gate) > 0.9


async def test_it_can_be_switched_off(site: Site) -> None:
    bad, good = Plain("bad", ["500"]), Plain("good", ["answer"])
    addresses = [await site.endpoint(bad), await site.endpoint(good)]
    gate = await routing_gate(
        site,
        [{"pool": "both"}],
        {"both": {"endpoints": addresses, "policy": "round_robin", "avoid_failing": False, "outlier": "off"}},
    )
    answers = [await get(gate) for _ in range(20)]
    assert sum(status == 500 for status, _ in answers) == 10
    assert turns(gate) == 1


async def test_a_request_waits_for_a_good_endpoint_rather_than_go_to_one_that_fails(site: Site) -> None:
    bad, good = Plain("bad", ["500"]), Plain("good", ["hang"])
    addresses = [await site.endpoint(bad), await site.endpoint(good)]
    pool = {"endpoints": addresses, "policy": "least_request", "retries": 0, "max_in_flight": 1, "avoid_failing": True}
    gate = await routing_gate(site, [{"pool": "both"}], {"both": pool})
    plan = gate.plan.pools[0]
    worker = Segment.attach(os.dup(gate.segment.fd), 0)
    known = EndpointSet(worker, [e.address for e in plan.endpoints], [e.slot for e in plan.endpoints])
    for _ in range(20):
        note_attempt_at(known, 0, True, time.monotonic_ns())
    assert plan.queue is not None
    asked = [asyncio.create_task(get(gate)) for _ in range(30)]
    await settle(lambda: len(bad.seen) + series(gate, plan.queue.series)["started"] >= 29, "all but one wait")
    assert len(bad.seen) <= 3
    good.turns[:] = ["answer"]
    good.go.set()
    answers = await asyncio.gather(*asked)
    assert len(bad.seen) <= 6
    assert sum(body == b"good" for _, body in answers) >= 24
