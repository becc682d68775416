"""The REST half of the protocol, on the same port as gRPC."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from backend_process import Backend, infer_request
from test_backend_protocol import IMAGES, STRINGS, VALUES

from lb.wire import grpc_service_pb2 as wire

BINARY = "Inference-Header-Content-Length"


@pytest.fixture
async def client(server):
    async with httpx.AsyncClient(base_url=f"http://{server.targets[0]}", timeout=30) as client:
        yield client


@pytest.fixture
def connect(server):
    """A raw connection; `answers(n)` reads n whole answers."""
    host, _, port = server.targets[0].rpartition(":")
    opened = []

    def make() -> Raw:
        opened.append(Raw(socket.create_connection((host, int(port)), timeout=30)))
        return opened[-1]

    yield make
    for raw in opened:
        raw.socket.close()


class Raw:
    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        self.file = made.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, headless: bool = False) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        fields = {}
        while line := self.file.readline().strip().decode():
            name, _, value = line.partition(": ")
            fields[name.lower()] = value
        if status == 100 or headless:
            return status, fields, b""
        return status, fields, self.file.read(int(fields["content-length"]))

    def over(self) -> bool:
        return self.file.read(1) == b""


def request(path: str, body: bytes, *lines: str, method: str = "POST") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


def as_json(**fields: Any) -> bytes:
    return json.dumps({"inputs": [], **fields}).encode()


def image(rows: np.ndarray, **fields: Any) -> bytes:
    tensor = {"name": "image", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}
    return as_json(inputs=[tensor], **fields)


INFER = "/v2/models/digits/infer"


async def test_json_answers_equal_those_of_grpc(client, stub):
    answer = (await client.post(INFER, content=image(IMAGES[:3], id="a"))).json()
    same = await stub.ModelInfer(infer_request("digits", ("image", "FP32", IMAGES[:3])))
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("digits", "1", "a")
    label, probabilities = answer["outputs"]
    assert label["data"] == np.frombuffer(same.raw_output_contents[0], "<i8").tolist()
    assert probabilities["shape"] == [3, 10]
    np.testing.assert_array_equal(
        np.array(probabilities["data"], np.float32), np.frombuffer(same.raw_output_contents[1], "<f4")
    )


@pytest.mark.parametrize("datatype", [*VALUES, "BYTES"])
async def test_every_datatype_passes_in_binary(client, datatype):
    if datatype == "BYTES":
        raw = b"".join(len(one).to_bytes(4, "little") + one for one in STRINGS)
    else:
        dtype, values, _ = VALUES[datatype]
        raw = np.array(values, dtype).tobytes()
    head = as_json(
        inputs=[{"name": "x", "datatype": datatype, "shape": [2, 3], "parameters": {"binary_data_size": len(raw)}}],
        parameters={"binary_data_output": True},
    )
    answer = await client.post(
        f"/v2/models/echo_{datatype.lower()}/infer", content=head + raw, headers={BINARY: str(len(head))}
    )
    assert answer.status_code == 200, answer.text
    assert answer.content[int(answer.headers[BINARY]) :] == raw
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_large_tensors(client):
    rows = np.random.default_rng(3).standard_normal((200_000, 3)).astype("<f4")
    raw = rows.tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [200_000, 3], "parameters": {"binary_data_size": len(raw)}}
    head = as_json(inputs=[tensor], parameters={"binary_data_output": True})
    answer = await client.post("/v2/models/echo_fp32/infer", content=head + raw, headers={BINARY: str(len(head))})
    assert answer.content[int(answer.headers[BINARY]) :] == raw
    answer = await client.post(
        "/v2/models/echo_fp32/infer",
        content=as_json(inputs=[{"name": "x", "datatype": "FP32", "shape": [2000, 3], "data": rows[:2000].tolist()}]),
    )
    np.testing.assert_array_equal(np.array(answer.json()["outputs"][0]["data"], "<f4"), rows[:2000].reshape(-1))


async def test_raw_binary_requests(client):
    """The bytes of a model's only input, without JSON."""
    for name, raw in (("echo_fp32", np.arange(3, dtype="<f4").tobytes()), ("echo_int8", bytes(range(3)))):
        answer = await client.post(f"/v2/models/{name}/infer", content=raw, headers={BINARY: "0"})
        assert answer.status_code == 200, answer.text
        assert answer.content[int(answer.headers[BINARY]) :] == raw
    answer = await client.post("/v2/models/nope/infer", content=b"1234", headers={BINARY: "0"})
    assert (answer.status_code, "unknown model" in answer.json()["error"]) == (404, True)
    answer = await client.post("/v2/models/echo_bytes/infer", content=b"text", headers={BINARY: "0"})
    assert (answer.status_code, "shape [1]" in answer.json()["error"]) == (400, True)


async def test_concurrent_requests_get_their_own_answers(client, stub):
    bodies = [image(IMAGES[i % 16 : i % 16 + 1], id=str(i)) for i in range(100)]
    answers = [answer.json() for answer in await asyncio.gather(*[client.post(INFER, content=b) for b in bodies])]
    alone = [await stub.ModelInfer(infer_request("digits", ("image", "FP32", IMAGES[i : i + 1]))) for i in range(16)]
    for index, answer in enumerate(answers):
        assert answer["id"] == str(index)
        expected = np.frombuffer(alone[index % 16].raw_output_contents[0], "<i8").tolist()
        assert answer["outputs"][0]["data"] == expected


async def test_rare_routes(client, stub):
    assert (await client.get("/v2")).json()["name"] == "tidegate-backend"
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert (await client.get("/v2/health/ready")).json() == {"ready": True}
    assert (await client.get("/v2/models/digits/ready")).json() == {"name": "digits", "ready": True}
    assert (await client.get("/v2/models/nope/ready")).status_code == 400
    metadata = (await client.get("/v2/models/scale/versions/2")).json()
    assert metadata["versions"] == ["2", "10"]
    assert (await client.get("/v2/models/scale/config")).json()["max_batch_size"] == 32
    statistics = (await client.get("/v2/models/digits/stats")).json()["model_stats"][0]
    counted = await stub.ModelStatistics(wire.ModelStatisticsRequest(name="digits"))
    assert statistics["inference_count"] == counted.model_stats[0].inference_count
    index = (await client.post("/v2/repository/index")).json()
    assert {"name": "digits", "version": "1", "state": "READY", "reason": ""} in index
    answer = await client.post("/v2/repository/models/digits/load", content=b"{}")
    assert answer.status_code in (400, 501)
    assert answer.json()["error"]


async def test_metrics(client):
    await client.post(INFER, content=image(IMAGES[:2]))
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert int(lines['nv_inference_count{model="digits",version="1"}']) >= 2
    assert 'nv_inference_pending_request_count{model="scale",version="10"}' in lines
    for line in answer.text.splitlines():
        assert line.startswith(("# HELP nv_", "# TYPE nv_", "nv_"))


WRONG = {
    "unknown model": ("POST", "/v2/models/nope/infer", image(IMAGES[:1]), 404, "unknown model 'nope'"),
    "unknown version": ("POST", "/v2/models/digits/versions/7/infer", image(IMAGES[:1]), 404, "no version '7'"),
    "no body": ("POST", INFER, b"", 400, "not valid JSON"),
    "no JSON": ("POST", INFER, b"{", 400, "not valid JSON"),
    "other shape": ("POST", INFER, image(IMAGES[:1, :5]), 400, "expected shape [-1,64], got [1,5]"),
    "no inputs": ("POST", INFER, as_json(), 400, "input"),
    "unknown path": ("GET", "/v3", b"", 404, "Not Found"),
    "wrong verb": ("GET", INFER, b"", 405, "Method Not Allowed"),
    "wrong verb of metrics": ("POST", "/metrics", b"", 405, "Method Not Allowed"),
    "wrong verb of loading": ("GET", "/v2/repository/models/digits/load", b"", 405, "Method Not Allowed"),
    "extension that is not offered": (
        "POST",
        "/v2/cudasharedmemory/region/r/register",
        b'{"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 4}',
        501,
        "CUDA shared memory is not offered",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_cannot_be_right(client, case):
    method, path, body, status, text = WRONG[case]
    answer = await client.request(method, path, content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert text in answer.json()["error"]
    assert (await client.get("/v2/health/live")).status_code == 200  # on the same connection


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_compressed_bodies(client, encoding):
    pack = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[encoding]
    answer = await client.post(
        INFER,
        content=pack(image(IMAGES)),
        headers={"Content-Encoding": encoding, "Accept-Encoding": encoding},
    )
    assert answer.status_code == 200
    assert answer.headers.get("content-encoding", "identity") == encoding
    assert len(answer.json()["outputs"][0]["data"]) == 16


async def test_bodies_that_are_not_what_they_say(client):
    answer = await client.post(INFER, content=b"nonsense", headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, "damaged" in answer.json()["error"]) == (400, True)
    answer = await client.post(INFER, content=b"nonsense", headers={"Content-Encoding": "br"})
    assert (answer.status_code, "'br' is not supported" in answer.json()["error"]) == (501, True)


def test_pipelined_requests_are_answered_in_their_order(connect):
    raw = connect()
    raw.send(b"".join(request(INFER, image(IMAGES[:1], id=str(i))) for i in range(20)))
    assert [json.loads(raw.answer()[2])["id"] for _ in range(20)] == [str(i) for i in range(20)]


def test_a_request_in_pieces(connect):
    raw = connect()
    for octet in request(INFER, image(IMAGES[:1])):
        raw.send(bytes([octet]))
    assert raw.answer()[0] == 200


def test_a_chunked_body(connect):
    raw = connect()
    body = image(IMAGES[:1])
    pieces = [body[at : at + 37] for at in range(0, len(body), 37)]
    chunks = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    raw.send(f"POST {INFER} HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    raw.send(chunks + b"0\r\n\r\n")
    assert raw.answer()[0] == 200


def test_who_expects_to_go_on_may(connect):
    raw = connect()
    body = image(IMAGES[:1])
    raw.send(request(INFER, body, "Expect: 100-continue")[: -len(body)])
    assert raw.answer()[0] == 100
    raw.send(body)
    assert raw.answer()[0] == 200


def test_the_end_of_connections(connect):
    raw = connect()
    raw.send(request(INFER, image(IMAGES[:1]), "Connection: close"))
    assert raw.answer()[1]["connection"] == "close"
    assert raw.over()
    raw = connect()
    raw.send(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert raw.answer()[1]["connection"] == "close"
    assert raw.over()


def test_head(connect):
    raw = connect()
    raw.send(request("/v2", b"", method="HEAD") + request("/v2", b"", method="GET"))
    _, fields, _ = raw.answer(headless=True)
    assert len(raw.answer()[2]) == int(fields["content-length"])


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: much\r\nContent-Length: 1\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 2000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nlong: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (request(INFER, b"{}", f"{BINARY}: -1"), 400),
        (b"GET /v2/health/live HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"PRISM / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ],
)
def test_hostile_requests_are_refused_and_the_server_goes_on(connect, data, status):
    raw = connect()
    raw.send(data)
    if data.startswith(b"PRI"):
        assert b"HTTP/1" not in raw.file.read()  # HTTP/2 that is none
    else:
        assert raw.answer()[0] == status
        assert raw.over()
    other = connect()
    other.send(request("/v2/health/live", b"", method="GET"))
    assert other.answer()[0] == 200


def test_clients_that_leave_leave_nothing(connect, server):
    for cut in (10, 60, 200, -1):
        raw = connect()
        raw.send(request(INFER, image(IMAGES[:1]))[:cut])
        raw.socket.close()
    for _ in range(50):
        raw = connect()
        raw.send(request("/v2/models/slow/infer", SLOW))
        raw.socket.close()
    other = connect()
    other.send(request(INFER, image(IMAGES[:1])))
    assert other.answer()[0] == 200


SLOW = as_json(inputs=[{"name": "count", "datatype": "INT64", "shape": [], "data": [10]}])


def test_requests_under_way_are_answered_on_sigterm(repository, second):
    with Backend(repository, "--concurrency", "1") as backend:
        backend.wait_ready()
        host, _, port = backend.targets[0].rpartition(":")
        busy, idle = (Raw(socket.create_connection((host, int(port)), timeout=30)) for _ in range(2))
        idle.send(request("/v2/health/live", b"", method="GET"))
        assert idle.answer()[0] == 200
        count = {"name": "count", "datatype": "INT64", "shape": [], "data": [second // 2]}
        busy.send(request("/v2/models/slow/infer", as_json(inputs=[count])))
        idle.send(request("/v2/health/ready", b"", method="GET"))
        assert idle.answer()[0] == 200
        backend.signal()
        assert idle.over()
        status, fields, _ = busy.answer()
        assert (status, fields["connection"]) == (200, "close")
        assert busy.over()
        assert backend.wait() == 0
        for raw in (busy, idle):
            raw.socket.close()
