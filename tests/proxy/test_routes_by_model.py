"""Routes by model take gRPC requests, too: their first message names it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from h2_client import h2_client
from oip_site import ModelServer, ask, plain
from routing_site import routing_gate

from lb.wire import grpc_service_pb2 as wire

SERVICE = "/inference.GRPCInferenceService/"
GRPC = {"grpc": {"service": "inference.GRPCInferenceService"}}
Servers = dict[str, ModelServer]


async def gate_with(site: Site, *routes: dict[str, Any], **listener: Any) -> tuple[Gate, Servers]:
    """A gate whose pools are those that the routes name, with one model server each."""
    servers = {route["pool"]: ModelServer() for route in routes}
    pools = {
        name: {"protocol": "oip", "endpoints": [await site.model(server)]} for name, server in sorted(servers.items())
    }
    return await routing_gate(site, list(routes), pools, **listener), servers


def message(model: str, size: int = 4) -> bytes:
    made = wire.ModelInferRequest(model_name=model, raw_input_contents=[bytes(size)])
    made.inputs.add(name="x", datatype="UINT8", shape=[size])
    return bytes(made.SerializeToString())


async def infer(gate: Gate, model: str, size: int = 4, metadata: tuple[tuple[str, str], ...] = ()) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        await channel.unary_unary(SERVICE + "ModelInfer")(message(model, size), metadata=metadata)


def got(servers: Servers) -> dict[str, list[str]]:
    return {name: [sent.model_name for sent in server.requests] for name, server in servers.items()}


async def test_the_message_decides(site: Site) -> None:
    gate, servers = await gate_with(
        site,
        {"match": {"model": "a"}, "pool": "p"},
        {"match": {"model": {"prefix": "llm-"}}, "pool": "q"},
        {"match": {"model": {"regex": "x[0-9]+"}}, "pool": "r"},
        {"match": GRPC, "pool": "rest"},
    )
    for model in ("a", "llm-7", "x12", "b", "x", "org/name"):
        await infer(gate, model)
    assert got(servers) == {"p": ["a"], "q": ["llm-7"], "r": ["x12"], "rest": ["b", "x", "org/name"]}
    assert (await ask(gate, plain(), "/v2/models/a/infer")).status == 200
    assert got(servers)["p"] == ["a", "a"]
    await infer(gate, "a", 300_000)
    assert len(servers["p"].requests[-1].raw_input_contents[0]) == 300_000
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "an exchange is left")


async def test_streams_and_descriptions(site: Site) -> None:
    gate, servers = await gate_with(site, {"match": {"model": "a"}, "pool": "p"}, {"match": GRPC, "pool": "rest"})
    servers["p"].management["ModelMetadata"] = wire.ModelMetadataResponse(name="a", platform="p")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.stream_stream(SERVICE + "ModelStreamInfer")()
        await asyncio.sleep(0.1)  # its stream is open, and says nothing yet
        for _ in range(3):
            await call.write(message("a"))
            assert wire.ModelStreamInferResponse.FromString(await call.read()).infer_response.model_name == "a"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        asked = wire.ModelMetadataRequest(name="a").SerializeToString()
        found = wire.ModelMetadataResponse.FromString(await channel.unary_unary(SERVICE + "ModelMetadata")(asked))
    assert found.platform == "p"
    assert got(servers) == {"p": ["a"] * 3, "rest": []}


async def test_without_another_route(site: Site) -> None:
    gate, _ = await gate_with(site, {"match": {"model": "a"}, "pool": "p"})
    await infer(gate, "a")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await infer(gate, "b")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await settle(lambda: gate.proxy.busy() == 0, "a request is left")


async def test_other_conditions_and_limits_of_such_a_route_hold(site: Site) -> None:
    gate, servers = await gate_with(
        site,
        {"match": {"model": "a", "headers": {"x-tenant": "one"}}, "pool": "p", "max_body": "64KiB"},
        {"match": GRPC, "pool": "rest"},
    )
    await infer(gate, "a", metadata=(("x-tenant", "one"),))
    await infer(gate, "a", metadata=(("x-tenant", "two"),))
    await infer(gate, "a", 100_000)
    assert got(servers) == {"p": ["a"], "rest": ["a", "a"]}
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await infer(gate, "a", 100_000, (("x-tenant", "one"),))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_routes_for_rest_alone_take_none(site: Site) -> None:
    """A prefix of paths says nothing of gRPC, and a pool of HTTP/1.1 has no use for it."""
    server, other = ModelServer(), ModelServer()
    pools = {
        "rest": {"protocol": "oip", "endpoints": [await site.model(server)]},
        "grpc": {"protocol": "oip", "endpoints": [await site.model(other)]},
        "http": {"protocol": "http", "endpoints": ["127.0.0.1:9"]},
    }
    routes = [
        {"match": {"path": {"prefix": "/v2"}}, "pool": "rest"},
        {"match": {"model": "h"}, "pool": "http"},
        {"match": GRPC, "pool": "grpc"},
    ]
    gate = await routing_gate(site, routes, pools)
    await infer(gate, "a")
    await infer(gate, "h")
    assert [sent.model_name for sent in other.requests] == ["a", "h"]
    assert server.requests == []


async def test_messages_in_pieces_and_clients_that_leave(site: Site) -> None:
    gate, servers = await gate_with(site, {"match": {"model": "a"}, "pool": "p"}, {"match": GRPC, "pool": "rest"})
    fields = [
        (":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", SERVICE + "ModelInfer"),
        ("content-type", "application/grpc"), ("te", "trailers"), ("cookie", "a=1"), ("cookie", "b=2"),
    ]  # fmt: skip
    data = message("a")
    body = b"\0" + len(data).to_bytes(4) + data
    async with h2_client(gate.port) as client:
        for _ in range(2):
            stream = client.open(fields, end=False)
            await client.send(stream, body, piece=1)
            assert (await client.answer(stream)).status == 200
        await settle(lambda: gate.proxy.busy() == 0, "a request is left")
        stream = client.open(fields, end=False)
        await client.send(stream, body[:3])  # no message: any route, whose endpoint has its own word
        await settle(lambda: gate.in_flight() == 1, "it is passed on")
        client.h2.reset_stream(stream)
        client.flush()
        await settle(lambda: gate.proxy.busy() == 0, "a request is left")
        stream = client.open(fields, end=False)
        await client.send(stream, body[:3], end=False)
        await settle(lambda: gate.proxy.busy() == 1, "it waits")
        client.h2.reset_stream(stream)
        client.flush()
        await settle(lambda: gate.proxy.busy() == 0, "a request is left")
        client.open(fields, end=False)
        await settle(lambda: gate.proxy.busy() == 1, "it waits")
    await settle(lambda: gate.proxy.busy() == 0, "the connection is gone")
    assert got(servers)["p"] == ["a", "a"]


async def test_affinity_by_model(site: Site) -> None:
    """Whatever the client speaks, requests for a model go to one endpoint."""
    servers = [ModelServer() for _ in range(4)]
    policy = {"type": "rendezvous", "key": {"model": True}}
    pool = {"protocol": "oip", "endpoints": [await site.model(server) for server in servers], "policy": policy}
    gate = await routing_gate(site, [{"pool": "p"}], {"p": pool})
    for model in ("a", "b", "c", "d"):
        for _ in range(2):
            await infer(gate, model)
            await ask(gate, plain(), f"/v2/models/{model}/infer")
            async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
                call = channel.stream_stream(SERVICE + "ModelStreamInfer")(iter([message(model)]))
                assert len([answer async for answer in call]) == 1
    assert sorted(model for server in servers for model in {one.model_name for one in server.requests}) == list("abcd")
    assert sum(len(server.requests) for server in servers) == 24
