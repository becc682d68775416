"""HTTP/2 in front, HTTP/1.1 and model servers behind."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import h2.errors
import h2.settings
import pytest
from datapath import HTTP2, Site, settle
from h2_client import frame, h2_client
from http2_front import answering, gate_to, plain, read_request
from msgspec.structs import replace
from oip_site import OIP, ModelServer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def test_a_request_and_its_answer(site: Site) -> None:
    gate = await gate_to(site)
    async with h2_client(gate.port) as client:
        answer = await client.fetch("/a?b=c", fields=[("x-own", "1"), ("te", "trailers")])
    assert answer.status == 200
    assert answer.field_of("x-upper") == "Yes"
    first, fields = json.loads(answer.body)
    assert first == "GET /a?b=c HTTP/1.1"
    named = {name.lower(): value for name, value in fields}
    assert named["host"] == "example.org"
    assert named["x-own"] == "1"
    assert named["te"] == "trailers"
    assert named["x-forwarded-for"] == "127.0.0.1"
    assert "content-length" not in named
    assert "transfer-encoding" not in named


@pytest.mark.parametrize("size", [1, 16384, 3 << 20])
@pytest.mark.parametrize("known", [True, False])
async def test_bodies_stream_both_ways(site: Site, size: int, known: bool) -> None:
    gate = await gate_to(site)
    body = bytes(i * 7 % 251 for i in range(1000)) * (size // 1000 + 1)
    body = body[:size]
    fields = [("content-length", str(size))] if known else []
    async with h2_client(gate.port) as client:
        answer = await client.fetch("/", body=body, fields=fields)
    assert answer.status == 200
    assert answer.body == body
    assert gate.in_flight() == 0


async def test_each_request_is_balanced_on_its_own(site: Site) -> None:
    counts: Counter[int] = Counter()

    def counting(number: int) -> Any:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await read_request(reader)
                counts[number] += 1
                writer.write(plain(b"x"))

        return handler

    gate = await site.gate([await site.endpoint(counting(i)) for i in range(2)])
    async with h2_client(gate.port) as client:
        answers = await asyncio.gather(*(client.fetch(f"/{i}") for i in range(60)))
    assert {a.status for a in answers} == {200}
    assert counts == {0: 30, 1: 30}


async def test_cookies_are_joined_and_authority_is_the_host(site: Site) -> None:
    gate = await gate_to(site)
    async with h2_client(gate.port) as client:
        answer = await client.fetch("/", fields=[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")])
        _, fields = json.loads(answer.body)
        assert [value for name, value in fields if name == "cookie"] == ["a=1; b=2; c=3"]
        same = await client.fetch("/", fields=[("host", "EXAMPLE.org")])
        assert [value for name, value in json.loads(same.body)[1] if name.lower() == "host"] == ["example.org"]
        other = await client.fetch("/", fields=[("host", "elsewhere.org")])
        assert other.reset == h2.errors.ErrorCodes.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("method", "answer", "status"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    ],
)
async def test_answers_without_a_body(site: Site, method: str, answer: bytes, status: int) -> None:
    gate = await gate_to(site, answering(answer))
    async with h2_client(gate.port) as client:
        for _ in range(2):
            got = await client.fetch("/", method=method)
            assert (got.status, got.body, got.reset) == (status, b"", None)


async def test_chunks_trailers_and_interim_answers_come_through(site: Site) -> None:
    gate = await gate_to(
        site,
        answering(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n"
            b"3\r\nabc\r\n0\r\nX-End: good\r\nHost: x\r\n\r\n"
        ),
    )
    async with h2_client(gate.port) as client:
        answer = await client.fetch("/")
    assert answer.body == b"abc"
    assert answer.trailers == [("x-end", "good")]
    assert ("link", "</a>") in answer.interim[0]


async def test_a_requests_trailers_go_behind_its_chunks(site: Site) -> None:
    seen: list[list[tuple[str, str]]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, fields, body = await read_request(reader)
        seen.append(fields)
        writer.write(plain(body))

    gate = await gate_to(site, handler)
    async with h2_client(gate.port) as client:
        stream = client.request("/", method="POST", end=False)
        await client.send(stream, b"body", end=False)
        client.h2.send_headers(stream, [("x-sum", "42")], end_stream=True)
        client.flush()
        answer = await client.answer(stream)
    assert answer.body == b"body"
    assert ("x-sum", "42") in seen[0]


async def test_expect_100_continue_is_answered(site: Site) -> None:
    gate = await gate_to(site)
    async with h2_client(gate.port) as client:
        stream = client.request("/", method="POST", fields=[("expect", "100-continue")], end=False)
        await settle(lambda: bool(client.answers[stream].interim), "no interim answer")
        await client.send(stream, b"hello")
        answer = await client.answer(stream)
    assert answer.interim[0][0] == (":status", "100")
    assert answer.body == b"hello"


async def test_a_cancelled_request_frees_its_slot(site: Site) -> None:
    begun = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        begun.set()
        await reader.read()

    gate = await gate_to(site, handler)
    async with h2_client(gate.port) as client:
        stream = client.request("/")
        await asyncio.wait_for(begun.wait(), 60)
        assert gate.in_flight() == 1
        client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        client.flush()
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
        assert gate.proxy.stats()["exchanges"] == 0


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        ({"path": "/none"}, 404),
        ({"path": "/only", "method": "DELETE"}, 405),
        ({"path": "/only", "authority": "a b"}, 400),
        ({"path": "nopath"}, 400),
        ({"path": "/only", "method": "BREW"}, 405),
        ({"path": "/only", "method": "PRI"}, 501),
    ],
)
async def test_what_is_rejected(site: Site, request_of: dict[str, str], status: int) -> None:
    gate = await gate_to(site, route={"path_kind": "prefix", "path": "/only", "methods": ("GET", "POST")})
    async with h2_client(gate.port) as client:
        answer = await client.fetch(**request_of)  # type: ignore[arg-type]
        assert answer.status == status or answer.reset == h2.errors.ErrorCodes.PROTOCOL_ERROR
        if answer.status:
            assert json.loads(answer.body)["error"]
        assert (await client.fetch("/only")).status == 200


async def test_a_body_over_the_limit_is_413(site: Site) -> None:
    gate = await gate_to(site, route={"max_body": 1000})
    async with h2_client(gate.port) as client:
        said = client.request("/", method="POST", fields=[("content-length", "1001")], end=False)
        assert (await client.answer(said)).status == 413
        unsaid = client.request("/", method="POST", end=False)
        client.h2.send_data(unsaid, bytes(1500))
        client.flush()
        assert (await client.answer(unsaid)).status == 413
        assert (await client.fetch("/", body=b"x")).status == 200


async def test_a_header_bomb_is_431(site: Site) -> None:
    gate = await gate_to(site)
    async with h2_client(gate.port) as client:
        many = await client.fetch("/", fields=[(f"x-{i}", "v") for i in range(200)])
        assert many.status == 431
        large = await client.fetch("/", fields=[(f"x-{i}", "v" * 3000) for i in range(10)])
        assert large.status == 431
        assert (await client.fetch("/")).status == 200


@pytest.mark.parametrize("cut", [1, 5, 23, 30])
async def test_the_preface_may_come_in_pieces(site: Site, cut: int) -> None:
    gate = await gate_to(site)
    _reader, writer = await gate.connect()
    data = PREFACE + frame(4, 0, 0)
    for i in range(0, len(data), cut):
        writer.write(data[i : i + cut])
        await asyncio.sleep(0.002)
    assert (await asyncio.wait_for(_reader.readexactly(9), 60))[3] == 4  # SETTINGS
    writer.close()


async def test_http1_is_spoken_beside_it_and_alone_where_http2_is_off(site: Site) -> None:
    gate = await gate_to(site)
    assert b"200 OK" in await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    off = await gate_to(site, listener={"http2": replace(HTTP2, enabled=False)})
    assert (await off.exchange(PREFACE)).startswith(b"HTTP/1.1 ")


async def test_inference_by_rest_over_http2(site: Site) -> None:
    model = ModelServer()
    gate = await site.gate([await site.model(model)], pool=OIP)
    body = json.dumps({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, 2]}]}).encode()
    async with h2_client(gate.port) as client:
        answers = await asyncio.gather(*(client.fetch("/v2/models/m/infer", body=body) for _ in range(20)))
        ready = await client.fetch("/v2/health/live")
    assert {a.status for a in answers} == {200}
    assert json.loads(answers[0].body)["outputs"][0]["data"] == [1.5, 2]
    assert ready.status in (200, 400, 404, 501)
    assert len(model.requests) == 20
