"""gRPC statuses in the series of routes and endpoints, beside the HTTP statuses that hide them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from hedge_site import HEDGE, Multiplexed, call, idle, series, two
from oip_site import INFER, ModelServer, ask, failing, plain, request
from ports import free_port
from routing_site import routing_gate
from test_grpc import channel_to

from lb.shared.words import GRPC_CODES

FAULTS = {2, 4, 12, 13, 14, 15}  # UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS


def codes(gate: Gate, index: int | None = None) -> dict[int, int]:
    """Calls by gRPC status, of the route or of a series."""
    return {code: n for code, n in enumerate(series(gate, index).values("grpc").values()) if n}


def of_endpoint(gate: Gate, i: int = 0) -> dict[int, int]:
    return codes(gate, gate.plan.pools[0].endpoints[i].series)


def faults(gate: Gate, i: int = 0) -> int:
    return series(gate, gate.plan.pools[0].endpoints[i].series)["errors"]


async def failed(awaitable: Any) -> int:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await awaitable
    return int(error.value.code().value[0])


async def test_ok_is_counted_too(site: Site) -> None:
    gate = await routing_gate(
        site,
        [{"pool": "p"}],
        {"p": {"protocol": "grpc", "endpoints": [await site.endpoint(Multiplexed("a", ["answer"]))]}},
    )
    assert await call(gate) == b"a"
    await idle(gate)
    assert codes(gate) == of_endpoint(gate) == {0: 1}
    assert (series(gate)["errors"], faults(gate)) == (0, 0)


@pytest.mark.parametrize("code", range(1, len(GRPC_CODES)))
async def test_a_status_without_messages(site: Site, code: int) -> None:
    endpoint = Multiplexed("a", [str(code)])
    pool = {"protocol": "grpc", "endpoints": [await site.endpoint(endpoint)]}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
    assert await failed(call(gate)) == code
    await idle(gate)
    assert codes(gate) == of_endpoint(gate) == {code: 1}
    assert series(gate)["requests.2xx"] == 1, "the HTTP status is 200"
    assert series(gate)["errors"] == faults(gate) == (code in FAULTS)


async def test_a_status_in_trailers_behind_messages(site: Site) -> None:
    async def some(messages: Any, context: Any) -> Any:
        yield b"one"
        await context.abort(grpc.StatusCode.DATA_LOSS, "half")

    server = grpc.aio.server()
    handlers = {"Down": grpc.unary_stream_rpc_method_handler(some)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        pool = {"protocol": "grpc", "endpoints": [f"127.0.0.1:{port}"]}
        gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
        async with channel_to(gate) as channel:
            stream = channel.unary_stream("/test.Kinds/Down")(b"")

            async def read() -> list[bytes]:
                return [message async for message in stream]

            assert await failed(read()) == 15
        await idle(gate)
        assert codes(gate) == of_endpoint(gate) == {15: 1}
        assert faults(gate) == 1
    finally:
        await server.stop(None)


@pytest.mark.parametrize(("status", "code"), [("503", 14), ("404", 12), ("401", 16), ("500", 2)])
async def test_an_http_status_stands_for_one(site: Site, status: str, code: int) -> None:
    pool = {"protocol": "grpc", "endpoints": [await site.endpoint(Multiplexed("a", [status]))]}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
    assert await failed(call(gate)) == code
    await idle(gate)
    assert codes(gate) == of_endpoint(gate) == {code: 1}


async def test_our_own_statuses(site: Site) -> None:
    dead = {"protocol": "grpc", "endpoints": [f"127.0.0.1:{free_port()}"], "retries": 0}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": dead})
    assert await failed(call(gate)) == 14
    await idle(gate)
    assert codes(gate) == of_endpoint(gate) == {14: 1}
    assert series(gate)["errors"] == faults(gate) == 1
    nobody = {"protocol": "grpc", "endpoints": [{"address": f"127.0.0.1:{free_port()}", "weight": 0}]}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": nobody})
    assert await failed(call(gate)) == 14
    await idle(gate)
    assert (codes(gate), of_endpoint(gate)) == ({14: 1}, {})
    late = Multiplexed("a", ["hang"])
    slow = {"protocol": "grpc", "endpoints": [await site.endpoint(late)]}
    gate = await routing_gate(site, [{"pool": "p", "timeout": "100ms"}], {"p": slow})
    assert await failed(call(gate)) == 4
    await idle(gate)
    assert codes(gate) == of_endpoint(gate) == {4: 1}


async def test_a_client_that_leaves_is_a_cancelled_call(site: Site) -> None:
    late = Multiplexed("a", ["hang"])
    gate = await routing_gate(
        site, [{"pool": "p"}], {"p": {"protocol": "grpc", "endpoints": [await site.endpoint(late)]}}
    )
    async with channel_to(gate) as channel:
        waiting = channel.unary_unary("/test.Kinds/Unary")(b"x")
        task = asyncio.ensure_future(waiting)
        await settle(lambda: len(late.seen) == 1, "the endpoint has it")
        waiting.cancel()
        await asyncio.wait([task])
        await idle(gate)
    assert codes(gate) == of_endpoint(gate) == {1: 1}
    assert series(gate)["errors"] == faults(gate) == 0
    assert series(gate)["client_aborts"] == 1


async def test_each_attempt_counts_at_its_endpoint(site: Site) -> None:
    gate, _, _ = await two(site, "grpc", ["8"], ["answer"], hedge={"after": "30s"},
                           route={"retry": {"on": ["resource-exhausted"], "budget": 100}})  # fmt: skip
    assert await call(gate) == b"b"
    await idle(gate)
    assert (codes(gate), of_endpoint(gate, 0), of_endpoint(gate, 1)) == ({0: 1}, {8: 1}, {0: 1})
    assert (faults(gate, 0), faults(gate, 1)) == (0, 0)


async def test_a_hedge_that_is_given_up_is_cancelled(site: Site) -> None:
    gate, _a, _b = await two(site, "grpc", ["hang"], ["answer"], hedge=HEDGE, route={"idempotent": True})
    assert await call(gate) == b"b"
    await idle(gate)
    assert (codes(gate), of_endpoint(gate, 0), of_endpoint(gate, 1)) == ({0: 1}, {1: 1}, {0: 1})


@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web-text"])
async def test_grpc_web(site: Site, kind: str) -> None:
    pool = {"protocol": "grpc", "endpoints": [await site.endpoint(Multiplexed("a", ["13", "answer"]))], "retries": 0}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
    body = b"AAAAAAA=" if kind.endswith("text") else bytes(5)
    for _ in range(2):
        answer = await gate.exchange(request("POST", "/test.Kinds/Unary", body, {"Content-Type": kind}))
        assert answer.startswith(b"HTTP/1.1 200 ")
    await idle(gate)
    assert codes(gate) == of_endpoint(gate) == {13: 1, 0: 1}
    assert series(gate)["errors"] == faults(gate) == 1


@pytest.mark.parametrize(
    ("status", "http", "fault"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400, 0),
        (grpc.StatusCode.UNKNOWN, 400, 1),
        (grpc.StatusCode.INTERNAL, 500, 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429, 0),
        (grpc.StatusCode.DATA_LOSS, 500, 1),
    ],
)
async def test_a_model_server_s_status_behind_rest(site: Site, status: grpc.StatusCode, http: int, fault: int) -> None:
    pool = {"protocol": "oip", "endpoints": [await site.model(ModelServer(failing(status, "no")))], "retries": 0}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
    assert (await ask(gate, plain())).status == http
    await idle(gate)
    assert codes(gate) == {}, "the client speaks HTTP"
    assert of_endpoint(gate) == {status.value[0]: 1}
    assert faults(gate) == fault
    assert series(gate)[f"requests.{http if http == 429 else f'{http // 100}xx'}"] == 1


async def test_a_model_server_behind_rest_that_is_well_or_not_there(site: Site) -> None:
    pool = {"protocol": "oip", "endpoints": [await site.model(ModelServer())]}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
    assert (await ask(gate, plain())).status == 200
    await idle(gate)
    assert of_endpoint(gate) == {0: 1}
    pool = {"protocol": "oip", "endpoints": [f"127.0.0.1:{free_port()}"], "retries": 0}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
    assert (await ask(gate, plain())).status == 502
    await idle(gate)
    assert of_endpoint(gate) == {14: 1}
    assert faults(gate) == 1
    assert INFER


async def test_what_we_refuse_within_a_call_is_told_and_counted_alike(site: Site) -> None:
    pool = {"protocol": "grpc", "endpoints": [await site.endpoint(Multiplexed("a", ["hang"]))]}
    gate = await routing_gate(site, [{"pool": "p", "max_body": "1KiB"}], {"p": pool})
    async with channel_to(gate) as channel:
        up = channel.stream_unary("/test.Kinds/Up")()
        await up.write(bytes(1000))
        await settle(lambda: gate.in_flight() == 1, "the endpoint has it")
        await up.write(bytes(1000))
        assert await failed(up) == 8
    await idle(gate)
    assert codes(gate) == of_endpoint(gate) == {8: 1}
    assert series(gate)["errors"] == faults(gate) == 0
    assert series(gate)["requests.2xx"] == 1, "the HTTP status is 200"
