"""gRPC-Web through the gate to grpcio, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from datapath import SECOND, Gate, Site
from h2_client import h2_client
from oip_site import ModelServer
from ports import free_port
from test_grpc import GRPC_POOL, service

from lb.config.plan.plan import SequencePlan
from lb.wire.grpc_service_pb2 import ModelInferRequest

BINARY = "application/grpc-web+proto"
TEXT = "application/grpc-web-text+proto"


def message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


def frames(body: bytes) -> list[tuple[int, bytes]]:
    found = []
    while body:
        n = int.from_bytes(body[1:5], "big")
        found.append((body[0], body[5 : 5 + n]))
        body = body[5 + n :]
    return found


def decoded(text: bytes) -> bytes:
    """Base64 whose pieces were encoded each for itself."""
    return b"".join(base64.b64decode(text[i : i + 4]) for i in range(0, len(text), 4))


async def call(gate: Gate, http: str, method: str, kind: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
    fields = [("content-type", kind), ("x-grpc-web", "1")]
    if http == "2":
        async with h2_client(gate.port) as client:
            answer = await client.fetch(f"/test.Kinds/{method}", body=body, fields=fields)
            return answer.status, dict(answer.fields), answer.body
    head = f"POST /test.Kinds/{method} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields)
    raw = await gate.exchange(head.encode() + b"\r\n" + body)
    first, _, rest = raw.partition(b"\r\n\r\n")
    lines = first.decode().split("\r\n")
    named = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    if named.get("transfer-encoding") == "chunked":
        whole = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            whole += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        rest = whole
    return int(lines[0].split()[1]), named, rest


@pytest.mark.parametrize("http", ["1.1", "2"])
@pytest.mark.parametrize("kind", [BINARY, TEXT])
async def test_a_call_and_its_trailers(site: Site, http: str, kind: str) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        sent = message(b"hello" * 1000)
        status, fields, body = await call(gate, http, "Unary", kind, base64.b64encode(sent) if kind == TEXT else sent)
        assert status == 200
        assert fields["content-type"].startswith(kind.partition("+")[0])
        assert fields["x-first"] == "1"
        (flag, data), (last, trailers) = frames(decoded(body) if kind == TEXT else body)
        assert (flag, data) == (0, b"hello" * 1000)
        assert last == 0x80
        assert b"grpc-status: 0\r\n" in trailers
        assert b"x-last: 2\r\n" in trailers
        assert gate.in_flight() == 0


async def test_a_stream_of_messages(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        _, _, body = await call(gate, "1.1", "Down", TEXT, base64.b64encode(message(b"50")))
        *messages, (last, _) = frames(decoded(body))
        assert [data for _, data in messages] == [b"%d" % i * 100 for i in range(50)]
        assert last == 0x80


@pytest.mark.parametrize("http", ["1.1", "2"])
async def test_errors_are_a_status_of_grpc(site: Site, http: str) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        status, fields, body = await call(gate, http, "Fail", BINARY, message(b""))
        said: dict[str, Any] = {**fields}
        for flag, data in frames(body):
            assert flag == 0x80
            said |= dict(line.split(": ", 1) for line in data.decode().splitlines())
        assert (status, said["grpc-status"]) == (200, "9")
        bad_status, bad, _ = await call(gate, http, "Unary", TEXT, b"!!!!")
        assert (bad_status, bad["grpc-status"]) == (200, "13")
    gone = await site.gate([f"127.0.0.1:{free_port()}"], pool=GRPC_POOL)
    status, fields, _ = await call(gone, http, "Unary", BINARY, message(b""))
    assert (status, fields["grpc-status"]) == (200, "14")
    assert fields["content-type"] == BINARY


async def test_what_a_message_says_counts_when_it_comes_with_the_head(site: Site) -> None:
    """Its sequence is not open: the endpoint must not see it."""
    model = ModelServer()
    sequences = SequencePlan(idle_ns=20 * SECOND, drain_ns=SECOND)
    gate = await site.gate([await site.model(model)], pool={"protocol": "oip", "sequence": sequences})
    sent = ModelInferRequest(model_name="m")
    sent.parameters["sequence_id"].int64_param = 7
    body = message(sent.SerializeToString())
    head = "POST /inference.GRPCInferenceService/ModelInfer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    head += f"Content-Type: {BINARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = await gate.exchange(head.encode() + body)
    assert b"the sequence is not open" in answer
    assert not model.requests
