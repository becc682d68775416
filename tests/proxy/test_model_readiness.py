"""A request for a model goes only to endpoints where that model is ready: over REST, gRPC and gRPC-Web."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from datapath import SECOND, Gate, Site, settle
from h2_client import h2_client
from msgspec.structs import replace
from oip_site import ModelServer, ask, echo, plain

from lb.config.plan.plan import PolicyPlan, QueuePlan
from lb.wire import grpc_service_pb2 as wire

POOL = {"protocol": "oip", "models": ("a", "", "b")}  # bits 0 and 2
A, B = 1 << 0, 1 << 2
QUEUE = QueuePlan(series=300, max=100, timeout_ns=10 * SECOND, overload_after_ns=60 * SECOND, overload_share=0.25)


async def gate_to(site: Site, *models: ModelServer, **settings: Any) -> Gate:
    pool = {**POOL, **settings.pop("pool", {})}
    return await site.gate([await site.model(model) for model in models], pool=pool, **settings)


def infer(model: str) -> str:
    return f"/v2/models/{model}/infer"


@contextlib.asynccontextmanager
async def channel_to(gate: Gate) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{gate.port}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        yield channel


def unary(channel: grpc.aio.Channel, method: str = "ModelInfer") -> Any:
    return channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=getattr(wire, f"{method}Response").FromString,
    )


def request(model: str, size: int = 4) -> Any:
    made = wire.ModelInferRequest(model_name=model, raw_input_contents=[b"\0" * size])
    made.inputs.add(name="x", datatype="UINT8", shape=[size])
    return made


def names(server: ModelServer) -> set[str]:
    return {sent.model_name for sent in server.requests}


async def test_rest_goes_where_the_model_is_ready(site: Site) -> None:
    first, second = ModelServer(), ModelServer()
    gate = await gate_to(site, first, second)
    gate.segment.set_models_unready(0, A)
    gate.segment.set_models_unready(1, B)
    for model in ("a", "b", "a", "c", "c", "b"):
        assert (await ask(gate, plain(), path=infer(model))).status == 200
    assert (names(first), names(second)) == ({"b", "c"}, {"a", "c"})
    gate.segment.set_models_unready(0, 0)
    for _ in range(4):
        assert (await ask(gate, plain(), path=infer("a"))).status == 200
    assert "a" in names(first)
    assert gate.in_flight() == 0


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("round_robin", {}),
        ("least_request", {}),
        ("power_of_two", {}),
        ("random", {}),
        ("first", {"options": {"fill": 4}}),
        ("peak_ewma", {}),
        ("least_time", {}),
        ("shortest_expected_delay", {}),
        ("maglev", {"key": "model"}),
        ("ring_hash", {"key": "model"}),
        ("rendezvous", {"key": "model"}),
    ],
)
async def test_every_policy_keeps_to_it(site: Site, policy: str, options: dict[str, Any]) -> None:
    servers = [ModelServer() for _ in range(4)]
    gate = await gate_to(site, *servers, pool={"policy": PolicyPlan(policy, **options)})
    for slot in (0, 1, 3):
        gate.segment.set_models_unready(slot, A)
    for _ in range(12):
        assert (await ask(gate, plain(), path=infer("a"))).status == 200
        assert (await ask(gate, plain(), path=infer("b"))).status == 200
    assert [len([s for s in server.requests if s.model_name == "a"]) for server in servers] == [0, 0, 12, 0]


async def test_rest_says_so_when_it_is_ready_nowhere(site: Site) -> None:
    server = ModelServer()
    gate = await gate_to(site, server)
    gate.segment.set_models_unready(0, A)
    answer = await ask(gate, plain(), path=infer("a"))
    assert (answer.status, answer.json) == (503, {"error": "no endpoint of pool pool has model a ready"})
    assert "retry-after" in answer.headers
    assert (await ask(gate, plain(), path=infer("b"))).status == 200
    gate.segment.set_health(0, False, 1)
    answer = await ask(gate, plain(), path=infer("a"))
    assert (answer.status, answer.json) == (503, {"error": "no endpoint of pool pool is available"})
    assert names(server) == {"b"}


async def test_what_else_is_asked_of_a_model_prefers_where_it_is_ready_and_is_answered_anyway(site: Site) -> None:
    first, second = ModelServer(), ModelServer()
    first.management["ModelReady"] = wire.ModelReadyResponse(ready=False)
    second.management["ModelReady"] = wire.ModelReadyResponse(ready=True)
    gate = await gate_to(site, first, second)
    gate.segment.set_models_unready(0, A)
    answers = [(await ask(gate, path="/v2/models/a/ready", method="GET")).status for _ in range(4)]
    assert answers == [200] * 4
    gate.segment.set_models_unready(1, A)
    second.management["ModelReady"] = wire.ModelReadyResponse(ready=False)
    answers = [(await ask(gate, path="/v2/models/a/ready", method="GET")).status for _ in range(4)]
    assert answers == [400] * 4, "the protocol's own answer, not ours"


async def test_a_retry_keeps_to_it(site: Site) -> None:
    async def going(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "going")

    bad, good, without = ModelServer(going), ModelServer(), ModelServer()
    gate = await gate_to(site, bad, without, good)
    gate.segment.set_models_unready(1, A)
    for _ in range(6):
        assert (await ask(gate, plain(), path=infer("a"))).status == 200
    assert bad.requests
    assert not without.requests


async def test_grpc_goes_where_the_model_is_ready(site: Site) -> None:
    first, second = ModelServer(), ModelServer()
    gate = await gate_to(site, first, second)
    gate.segment.set_models_unready(0, A)
    gate.segment.set_models_unready(1, B)
    async with channel_to(gate) as channel:
        ask_model = unary(channel)
        for model in ("a", "b", "a", "c", "c", "b"):
            assert (await ask_model(request(model), timeout=20)).model_name == model
        # Larger than a window, so that the rest of it comes when an endpoint is chosen.
        await asyncio.gather(*(ask_model(request("a", 1 << 20), timeout=30) for _ in range(4)))
    assert (names(first), names(second)) == ({"b", "c"}, {"a", "c"})
    assert gate.in_flight() == 0


async def test_grpc_says_unavailable_when_it_is_ready_nowhere(site: Site) -> None:
    server = ModelServer()
    server.management["ModelReady"] = wire.ModelReadyResponse(ready=False)
    gate = await gate_to(site, server)
    gate.segment.set_models_unready(0, A)
    async with channel_to(gate) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(channel)(request("a"), timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "no endpoint of pool pool has model a ready"
        # Whether it is ready any endpoint can say.
        assert not (await unary(channel, "ModelReady")(wire.ModelReadyRequest(name="a"), timeout=20)).ready
    assert not server.requests


async def test_grpc_in_small_pieces_and_without_a_name(site: Site) -> None:
    first, second = ModelServer(), ModelServer()
    gate = await gate_to(site, first, second)
    gate.segment.set_models_unready(0, A)
    whole = request("a").SerializeToString()
    nameless = wire.ModelInferRequest(id="7").SerializeToString()
    fields = [("content-type", "application/grpc"), ("te", "trailers")]
    path = "/inference.GRPCInferenceService/ModelInfer"
    async with h2_client(gate.port) as client:
        for _ in range(3):
            stream = client.request(path, method="POST", fields=fields, end=False)
            data = b"\0" + len(whole).to_bytes(4, "big") + whole
            for i in range(len(data)):
                await client.send(stream, data[i : i + 1], end=i + 1 == len(data))
                await asyncio.sleep(0.002)
            answer = await client.answer(stream)
            assert answer.status == 200
        for _ in range(4):
            data = b"\0" + len(nameless).to_bytes(4, "big") + nameless
            answer = await client.fetch(path, body=data, fields=fields)
            assert answer.status == 200
    assert names(second) == {"a", ""}
    assert names(first) == {""}


async def test_grpc_without_a_message_is_the_endpoints_to_refuse(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    async with h2_client(gate.port) as client:
        answer = await client.fetch(
            "/inference.GRPCInferenceService/ModelInfer",
            method="POST",
            fields=[("content-type", "application/grpc"), ("te", "trailers")],
        )
    assert answer.status == 200
    assert dict([*answer.fields, *answer.trailers])["grpc-status"] != "0"


async def test_a_client_that_leaves_before_it_named_a_model_leaves_nothing_behind(site: Site) -> None:
    server = ModelServer()
    gate = await gate_to(site, server)
    async with h2_client(gate.port) as client:
        client.request(
            "/inference.GRPCInferenceService/ModelInfer", method="POST",
            fields=[("content-type", "application/grpc"), ("te", "trailers")], end=False,
        )  # fmt: skip
        await settle(lambda: gate.proxy.busy() == 1, "the request did not come")
        assert gate.in_flight() == 0
    await settle(lambda: gate.proxy.busy() == 0, "the exchange stays")
    assert not server.requests


async def test_grpc_web_goes_where_the_model_is_ready(site: Site) -> None:
    first, second = ModelServer(), ModelServer()
    gate = await gate_to(site, first, second)
    gate.segment.set_models_unready(0, A)
    body = request("a").SerializeToString()
    for _ in range(4):
        raw = await gate.exchange(
            b"POST /inference.GRPCInferenceService/ModelInfer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            b"Content-Type: application/grpc-web+proto\r\nContent-Length: %d\r\n\r\n" % (5 + len(body))
            + b"\0" + len(body).to_bytes(4, "big") + body
        )  # fmt: skip
        assert raw.startswith(b"HTTP/1.1 200")
    assert len(second.requests) == 4
    assert not first.requests


async def test_who_waits_in_the_queue_waits_for_an_endpoint_with_its_model(site: Site) -> None:
    release = asyncio.Event()

    async def held(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        await release.wait()
        return await echo(sent, context)

    busy, free = ModelServer(held), ModelServer()
    gate = await gate_to(site, busy, free, cap=1, pool={"queue": QUEUE})
    gate.segment.set_models_unready(1, A)
    one = asyncio.create_task(ask(gate, plain(), path=infer("a")))
    await settle(lambda: len(busy.requests) == 1, "the first does not get there")
    two = asyncio.create_task(ask(gate, plain(), path=infer("a")))
    await settle(lambda: gate.total(QUEUE.series)["started"] == 1, "the second does not wait")
    assert not free.requests
    release.set()
    assert [(await task).status for task in (one, two)] == [200, 200]
    assert len(busy.requests) == 2
    assert not free.requests


async def test_another_plan_gives_a_waiting_request_the_bit_of_its_model_there(site: Site) -> None:
    release = asyncio.Event()

    async def held(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        await release.wait()
        return await echo(sent, context)

    busy, other = ModelServer(held), ModelServer()
    gate = await gate_to(site, busy, other, cap=1, pool={"queue": QUEUE})
    gate.segment.set_models_unready(1, A)
    one = asyncio.create_task(ask(gate, plain(), path=infer("a")))
    await settle(lambda: len(busy.requests) == 1, "the first does not get there")
    two = asyncio.create_task(ask(gate, plain(), path=infer("a")))
    await settle(lambda: gate.total(QUEUE.series)["started"] == 1, "the second does not wait")
    pools = tuple(replace(pool, models=("b", "a")) for pool in gate.plan.pools)  # a: bit 1
    site.reload(gate, pools=pools)
    gate.segment.set_models_unready(1, 1 << 1)
    await asyncio.sleep(0.1)
    assert not other.requests
    release.set()
    assert [(await task).status for task in (one, two)] == [200, 200]
    assert not other.requests


@pytest.mark.parametrize("policy", ["maglev", "ring_hash", "rendezvous"])
async def test_a_model_as_the_key_is_the_same_over_rest_and_grpc(site: Site, policy: str) -> None:
    servers = [ModelServer() for _ in range(4)]
    gate = await gate_to(site, *servers, pool={"models": (), "policy": PolicyPlan(policy, key="model")})
    fields = [("content-type", "application/grpc"), ("te", "trailers")]
    asked = [f"model-{i}" for i in range(24)]
    async with channel_to(gate) as channel, h2_client(gate.port) as client:
        for model in asked:
            assert (await ask(gate, plain(), path=infer(model))).status == 200
            await unary(channel)(request(model), timeout=20)
            data = request(model).SerializeToString()
            answer = await client.fetch(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                body=b"\0" + len(data).to_bytes(4, "big") + data,
                fields=fields,
            )
            assert dict(answer.trailers)["grpc-status"] == "0"
    for model in asked:
        counts = [sum(sent.model_name == model for sent in server.requests) for server in servers]
        assert sorted(counts) == [0, 0, 0, 3], model
    assert all(server.requests for server in servers)
