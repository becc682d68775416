"""The Open Inference Protocol through the gate: REST in front, gRPC behind."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import zlib
from typing import Any

import grpc
import pytest
from datapath import SECOND, Gate, Site, settle
from oip_site import (
    INFER,
    OIP,
    Answer,
    Dying,
    ModelServer,
    ask,
    binary,
    echo,
    failing,
    floats,
    plain,
    read_answer,
    request,
    tensor,
)
from ports import free_port

from lb.wire import grpc_service_pb2 as wire

MIB = 1 << 20


async def gate_to(site: Site, *servers: ModelServer, cached: bool = False, **options: Any) -> Gate:
    addresses = [await site.model(server) for server in servers]
    return await site.gate(
        addresses, pool={**OIP, **options.pop("pool", {})}, cache_size=8 * MIB if cached else 0, **options
    )


async def idle(gate: Gate) -> None:
    """Everything has been given back."""
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "an exchange is left")
    words = gate.total(2)
    assert words[6] == words[7]  # started, finished


def error_of(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(answer.body)
    assert list(body) == ["error"]
    return str(body["error"])


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
    await settle(lambda: gate.total(2)[7] == 3, "an exchange is left")
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
    assert gate.total(2)[1] == gate.total(10)[1] == 300
    await idle(gate)


# Errors in the protocol's shape.

BAD: dict[str, tuple[bytes, dict[str, str], int]] = {
    "not JSON": (b"{", {}, 400),
    "an array": (b"[]", {}, 400),
    "no inputs": (b"{}", {}, 400),
    "unknown datatype": (json.dumps(plain(tensor([1], "FP31"))).encode(), {}, 400),
    "too few elements": (json.dumps(plain(tensor([1], shape=[2]))).encode(), {}, 400),
    "a text for a number": (json.dumps(plain(tensor(["a"]))).encode(), {}, 400),
    "negative shape": (json.dumps(plain(tensor([1], shape=[-1]))).encode(), {}, 400),
    "sizes do not add up": (
        binary((tensor([], shape=[2]), b"1234"))[0],
        binary((tensor([], shape=[2]), b"1234"))[1],
        400,
    ),
    "JSON longer than the body": (b"{}", {"Inference-Header-Content-Length": "3"}, 400),
    "length of JSON no number": (b"{}", {"Inference-Header-Content-Length": "x"}, 400),
    "damaged gzip": (b"\x1f\x8bxxxxxxxxxxx", {"Content-Encoding": "gzip"}, 400),
    "half a gzip": (gzip.compress(b"{}" * 1000)[:20], {"Content-Encoding": "gzip"}, 400),
    "unknown encoding": (b"{}", {"Content-Encoding": "br"}, 501),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_requests_do_not_reach_a_model(site: Site, name: str) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    body, headers, status = BAD[name]
    reader, writer = await gate.connect()
    writer.write(request("POST", INFER, body, headers, close=False))
    answer = await read_answer(reader)
    assert answer.status == status
    assert error_of(answer)
    assert model.requests == []
    if answer.headers.get("connection") == "close":  # refused by its head: its body is not waited for
        assert await asyncio.wait_for(reader.read(), 20) == b""
    else:
        writer.write(request("POST", INFER, json.dumps(plain()).encode()))
        assert (await read_answer(reader)).status == 200
    writer.close()
    await idle(gate)


async def test_a_gzip_bomb_is_stopped(site: Site) -> None:
    gate = await gate_to(site, ModelServer(), route={"max_body": MIB})
    answer = await ask(gate, gzip.compress(bytes(64 * MIB)), headers={"Content-Encoding": "gzip"})
    assert answer.status == 413
    assert "1048576" in error_of(answer)
    await idle(gate)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(site: Site, chunked: bool) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, route={"max_body": 1000})
    reader, writer = await gate.connect()
    if chunked:
        writer.write(b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % INFER.encode())
        writer.write(b"3e9\r\n" + bytes(1001) + b"\r\n")
    else:
        writer.write(request("POST", INFER, bytes(1001)))
    answer = await read_answer(reader)
    assert answer.status == 413
    assert error_of(answer)
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    assert model.requests == []
    await idle(gate)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400),
        (grpc.StatusCode.NOT_FOUND, 404),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.UNIMPLEMENTED, 501),
        (grpc.StatusCode.INTERNAL, 500),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.UNAVAILABLE, 503),
    ],
)
async def test_errors_of_the_model_are_told(site: Site, code: grpc.StatusCode, status: int) -> None:
    gate = await gate_to(site, ModelServer(failing(code, "so sorry: ä")))
    answer = await ask(gate, plain())
    assert answer.status == status
    assert error_of(answer) == "so sorry: ä"
    await idle(gate)


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff\xff\xff",
        b"\x2a\x05\x0a\x7fx",  # an output whose name is longer than itself
        wire.ModelInferResponse(  # an output that claims more than it has
            model_name="m",
            outputs=[wire.ModelInferResponse.InferOutputTensor(name="x", datatype="FP32", shape=[5])],
            raw_output_contents=[b"1234"],
        ).SerializeToString(),
        wire.ModelInferResponse(  # data without an output
            model_name="m", raw_output_contents=[b"1234"]
        ).SerializeToString(),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
async def test_a_malformed_reply_is_the_servers_fault(site: Site, reply: bytes, cached: bool) -> None:
    async def garbage(sent: Any, context: grpc.aio.ServicerContext) -> bytes:
        return reply

    model = ModelServer(garbage)
    gate = await gate_to(site, model, cached=cached)
    for _ in range(2):
        answer = await ask(gate, plain())
        assert answer.status == 502
        assert error_of(answer)
    assert len(model.requests) == 2  # it did not get into the cache
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
    assert (await get("/v2")).json == {"name": "s", "version": "9", "extensions": ["binary_tensor_data", "statistics"]}
    assert (await get("/v2/models/m/ready")).json == {"name": "m", "ready": True}
    metadata = (await get("/v2/models/m")).json
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    garbled = await get("/v2/models/m/config")
    assert (garbled.status, bool(error_of(garbled))) == (502, True)
    missing = await get("/v2/models/m/stats")
    assert missing.status == 501
    assert error_of(missing)
    for path, method, status in (
        ("/v2/nothing", "GET", 404),
        ("/v2/models/m", "POST", 405),
        (INFER, "GET", 405),
        ("/v2/models/m/versions/x/infer", "POST", 404),
    ):
        answer = await get(path, method)
        assert (answer.status, bool(error_of(answer))) == (status, True)
    await idle(gate)


# The cache.


async def test_a_repeated_request_is_a_hit_in_any_encoding(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    first = await ask(gate, plain(id="a"))
    assert first.cache == "tidegate; fwd=miss; stored"
    again = await ask(gate, plain(id="b"))
    assert again.cache == "tidegate; hit"
    assert again.json == {**first.json, "id": "b"}
    body, headers = binary((tensor([], shape=[2]), floats(1.5, -2.0)))
    other = await ask(gate, body, headers=headers)
    assert other.cache == "tidegate; hit"
    assert other.binary == floats(1.5, -2.0)
    assert "id" not in other.json
    assert len(model.requests) == 1
    words = gate.total(2)
    assert words[15:18] == [2, 1, 1]  # hit, miss, stored


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (INFER, plain(tensor([1.5, -2.0], shape=[2, 1]))),
        (INFER, plain(tensor([1.5, -2.0], name="y"))),
        (INFER, plain(tensor([1069547520, -1073741824], "INT32"))),  # the same bytes
        (INFER, plain(tensor([1.5, 2.0]))),
        (INFER, plain(outputs=[{"name": "x"}])),
        (INFER, plain(parameters={"temperature": 1})),
        ("/v2/models/n/infer", plain()),
        ("/v2/models/m/versions/1/infer", plain()),
    ],
)
async def test_another_request_is_a_miss(site: Site, path: str, body: Any) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    assert (await ask(gate, plain())).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, body, path=path)).cache == "tidegate; fwd=miss; stored"
    assert (await ask(gate, body, path=path)).cache == "tidegate; hit"
    assert len(model.requests) == 2


async def test_what_is_not_cached(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    for _ in range(2):
        assert (await ask(gate, plain(parameters={"sequence_id": 5}))).cache == "tidegate; fwd=bypass"
    model.behave = failing(grpc.StatusCode.INVALID_ARGUMENT, "no")
    assert [(await ask(gate, plain())).status for _ in range(2)] == [400, 400]
    assert len(model.requests) == 4
    off = await gate_to(site, ModelServer(), cached=True, route={"cache": False})
    for _ in range(2):
        assert (await ask(off, plain())).cache == "tidegate; fwd=bypass"


async def test_an_entry_expires(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True, route={"cache_ttl_ns": SECOND // 20})
    await ask(gate, plain())
    for _ in range(500):
        answer = await ask(gate, plain())
        assert answer.status == 200
        if answer.cache != "tidegate; hit":
            break
        await asyncio.sleep(0.01)
    assert len(model.requests) == 2


# Single flight.


class Held(ModelServer):
    """Answers only when `release` is set."""

    def __init__(self) -> None:
        super().__init__(self.hold)
        self.release = asyncio.Event()
        self.then = echo

    async def hold(self, sent: Any, context: grpc.aio.ServicerContext) -> Any:
        await self.release.wait()
        return await self.then(sent, context)


async def in_flight_together(gate: Gate, bodies: list[Any]) -> list[asyncio.Task[Answer]]:
    tasks = [asyncio.create_task(ask(gate, body)) for body in bodies]
    await settle(lambda: gate.proxy.busy() == len(bodies), "the requests did not arrive")
    return tasks


async def test_identical_requests_at_once_are_one_call(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    tasks = await in_flight_together(gate, [plain(id=str(i)) for i in range(25)])
    await settle(lambda: len(model.requests) == 1, "no call was made")
    assert gate.in_flight() == 1
    model.release.set()
    answers = await asyncio.gather(*tasks)
    assert sorted(a.cache or "" for a in answers) == ["tidegate; fwd=miss; collapsed"] * 24 + [
        "tidegate; fwd=miss; stored"
    ]
    assert [a.json["id"] for a in answers] == [str(i) for i in range(25)]
    assert all(a.json["outputs"][0]["data"] == [1.5, -2.0] for a in answers)
    assert len(model.requests) == 1
    assert (await ask(gate, plain())).cache == "tidegate; hit"
    assert gate.total(2)[18] == 24  # collapsed
    await idle(gate)


async def test_different_requests_do_not_wait_for_each_other(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    tasks = await in_flight_together(gate, [plain(tensor([i])) for i in range(5)])
    await settle(lambda: len(model.requests) == 5, "a request waits")
    model.release.set()
    assert [a.json["outputs"][0]["data"] for a in await asyncio.gather(*tasks)] == [[i] for i in range(5)]


async def leader_and_followers(gate: Gate, model: Held) -> tuple[asyncio.StreamWriter, list[asyncio.Task[Answer]]]:
    _, leader = await gate.connect()
    leader.write(request("POST", INFER, json.dumps(plain()).encode()))
    await settle(lambda: len(model.requests) == 1, "no call was made")
    followers = [asyncio.create_task(ask(gate, plain())) for _ in range(10)]
    await settle(lambda: gate.proxy.busy() == 11, "the requests did not arrive")
    return leader, followers


async def test_the_leaders_client_leaving_does_not_fail_the_followers(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    leader, followers = await leader_and_followers(gate, model)
    leader.close()
    await settle(lambda: len(model.requests) == 2, "no follower took over")
    model.release.set()
    assert [a.status for a in await asyncio.gather(*followers)] == [200] * 10
    assert len(model.requests) == 2
    await idle(gate)


async def test_a_follower_that_leaves_harms_nobody(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    tasks = await in_flight_together(gate, [plain()] * 3)
    _, leaving = await gate.connect()
    leaving.write(request("POST", INFER, json.dumps(plain()).encode()))
    await settle(lambda: gate.proxy.busy() == 4, "the request did not arrive")
    leaving.close()
    await settle(lambda: gate.proxy.busy() == 3, "it was not noticed")
    model.release.set()
    assert [a.status for a in await asyncio.gather(*tasks)] == [200] * 3
    assert len(model.requests) == 1
    await idle(gate)


async def test_the_requests_own_fault_is_everybodys(site: Site) -> None:
    model = Held()
    model.then = failing(grpc.StatusCode.INVALID_ARGUMENT, "wrong")
    gate = await gate_to(site, model, cached=True)
    tasks = await in_flight_together(gate, [plain()] * 10)
    model.release.set()
    answers = await asyncio.gather(*tasks)
    assert [(a.status, error_of(a)) for a in answers] == [(400, "wrong")] * 10
    assert len(model.requests) == 1
    await idle(gate)


async def test_a_fault_of_the_server_is_not_shared(site: Site) -> None:
    model = Held()
    model.then = failing(grpc.StatusCode.INTERNAL, "broken")
    gate = await gate_to(site, model, cached=True)
    leader, followers = await leader_and_followers(gate, model)
    model.then, hold = echo, model.then

    async def first_fails(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        return await (hold if sent is model.requests[0] else echo)(sent, context)

    model.then = first_fails
    model.release.set()
    assert [a.status for a in await asyncio.gather(*followers)] == [200] * 10
    assert len(model.requests) == 2
    leader.close()
    await idle(gate)


async def test_without_endpoints_all_followers_are_told(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    leader, followers = await leader_and_followers(gate, model)
    gate.segment.set_health(0, False, 0)
    leader.close()
    answers = await asyncio.gather(*followers)
    assert [a.status for a in answers] == [503] * 10
    assert answers[0].headers["retry-after"] == "1"
    await idle(gate)


# Retries.


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_server_that_goes_away_is_passed_over(site: Site, code: grpc.StatusCode) -> None:
    going, staying = ModelServer(failing(code, "shutting down")), ModelServer()
    gate = await gate_to(site, going, staying)
    assert [(await ask(gate, plain())).status for _ in range(6)] == [200] * 6
    assert going.requests
    assert len(staying.requests) == 6
    assert gate.total(2)[10] == len(going.requests)  # retries
    await idle(gate)


async def test_a_broken_connection_is_tried_on_another_endpoint(site: Site) -> None:
    dying, model = Dying(), ModelServer()
    gate = await site.gate([await site.endpoint(dying), await site.model(model)], pool=OIP)
    assert [(await ask(gate, plain())).status for _ in range(6)] == [200] * 6
    assert dying.requests
    assert len(model.requests) == 6
    await idle(gate)


async def test_an_endpoint_that_refuses_is_passed_over(site: Site) -> None:
    model = ModelServer()
    gate = await site.gate([f"127.0.0.1:{free_port()}", await site.model(model)], pool=OIP)
    assert [(await ask(gate, plain())).status for _ in range(6)] == [200] * 6
    await idle(gate)
    nobody = await site.gate([f"127.0.0.1:{free_port()}"], pool=OIP)
    answer = await ask(nobody, plain())
    assert (answer.status, bool(error_of(answer))) == (502, True)
    await idle(nobody)


async def test_retries_have_a_limit(site: Site) -> None:
    servers = [ModelServer(failing(grpc.StatusCode.UNAVAILABLE, "no")) for _ in range(4)]
    gate = await gate_to(site, *servers, pool={"retries": 2})
    assert (await ask(gate, plain())).status == 503
    assert sum(len(s.requests) for s in servers) == 3
    assert max(len(s.requests) for s in servers) == 1
    await idle(gate)


@pytest.mark.parametrize("sequence", [5, "conversation-5"])
async def test_sequences_are_never_tried_again(site: Site, sequence: int | str) -> None:
    """Their state lives in one endpoint, which may have moved on."""
    dying, model = Dying(), ModelServer(failing(grpc.StatusCode.UNAVAILABLE, "no"))
    gate = await site.gate([await site.endpoint(dying), await site.model(model)], pool={**OIP, "retries": 3})
    body = plain(parameters={"sequence_id": sequence, "sequence_start": True})
    answers = sorted([(await ask(gate, body)).status for _ in range(2)])
    assert answers == [502, 503]
    assert dying.requests == len(model.requests) == 1
    await idle(gate)


# Deadlines and clients that leave.


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({"pool": {"response_timeout_ns": SECOND // 10}}, plain()),
        ({"route": {"timeout_ns": SECOND // 10}}, plain()),
        ({}, plain(parameters={"timeout": 100_000})),
    ],
    ids=["pool", "route", "request"],
)
@pytest.mark.parametrize("cached", [False, True])
async def test_a_deadline_passes(site: Site, options: dict[str, Any], body: Any, cached: bool) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=cached, **options)
    answer = await ask(gate, body)
    assert (answer.status, bool(error_of(answer))) == (504, True)
    await idle(gate)
    await settle(lambda: model.cancelled == 1, "the server was not told")
    model.release.set()
    assert (await ask(gate, plain())).status == 200  # on the same connection


async def test_the_server_is_told_the_deadline(site: Site) -> None:
    seen: list[float] = []

    async def remember(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        seen.append(context.time_remaining())
        return await echo(sent, context)

    gate = await gate_to(site, ModelServer(remember), route={"timeout_ns": 5 * SECOND})
    assert (await ask(gate, plain())).status == 200
    assert 0 < seen[0] <= 5.1


async def test_a_client_that_leaves_frees_the_slot(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model)
    _, writer = await gate.connect()
    writer.write(request("POST", INFER, json.dumps(plain()).encode()))
    await settle(lambda: gate.in_flight() == 1 and len(model.requests) == 1, "the request did not arrive")
    writer.close()
    await idle(gate)
    await settle(lambda: model.cancelled == 1, "the server was not told")


async def test_a_slow_client_does_not_hold_the_endpoint(site: Site) -> None:
    gate = await gate_to(site, ModelServer())
    body, headers = binary((tensor([], shape=[8 * MIB]), bytes(32 * MIB)))
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=65536)
    writer.write(request("POST", INFER, body, headers))
    await settle(lambda: gate.total(10)[1] == 1 and gate.in_flight() == 0, "the answer did not come")
    got = 0
    while data := await asyncio.wait_for(reader.read(MIB), 30):
        got += len(data)
    assert got > 32 * MIB
    writer.close()
    await idle(gate)


async def test_no_endpoint_available(site: Site) -> None:
    gate = await gate_to(site, ModelServer(), cached=True)
    gate.segment.set_health(0, False, 0)
    answer = await ask(gate, plain())
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert error_of(answer)
    await idle(gate)


async def test_a_server_that_stops_gracefully_loses_nothing(site: Site) -> None:
    first, second = ModelServer(), ModelServer()
    gate = await gate_to(site, first, second)
    failures: list[str] = []
    stop = asyncio.Event()

    async def client() -> int:
        n = 0
        reader, writer = await gate.connect()
        with contextlib.closing(writer):
            while not stop.is_set():
                writer.write(request("POST", INFER, json.dumps(plain()).encode(), close=False))
                answer = await read_answer(reader)
                if answer.status != 200:
                    failures.append(f"{answer.status} {answer.body!r}")
                n += 1
        return n

    clients = [asyncio.create_task(client()) for _ in range(8)]
    await settle(lambda: len(first.requests) > 50, "no load")
    await first.server.stop(5)
    served = len(second.requests)
    await settle(lambda: len(second.requests) > served + 100, "the other one does not go on")
    stop.set()
    assert sum(await asyncio.gather(*clients)) > 100
    assert failures == []
    await idle(gate)
