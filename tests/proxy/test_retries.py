"""Retries, beside what test_routing_actions.py and test_infer_attempts.py have."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from hedge_site import BOTH, Multiplexed, Plain, call, get, idle, series, two
from msgspec.structs import replace
from oip_site import INFER, OIP, ModelServer, plain, read_answer, request
from oip_site import ask as ask_model
from ports import free_port
from routing_site import routing_gate
from scripted_peer import Peer

from lb.config.plan.plan import PolicyPlan
from lb.control.registry import DRAIN, ENABLED
from lb.upstream.pool import Pool
from lb.wire import grpc_service_pb2 as wire

REFUSED_STREAM = 7


async def retried(
    site: Site, protocol: str, first: list[str], second: list[str], **retry: Any
) -> tuple[Gate, Any, Any]:
    retry = {"budget": 100, **retry}
    return await two(site, protocol, first, second, hedge={"after": "30s"}, route={"retry": retry})


@pytest.mark.parametrize("policy", [PolicyPlan("first", options={"fill": 9}), PolicyPlan("maglev", "header", "x-key")])
async def test_a_request_comes_to_the_only_endpoint_that_is_there(site: Site, policy: PolicyPlan) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    dead = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    gate = await site.gate([*dead, await site.endpoint(answer)], pool={"policy": policy, "retries": 3})
    for key in range(10):  # by which the order is another one
        request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Key: %d\r\nConnection: close\r\n\r\n" % key
        assert (await gate.exchange(request)).startswith(b"HTTP/1.1 200 ")
    await idle(gate)


CODES = {"unavailable": "14", "resource-exhausted": "8", "cancelled": "1", "internal": "13", "deadline-exceeded": "4"}


@pytest.mark.parametrize("name", CODES)
async def test_grpc_codes_by_envoys_names(site: Site, name: str) -> None:
    code = CODES[name]
    gate, a, b = await retried(site, "grpc", [code], ["answer"], on=[name])
    assert await call(gate) == b"b"
    assert a.seen == b.seen
    assert series(gate)["retries"] == 1
    await idle(gate)
    gate, a, b = await retried(site, "grpc", [code], ["answer"], on=["reset"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(gate)
    assert caught.value.code().value[0] == int(code)
    assert len(b.seen) == 0
    await idle(gate)


@pytest.mark.parametrize(
    ("route", "hidden"),
    [
        ({"retry": {"on": ["5xx"]}, "idempotent": True}, True),
        ({"retry": {"on": ["5xx"]}}, False),
        ({"retry": {"on": ["unavailable"]}}, True),
        ({"retry": {"on": ["reset"]}, "idempotent": True}, False),
    ],
)
async def test_a_proxy_before_a_grpc_server_says_so_by_http(site: Site, route: dict[str, Any], hidden: bool) -> None:
    """gRPC's clients take 502, 503 and 504 for UNAVAILABLE."""
    gate, a, b = await two(site, "grpc", ["502"], ["answer"], hedge={"after": "30s"}, route=route)
    if hidden:
        assert await call(gate) == b"b"
        assert a.seen == b.seen
    else:
        with pytest.raises(grpc.aio.AioRpcError):
            await call(gate)
        assert not b.seen
    await idle(gate)


async def test_so_it_does_before_a_model_server(site: Site) -> None:
    gate, _a, b = await two(site, "oip", ["502"], ["answer"], hedge={"after": "30s"})
    assert await call(gate, "/inference.GRPCInferenceService/ModelInfer", b"") == b"b"
    assert len(b.seen) == 1
    await idle(gate)


async def test_a_hedge_goes_on_when_a_proxy_says_so(site: Site) -> None:
    gate, a, b = await two(site, "oip", ["hang"], ["hang"], route={"retry": {"on": ["5xx"], "budget": 100}})
    a.later_turn = "502"
    calling = asyncio.create_task(call(gate, "/inference.GRPCInferenceService/ModelInfer", b""))
    await settle(lambda: len(b.seen) == 1, "no hedge")
    a.go.set()
    await settle(lambda: gate.in_flight() == 1, "the first attempt still counts")
    b.go.set()
    assert await calling == b"b"
    assert series(gate)["retries"] == 0
    await idle(gate)


@pytest.mark.parametrize(("pushback", "attempts"), [("-1", 1), ("50", 2), ("x", 1)])
async def test_pushback_of_a_grpc_server(site: Site, pushback: str, attempts: int) -> None:
    gate, a, b = await retried(site, "grpc", ["14"], ["answer"], on=["unavailable"], backoff={"base": 0})
    a.pushback = pushback
    if attempts == 1:
        with pytest.raises(grpc.aio.AioRpcError):
            await call(gate)
    else:
        assert await call(gate) == b"b"
    assert len(a.seen) + len(b.seen) == attempts
    await idle(gate)


async def test_http2_pools_have_5xx_and_timeouts_too(site: Site) -> None:
    gate, a, b = await retried(site, "http2", ["503"], ["answer"], on=["5xx"])
    assert await get(gate) == (200, b"b")
    b.turns = ["503"]
    assert (await get(gate, "POST", b"x"))[0] == 503
    assert len(a.seen) + len(b.seen) == 3  # not repeated
    await idle(gate)
    retry = {"on": ["timeout"], "per_attempt_timeout": 600_000_000}
    gate, a, b = await retried(site, "http2", ["hang"], ["answer"], **retry)
    assert await get(gate) == (200, b"b")
    assert a.resets == [8]
    await idle(gate)


SLOW = {"base": 400_000_000, "max": 400_000_000}


@BOTH
async def test_the_pause_before_a_retry_holds_nothing_and_ends_with_the_client(site: Site, protocol: str) -> None:
    gate, a, b = await retried(site, protocol, ["503"], ["503"], on=["5xx"], attempts=10, backoff=SLOW)
    paused = 0
    _, writer = await gate.connect()
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    for _ in range(200):
        await asyncio.sleep(0.005)
        paused += gate.in_flight() == 0 and gate.proxy.busy() == 1
        if paused > 5:
            break
    assert paused > 5
    writer.transport.abort()
    await idle(gate)
    seen = len(a.seen) + len(b.seen)
    await asyncio.sleep(0.5)
    assert len(a.seen) + len(b.seen) == seen


@BOTH
async def test_a_deadline_that_would_pass_in_the_pause(site: Site, protocol: str) -> None:
    """The answer that there is goes to the client, rather than a 504 later."""
    answers = []
    while 503 not in answers and len(answers) < 3:  # one pause in 300 is short enough to pass in time
        retry = {"on": ["5xx"], "backoff": {"base": 60_000_000_000}, "budget": 100}
        gate, _a, _b = await two(
            site, protocol, ["503"], ["answer"], hedge={"after": "30s"}, route={"retry": retry, "timeout": 200_000_000}
        )
        answers.append((await get(gate))[0])
        await idle(gate)
    assert answers[-1] == 503
    assert 504 not in answers


@BOTH
async def test_a_body_that_comes_in_the_pause_is_kept(site: Site, protocol: str) -> None:
    gate, _a, _b = await two(
        site, protocol, ["answer"], ["answer"], hedge={"after": "30s"},
        pool={"endpoints": ["127.0.0.1:1", await site.endpoint(Plain("c", ["answer"]) if protocol == "http"
                                                              else (c := Multiplexed("c", ["answer"])))]},
        route={"retry": {"on": ["connect"], "attempts": 5, "backoff": SLOW, "budget": 100}},
    )  # fmt: skip
    for _ in range(2):
        reader, writer = await gate.connect()
        writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbo")
        await asyncio.sleep(0.02)
        writer.write(b"dy")
        answer = await asyncio.wait_for(reader.read(-1), 10)
        assert answer.startswith(b"HTTP/1.1 200 ")
    if protocol == "http2":
        assert set(c.seen) == {b"body"}
    await idle(gate)


def reduce_to(gate: Gate, index: int) -> None:
    """A reload after which the only pool has this one of its endpoints."""
    (pool,) = gate.plan.pools
    for number, endpoint in enumerate(pool.endpoints):
        gate.segment.set_admin(endpoint.slot, ENABLED if number == index else DRAIN)
    plan = replace(
        gate.plan, generation=gate.plan.generation + 1, pools=(replace(pool, endpoints=(pool.endpoints[index],)),)
    )
    gate.proxy.apply(plan, dict(gate.proxy.descriptors))


@BOTH
async def test_a_retry_after_a_reload_goes_to_what_the_pool_has_now(site: Site, protocol: str) -> None:
    gate, a, _b = await retried(site, protocol, ["snap"], ["answer"], on=["reset"], backoff={"base": 0})
    reduce_to(gate, 0)
    asking = asyncio.create_task(get(gate))
    await settle(lambda: bool(a.seen), "the first attempt has not begun")
    reduce_to(gate, 1)
    a.go.set()
    assert await asking == (200, b"b")
    await idle(gate)


async def test_a_request_that_lasts_keeps_no_forms_of_its_pool_between_its_own_and_the_last(site: Site) -> None:
    gate, a, _b = await retried(site, "http", ["snap"], ["answer"], on=["reset"], backoff={"base": 0})
    asking = asyncio.create_task(get(gate))
    await settle(lambda: bool(a.seen), "the first attempt has not begun")

    def forms() -> int:
        gc.collect()
        return sum(type(each) is Pool for each in gc.get_objects())

    reduce_to(gate, 1)
    (pool,) = gate.plan.pools
    counts = []
    for pause in range(1, 9):
        again = replace(pool, endpoints=pool.endpoints[1:], connect_timeout_ns=pool.connect_timeout_ns + pause)
        gate.proxy.apply(replace(gate.plan, generation=10 + pause, pools=(again,)), dict(gate.proxy.descriptors))
        await asyncio.sleep(0)  # routes that are gone are freed in the next turn
        counts.append(forms())
    assert counts[0] == counts[-1]
    a.go.set()
    assert await asking == (200, b"b")
    await idle(gate)


async def test_so_does_an_inference_that_was_still_coming(site: Site) -> None:
    servers = ModelServer(), ModelServer()
    pool = {**OIP, "endpoints": [await site.model(one) for one in servers]}
    gate = await routing_gate(site, [{"pool": "models"}], {"models": pool})
    reduce_to(gate, 0)
    reader, writer = await gate.connect()
    body = json.dumps(plain()).encode()
    whole = request("POST", INFER, body)
    writer.write(whole[: -len(body) // 2])
    await settle(lambda: gate.proxy.busy() == 1, "the request has not begun")
    reduce_to(gate, 1)
    writer.write(whole[-len(body) // 2 :])
    assert (await read_answer(reader)).status == 200
    assert [len(one.requests) for one in servers] == [0, 1]
    writer.close()
    await idle(gate)


@BOTH
async def test_retries_count_where_they_go(site: Site, protocol: str) -> None:
    gate, _a, _b = await retried(site, protocol, ["503"], ["answer"], on=["5xx"])
    assert await get(gate) == (200, b"b")
    assert [series(gate, endpoint.series)["retries"] for endpoint in gate.plan.pools[0].endpoints] == [0, 1]
    assert series(gate)["retries"] == 1


@pytest.mark.parametrize("protocol", ["grpc", "oip"])
@pytest.mark.parametrize("by", ["RST_STREAM", "GOAWAY"])
async def test_streams_that_are_refused_count_where_they_go_again(site: Site, protocol: str, by: str) -> None:
    """But not as tries: the endpoint has not seen the request yet."""
    refused: list[int] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        await peer.settle()
        while True:
            stream, _, _ = await peer.request()
            if refused:
                peer.answer(stream, wire.ModelInferResponse(model_name="m").SerializeToString())
            elif by == "GOAWAY":
                peer.goaway(0)
            else:
                peer.reset(stream, REFUSED_STREAM)
            refused.append(stream)

    pool = {"protocol": protocol, "endpoints": [await site.endpoint(once)], "retries": 0}
    gate = await routing_gate(site, [{"pool": "one"}], {"one": pool})
    if protocol == "oip":
        assert (await ask_model(gate, plain())).status == 200
    else:
        assert await call(gate)
    assert series(gate, gate.plan.pools[0].endpoints[0].series)["retries"] == 1
    assert series(gate)["retries"] == 0
    await idle(gate)


async def test_the_retry_budget(site: Site) -> None:
    gate, _a, _b = await retried(site, "http", ["503"], ["503"], on=["5xx"], budget=0, budget_min=2)
    answers = [await get(gate) for _ in range(5)]
    assert [status for status, _ in answers] == [503] * 5
    found = series(gate)
    assert found["retries"] + found["retries_refused"] == 5
    assert 2 <= found["retries"] <= 3  # a token comes back every half second


async def test_an_inference_after_resource_exhausted(site: Site) -> None:
    async def exhausted(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

    servers = ModelServer(exhausted), ModelServer()
    pool = {**OIP, "endpoints": [await site.model(one) for one in servers], "policy": "round_robin"}
    for on, status in ((["resource-exhausted"], 200), (["reset"], 429)):
        route = {"pool": "models", "retry": {"on": on, "budget": 100}}
        gate = await routing_gate(site, [route], {"models": pool})
        assert (await ask_model(gate, plain())).status == status
        await idle(gate)
    sequence = plain(parameters={"sequence_id": 9, "sequence_start": True})
    gate = await routing_gate(site, [{"pool": "models", "retry": {"on": ["resource-exhausted"]}}], {"models": pool})
    assert (await ask_model(gate, sequence)).status == 429
