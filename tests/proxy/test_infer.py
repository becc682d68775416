"""The Open Inference Protocol through the gate: REST in front, gRPC behind."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import zlib
from typing import Any

import grpc
import pytest
from datapath import Site, settle
from infer_site import MIB, error_of, gate_to, idle
from oip_site import (
    INFER,
    OIP,
    Answer,
    ModelServer,
    ask,
    binary,
    echo,
    floats,
    plain,
    read_answer,
    request,
    tensor,
)

from lb.config.plan.routes import FieldsPlan, RatePlan
from lb.config.schema.routes.cors import CorsConfig, cors_plan
from lb.wire import grpc_service_pb2 as wire

HOUR = 3600 * 1_000_000_000

# Encodings.


async def test_json_in_json_out(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model)
    answer = await ask(gate, plain(tensor([1.5, -2.0, 3.25, 0.0], shape=[2, 2]), tensor([7], "INT64", "n"), id="abc"))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.cache is None  # there is no cache
    assert answer.json == {
        "id": "abc",
        "model_name": "m",
        "model_version": "1",
        "outputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1.5, -2.0, 3.25, 0.0]},
            {"name": "n", "datatype": "INT64", "shape": [1], "data": [7]},
        ],
    }
    sent = model.requests[0]
    assert sent.model_name == "m"
    assert sent.id == "abc"
    assert list(sent.raw_input_contents) == [floats(1.5, -2.0, 3.25, 0.0), (7).to_bytes(8, "little")]
    await idle(gate)


async def test_version_and_escaped_model_name(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model)
    answer = await ask(gate, plain(), path="/v2/models/a%20b/versions/3/infer")
    assert (answer.status, answer.json["model_name"], answer.json["model_version"]) == (200, "a b", "3")
    assert (model.requests[0].model_name, model.requests[0].model_version) == ("a b", "3")


async def test_binary_in_binary_out(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    data = random.Random(1).randbytes(4 * 5000)
    body, headers = binary((tensor([], shape=[5000]), data), (tensor([], "UINT8", "b", [3]), b"abc"), id="7")
    answer = await ask(gate, body, headers=headers)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert [o["parameters"]["binary_data_size"] for o in answer.json["outputs"]] == [20000, 3]
    assert answer.binary == data + b"abc"
    assert answer.json["id"] == "7"
    await idle(gate)


async def test_each_output_has_the_form_asked_for(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    body = plain(
        tensor([1.0]),
        tensor([2.0], name="y"),
        outputs=[{"name": "x", "parameters": {"binary_data": True}}, {"name": "y"}],
    )
    answer = await ask(gate, body)
    x, y = answer.json["outputs"]
    assert x["parameters"] == {"binary_data_size": 4}
    assert y["data"] == [2.0]
    assert answer.binary == floats(1.0)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed_bodies(site: Site, encoding: str) -> None:
    gate = await gate_to(site, ModelServer())
    squeeze = gzip.compress if encoding == "gzip" else zlib.compress
    answer = await ask(gate, squeeze(json.dumps(plain()).encode()), headers={"Content-Encoding": encoding})
    assert answer.json["outputs"][0]["data"] == [1.5, -2.0]
    body, headers = binary((tensor([], shape=[2]), floats(4, 5)))
    answer = await ask(gate, squeeze(body), headers={**headers, "Content-Encoding": encoding})
    assert answer.binary == floats(4, 5)
    await idle(gate)


async def test_chunked_bodies(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    body, headers = binary((tensor([], shape=[50_000]), bytes(200_000)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    reader, writer = await gate.connect()
    writer.write(f"POST {INFER} HTTP/1.1\r\nHost: a\r\n{lines}Transfer-Encoding: chunked\r\n\r\n".encode())
    for start in range(0, len(body), 7777):
        part = body[start : start + 7777]
        writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    assert (await read_answer(reader)).binary == bytes(200_000)
    writer.close()
    await idle(gate)


async def test_large_tensors_both_ways(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    data = random.Random(2).randbytes(32 * MIB)
    body, headers = binary((tensor([], shape=[8 * MIB]), data))
    answer = await ask(gate, body, headers=headers)
    assert answer.status == 200
    assert answer.binary == data
    await idle(gate)


async def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    async def slow_first(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        await asyncio.sleep(0.05 if sent.id == "0" else 0)
        return await echo(sent, context)

    gate = await gate_to(site, ModelServer(slow_first))
    reader, writer = await gate.connect()
    everything = b""
    for i in range(40):
        if i % 2:
            body, headers = binary((tensor([], shape=[1000]), floats(*[i] * 1000)), id=str(i))
        else:
            body, headers = json.dumps(plain(id=str(i))).encode(), {}
        everything += request("POST", INFER, body, headers, close=False)
    writer.write(everything)
    for i in range(40):
        answer = await read_answer(reader)
        assert answer.status == 200
        assert answer.json["id"] == str(i)
        if i % 2:
            assert answer.binary == floats(*[i] * 1000)
    writer.close()
    await idle(gate)


@pytest.mark.parametrize("piece", [1 << 30, 300_000, 70_001])
async def test_large_bodies_arrive_whole_however_they_are_cut(site: Site, piece: int) -> None:
    """Bodies of known length are received where they stay; the next request may come with the last piece."""
    gate = await gate_to(site, ModelServer())
    dice = random.Random(piece)
    sizes = [5 * MIB, 20 * MIB, 32 * 1024, 64 * 1024 + 4, 400, MIB]  # some of which end in another request's bytes
    tensors = [dice.randbytes(size) for size in sizes]
    everything = b""
    for number, data in enumerate(tensors):
        body, headers = binary((tensor([], shape=[len(data) // 4]), data), id=str(number))
        everything += request("POST", INFER, body, headers, close=False)
    reader, writer = await gate.connect()

    async def send() -> None:
        for at in range(0, len(everything), piece):
            writer.write(everything[at : at + piece])
            await writer.drain()
            await asyncio.sleep(0)

    sending = asyncio.create_task(send())
    for number, data in enumerate(tensors):
        answer = await read_answer(reader)
        assert (answer.status, answer.json["id"]) == (200, str(number))
        assert answer.binary == data
    await sending
    writer.close()
    await idle(gate)


async def test_a_client_that_leaves_in_a_large_body_leaves_nothing(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model)
    body, headers = binary((tensor([], shape=[MIB]), bytes(4 * MIB)))
    for sent in (1000, MIB, 3 * MIB):
        _, writer = await gate.connect()
        writer.write(request("POST", INFER, body, headers)[:sent])
        await writer.drain()
        writer.close()
    await settle(lambda: gate.total(2)["finished"] == 3, "an exchange is left")
    assert model.requests == []
    await idle(gate)


async def test_concurrent_clients_share_a_connection_to_the_endpoint(site: Site) -> None:
    gate = await gate_to(site, ModelServer())

    async def client(n: int) -> None:
        reader, writer = await gate.connect()
        for i in range(10):
            writer.write(request("POST", INFER, json.dumps(plain(tensor([n, i]))).encode(), close=False))
            assert (await read_answer(reader)).json["outputs"][0]["data"] == [n, i]
        writer.close()

    await asyncio.gather(*(client(n) for n in range(30)))
    (channel,) = gate.proxy.channels.values()
    assert channel.stats()["connects"] == 1
    assert gate.total(2)["requests.2xx"] == gate.total(10)["requests.2xx"] == 300
    await idle(gate)


# Management routes.


async def test_management_routes(site: Site) -> None:
    model = ModelServer()
    model.management = {
        "ServerLive": wire.ServerLiveResponse(live=True),
        "ServerReady": wire.ServerReadyResponse(ready=False),
        "ServerMetadata": wire.ServerMetadataResponse(
            name="s", version="9", extensions=["statistics", "shared_memory"]
        ),
        "ModelReady": wire.ModelReadyResponse(ready=True),
        "ModelMetadata": wire.ModelMetadataResponse(
            name="m",
            versions=["1"],
            platform="onnxruntime_onnx",
            inputs=[wire.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 2])],
        ),
        "ModelConfig": b"\xff",
    }
    gate = await gate_to(site, model)

    async def get(path: str, method: str = "GET") -> Answer:
        return await ask(gate, path=path, method=method)

    assert (await get("/v2/health/live")).status == 200
    assert (await get("/v2/health/ready")).status == 400
    metadata = (await get("/v2")).json
    assert (metadata["name"], metadata["version"]) == ("s", "9")
    assert metadata["extensions"] == ["binary_tensor_data", "generate", "statistics", "model_configuration"]
    assert (await get("/v2/models/m/ready")).json == {"name": "m", "ready": True}
    metadata = (await get("/v2/models/m")).json
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    garbled = await get("/v2/models/m/config")
    assert (garbled.status, bool(error_of(garbled))) == (502, True)
    for path, method, status in (
        ("/v2/nothing", "GET", 404),
        ("/v2/systemsharedmemory/region/r/register", "POST", 404),
        ("/v2/models/m", "POST", 405),
        (INFER, "GET", 405),
        ("/v2/models/m/versions/x/infer", "POST", 404),
    ):
        answer = await get(path, method)
        assert (answer.status, bool(error_of(answer))) == (status, True)
    await idle(gate)


async def test_management_answers_have_what_the_route_adds(site: Site) -> None:
    model = ModelServer()
    model.management = {"ModelMetadata": wire.ModelMetadataResponse(name="m")}
    address = await site.model(model)
    gate = await site.gate(
        [address],
        pool=OIP,
        route={
            "rate_limit": RatePlan(HOUR, burst=9, key="source", key_name="", fields="standard"),
            "cors": cors_plan(CorsConfig(allow_origins=["https://app.example.org"])),
            "response_fields": FieldsPlan(set=(("X-Site", "here"),)),
            "expose_endpoint": True,
        },
    )
    for path, method, status, addresses in (("/v2/models/m", "GET", 200, {address}), (INFER, "GET", 405, {None})):
        answer = await ask(gate, path=path, method=method, headers={"Origin": "https://app.example.org"})
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
        assert answer.headers["x-site"] == "here"
        assert "ratelimit" in answer.headers
        assert {answer.headers.get("x-tidegate-endpoint")} == addresses
    await idle(gate)
