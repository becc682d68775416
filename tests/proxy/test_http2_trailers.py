"""Trailers of an HTTP/2 endpoint's answers, on their way to clients of HTTP/1.1."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from datapath import Gate, Site
from h2_client import h2_client
from hyperframe.frame import HeadersFrame
from scripted_peer import Peer, Scripted

LENGTH = ("content-length", "5")
TRAILER = ("trailer", "x-sum")
CLIENT = "Host: a\r\nConnection: close, TE\r\nTE: gzip;q=0.5, trailers\r\n"


@contextlib.asynccontextmanager
async def gate_to(site: Site, *fields: tuple[str, str]) -> AsyncIterator[Gate]:
    """Before an endpoint that answers with these fields, a body where there may be one, and a trailer."""

    async def script(peer: Peer) -> None:
        await peer.settle()
        while True:
            stream = (await peer.wait_for(HeadersFrame)).stream_id
            peer.headers(stream, (":status", "200"), *fields)
            peer.data(stream, b"hello")
            peer.finish(stream, ("x-sum", "1"))

    async with Scripted(script) as address:
        yield await site.gate([address], pool={"protocol": "http2"})


async def ask(gate: Gate, head: str = CLIENT, version: str = "1.1") -> tuple[str, str]:
    answer = (await gate.exchange(f"GET / HTTP/{version}\r\n{head}\r\n".encode())).decode()
    fields, _, body = answer.partition("\r\n\r\n")
    return fields.lower(), body


async def test_chunks_make_room_for_announced_trailers(site: Site) -> None:
    async with gate_to(site, LENGTH, TRAILER) as gate:
        fields, body = await ask(gate)
        assert "content-length" not in fields
        assert "transfer-encoding: chunked" in fields
        assert "trailer: x-sum" in fields
        assert body == "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "head", "version"),
    [
        ((LENGTH, TRAILER), "Host: a\r\nConnection: close\r\n", "1.1"),
        ((LENGTH, TRAILER), CLIENT, "1.0"),
        ((LENGTH,), CLIENT, "1.1"),
    ],
    ids=["unasked", "HTTP/1.0", "unannounced"],
)
async def test_else_the_length_stays(site: Site, answer: tuple[tuple[str, str], ...], head: str, version: str) -> None:
    async with gate_to(site, *answer) as gate:
        fields, body = await ask(gate, head, version)
        assert "content-length: 5" in fields
        assert "transfer-encoding" not in fields
        assert body == "hello"


async def test_over_http2_both_pass(site: Site) -> None:
    async with gate_to(site, LENGTH, TRAILER) as gate, h2_client(gate.port) as client, asyncio.timeout(20):
        answer = await client.fetch("/", fields=[("te", "trailers")])
        assert dict(answer.fields)["content-length"] == "5"
        assert answer.trailers == [("x-sum", "1")]
        assert answer.body == b"hello"
