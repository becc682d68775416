"""Retries and hedges of routes that say nothing of them: what does no harm, within budgets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from compiled.exchange import hedge_ended, hedge_pays
from datapath import Gate, Site, settle
from hedge_site import BOTH, Multiplexed, Plain, get, idle, results, series
from oip_site import OIP, ModelServer, ask, echo, plain
from ports import free_port
from routing_site import routing_gate

RETRY = {"attempts": 1, "on": ["connect", "reset"], "budget": 100, "backoff": {"base": "0s"}}


async def pool_of(
    site: Site, turns: list[list[str]], protocol: str = "http", route: dict[str, Any] | None = None, **pool: Any
) -> tuple[Gate, list[Any]]:
    """A route that says nothing (but for `route`) to a pool of endpoints of these turns."""
    kind = Plain if protocol == "http" else Multiplexed
    made = [kind(str(number), its) for number, its in enumerate(turns)]
    addresses = [await site.endpoint(each) for each in made]
    pool = {"protocol": protocol, "endpoints": addresses, "policy": "round_robin", **pool}
    return await routing_gate(site, [{"pool": "some", **(route or {})}], {"some": pool}), made


def seen(endpoints: list[Any]) -> list[int]:
    return [len(each.seen) for each in endpoints]


@BOTH
@pytest.mark.parametrize("turn", ["502", "503", "504", "break"])
async def test_another_endpoint_is_asked_after_a_failure(site: Site, protocol: str, turn: str) -> None:
    gate, endpoints = await pool_of(site, [[turn, "answer"], ["answer"]], protocol)
    assert await get(gate) == (200, b"1")
    assert series(gate)["retries"] == 1
    assert seen(endpoints) == [1, 1]
    await idle(gate)


@BOTH
@pytest.mark.parametrize("turn", ["503", "break"])
async def test_a_post_is_not_repeated(site: Site, protocol: str, turn: str) -> None:
    gate, endpoints = await pool_of(site, [[turn, "answer"], ["answer"]], protocol)
    assert (await get(gate, "POST", b"order"))[0] == (502 if turn == "break" else 503)
    assert seen(endpoints) == [1, 0]


@BOTH
@pytest.mark.parametrize("turn", ["500", "429"])
async def test_other_answers_are_passed_on(site: Site, protocol: str, turn: str) -> None:
    gate, endpoints = await pool_of(site, [[turn, "answer"], ["answer"]], protocol)
    assert (await get(gate))[0] == int(turn)
    assert seen(endpoints) == [1, 0]


@pytest.mark.parametrize(
    "pool", [{"affinity": {"cookie": {"name": "stay"}}}, {"policy": {"type": "maglev", "key": {"header": "x-key"}}}]
)
async def test_an_answer_of_the_one_that_it_is_bound_to_is_passed_on(site: Site, pool: dict[str, Any]) -> None:
    gate, _ = await pool_of(site, [["503"], ["503"]], **pool)
    assert (await get(gate))[0] == 503
    assert series(gate)["retries"] == 0
    # A broken connection is no answer.
    gate, endpoints = await pool_of(site, [["break"], ["break"]], **pool)
    assert (await get(gate))[0] == 502
    assert sum(seen(endpoints)) == 2


async def test_the_only_endpoint_is_not_asked_twice_for_its_answer(site: Site) -> None:
    gate, endpoints = await pool_of(site, [["503"]])
    assert (await get(gate))[0] == 503
    assert seen(endpoints) == [1]


@BOTH
async def test_off_is_the_pools_retries_without_a_budget(site: Site, protocol: str) -> None:
    gate, endpoints = await pool_of(site, [["503", "break"], ["answer"]], protocol, {"retry": "off"})
    assert (await get(gate))[0] == 503
    await get(gate)
    for _ in range(40):
        assert (await get(gate))[0] == 200
    assert series(gate)["retries"] == seen(endpoints)[0] - 1
    assert series(gate)["retries_refused"] == 0


async def test_a_pool_without_retries_has_none(site: Site) -> None:
    gate, _ = await pool_of(site, [["503"], ["503"]], retries=0)
    assert (await get(gate))[0] == 503
    assert series(gate)["retries"] == 0


@BOTH
@pytest.mark.parametrize("turn", ["503", "break"])
async def test_no_storm_of_retries_when_all_endpoints_fail(site: Site, protocol: str, turn: str) -> None:
    gate, endpoints = await pool_of(site, [[turn]] * 4, protocol, avoid_failing=False)
    begun = time.monotonic()
    for _ in range(20):
        await asyncio.gather(*(get(gate) for _ in range(15)))
    always = 10 * (time.monotonic() - begun + 1)
    attempts = sum(seen(endpoints))
    assert attempts - results(gate)[0] <= 300 * 1.2 + always
    assert series(gate)["retries_refused"] > 100
    assert results(gate)[0] <= 300 * 0.05 + always / 10
    await idle(gate)


async def test_with_a_budget_of_its_own_a_route_has_what_it_says(site: Site) -> None:
    gate, endpoints = await pool_of(site, [["break"]] * 2, "http", {"retry": RETRY})
    for _ in range(30):
        await get(gate)
    assert sum(seen(endpoints)) == 60


async def test_what_was_not_sent_needs_no_budget(site: Site) -> None:
    dead = f"127.0.0.1:{free_port()}"
    gate, _endpoints = await pool_of(site, [["answer"]], avoid_failing=False)
    pool = {"protocol": "http", "endpoints": [dead, *[e.address for e in gate.plan.pools[0].endpoints]]}
    gate = await routing_gate(
        site, [{"pool": "some"}], {"some": {**pool, "policy": "round_robin", "avoid_failing": False, "outlier": "off"}}
    )
    for _ in range(10):
        assert await asyncio.gather(*(get(gate, "POST", b"1") for _ in range(20))) == [(200, b"0")] * 20
    assert series(gate)["retries"] == 100
    assert series(gate)["retries_refused"] == 0


async def test_inferences_within_the_budget(site: Site) -> None:
    async def leave(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "it leaves")

    servers = [ModelServer(leave), ModelServer(leave)]
    pool = {**OIP, "endpoints": [await site.model(each) for each in servers], "avoid_failing": False}
    gate = await routing_gate(site, [{"pool": "models"}], {"models": pool})
    begun = time.monotonic()
    for _ in range(200):
        assert (await ask(gate, plain())).status == 503
    always = 10 * (time.monotonic() - begun + 1)
    retries = series(gate)["retries"]
    assert 30 <= retries <= 0.2 * 200 + always
    assert series(gate)["retries_refused"] == 200 - retries


# Hedges.


async def learned(gate: Gate) -> None:
    """Enough answers for a quantile of their latencies."""
    for _ in range(8):
        assert {status for status, _ in await asyncio.gather(*(get(gate) for _ in range(25)))} == {200}
    await asyncio.sleep(0.06)
    await get(gate)
    await get(gate)


async def one_hangs(site: Site, protocol: str = "http", others: int = 1, **more: Any) -> tuple[Gate, list[Any]]:
    """What is usual is known, and the first endpoint hangs from now on; it gets the next request."""
    gate, endpoints = await pool_of(site, [["answer"] for _ in range(1 + others)], protocol, **more)
    await learned(gate)
    endpoints[0].turns[:] = ["hang"]
    return gate, endpoints


@BOTH
async def test_a_request_far_beyond_the_usual_is_asked_of_another_endpoint(site: Site, protocol: str) -> None:
    gate, _endpoints = await one_hangs(site, protocol)
    begun, won, *_ = results(gate)
    assert await get(gate) == (200, b"1")
    assert results(gate)[:2] == (begun + 1, won + 1)
    await settle(lambda: gate.in_flight() == 0, "an attempt is left")
    await idle(gate)


async def test_inferences_are_hedged(site: Site) -> None:
    go = asyncio.Event()
    go.set()

    async def wait(request: Any, context: Any) -> Any:
        await go.wait()
        return await echo(request, context)

    servers = [ModelServer(wait), ModelServer()]
    pool = {**OIP, "endpoints": [await site.model(each) for each in servers], "policy": "round_robin"}
    gate = await routing_gate(site, [{"pool": "models"}], {"models": pool})
    for _ in range(120):
        assert (await ask(gate, plain())).status == 200
    await asyncio.sleep(0.06)
    go.clear()
    begun, won, *_ = results(gate)
    for _ in range(2):
        assert (await ask(gate, plain())).status == 200
    assert results(gate)[:2] == (begun + 1, won + 1)
    go.set()


@BOTH
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("GET", {"route": {"hedge": "off"}}),
        ("POST", {}),
        ("GET", {"affinity": {"cookie": {"name": "stay"}}}),
        ("GET", {"policy": {"type": "maglev", "key": {"header": "x-key"}}}),
    ],
)
async def test_there_are_none(site: Site, protocol: str, method: str, more: dict[str, Any]) -> None:
    gate, endpoints = await one_hangs(site, protocol, **more)
    before = results(gate)
    for each in endpoints:
        each.turns[:] = ["hang"]
    task = asyncio.create_task(get(gate, method))
    await settle(lambda: gate.in_flight() == 1, "it was not sent")
    await asyncio.sleep(0.2)
    assert gate.in_flight() == 1
    assert results(gate) == before
    for each in endpoints:
        each.go.set()
    assert (await task)[0] == 200
    await idle(gate)


async def test_nor_before_it_is_known_what_is_usual(site: Site) -> None:
    gate, endpoints = await pool_of(site, [["hang"], ["answer"]])
    task = asyncio.create_task(get(gate))
    await asyncio.sleep(0.2)
    assert results(gate)[0] == 0
    endpoints[0].go.set()
    assert await task == (200, b"0")


async def test_a_request_that_waits_for_long_still_has_its_time(site: Site) -> None:
    """A look for a hedge puts off no deadline, and ends none early."""
    for more in ({}, {"route": {"timeout": "250ms"}}):
        gate, endpoints = await one_hangs(site, response_timeout="300ms", **more)
        endpoints[1].turns[:] = ["hang"]
        assert (await get(gate))[0] == 504
        await idle(gate)


async def test_no_more_than_the_budget_when_everything_hangs(site: Site) -> None:
    gate, endpoints = await one_hangs(site, others=3)
    before, known = series(gate)["requests.2xx"], results(gate)
    for each in endpoints:
        each.turns[:] = ["hang"]
    tasks = [asyncio.create_task(get(gate)) for _ in range(200)]
    await settle(lambda: sum(results(gate)[0::3]) >= 200 + sum(known[0::3]), "requests are not late")
    assert results(gate)[0] <= 0.05 * (before + 200) + 3
    for each in endpoints:
        each.go.set()
    assert {status for status, _ in await asyncio.gather(*tasks)} == {200}
    await idle(gate)


async def test_hedges_that_lose_become_rare(site: Site) -> None:
    gate, _ = await pool_of(site, [["answer"], ["answer"]])
    hedges = gate.proxy.tools.of_pool(gate.proxy.pools[0], gate.proxy.segment)[1]
    assert all(hedge_pays(hedges) for _ in range(10))
    for _ in range(40):
        hedge_ended(hedges, False)
    assert sum(hedge_pays(hedges) for _ in range(80)) == 10
    for _ in range(4):
        hedge_ended(hedges, True)
    assert all(hedge_pays(hedges) for _ in range(10))
