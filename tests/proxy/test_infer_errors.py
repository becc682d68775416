"""Errors of the Open Inference Protocol over HTTP: whose fault it was, in the protocol's shape."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import grpc
import pytest
from datapath import Site
from infer_site import MIB, error_of, gate_to, idle
from oip_site import (
    INFER,
    ModelServer,
    ask,
    binary,
    failing,
    plain,
    read_answer,
    request,
    tensor,
)

from lb.wire import grpc_service_pb2 as wire

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
