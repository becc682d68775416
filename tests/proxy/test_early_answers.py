"""Answers that are complete before their request is: the client of HTTP/1.1 is told that its connection ends, or keeps
it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from datapath import SECOND, Gate, Site, settle
from h2_client import h2_client
from hyperframe.frame import HeadersFrame
from scripted_peer import Peer, Scripted

HTTP2_POOL = {"protocol": "http2"}
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
LENGTH = b"Content-Length: 300000\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
HALF = bytes(150_000)


class Early:
    """An endpoint that answers requests before their bodies: the head alone first, the rest when told to."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.go_on = asyncio.Event()
        self.requests = 0

    async def http2(self, peer: Peer) -> None:
        await peer.settle()
        while True:
            stream = (await peer.wait_for(HeadersFrame)).stream_id
            self.requests += 1
            peer.headers(stream, (":status", str(self.status)), ("content-length", "2"))
            await self.go_on.wait()
            peer.data(stream, b"ok", end=True)

    async def http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"\r\n\r\n" in await reader.read(1 << 16):  # else it is of the body, or the end
            self.requests += 1
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n" % self.status)
            await self.go_on.wait()
            writer.write(b"ok")


Use = Callable[[Gate, Early], Awaitable[None]]


async def with_gate(site: Site, version: int, use: Use, status: int = 200, **options: Any) -> None:
    early = Early(status)
    if version == 1:
        await use(await site.gate([await site.endpoint(early.http1)], **options), early)
        return
    async with Scripted(early.http2) as address:
        await use(await site.gate([address], pool=HTTP2_POOL, **options), early)


@pytest.fixture(params=[1, 2], ids=["http1", "http2"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def begun(gate: Gate, early: Early, framing: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """A connection whose request is there by half and has its whole answer, and that answer's head."""
    reader, writer = await gate.connect()
    writer.write(POST + framing + (b"%x\r\n" % (2 * len(HALF)) if framing == CHUNKED else b"") + HALF)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    early.go_on.set()
    assert await asyncio.wait_for(reader.readexactly(2), 20) == b"ok"
    await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
    return reader, writer, head


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED])
async def test_the_rest_of_the_request_is_read_away(site: Site, version: int, framing: bytes) -> None:
    async def use(gate: Gate, early: Early) -> None:
        reader, writer, head = await begun(gate, early, framing)
        assert b"connection: close" not in head.lower()
        end = b"\r\n0\r\nX-Trailer: 1\r\n\r\n" if framing == CHUNKED else b""
        for piece in (HALF, end + POST + b"Content-Length: 0\r\n\r\nGET /one"):
            writer.write(piece)
            await writer.drain()
        for rest in (b"", b" HTTP/1.1\r\nHost: a\r\n\r\n"):
            writer.write(rest)
            answer = await asyncio.wait_for(reader.readuntil(b"ok"), 20)
            assert answer.startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert early.requests == 3
        await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")

    await with_gate(site, version, use)


@pytest.mark.parametrize("status", [303, 401, 413, 503])
async def test_an_answer_that_takes_no_body_is_the_connections_last(site: Site, version: int, status: int) -> None:
    async def use(gate: Gate, early: Early) -> None:
        reader, writer, head = await begun(gate, early, LENGTH)
        assert b"\r\nConnection: close\r\n" in head
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()

    await with_gate(site, version, use, status=status)


async def test_an_answer_of_a_head_alone_is_the_connections_last(site: Site) -> None:
    async def script(peer: Peer) -> None:
        await peer.settle()
        stream = (await peer.wait_for(HeadersFrame)).stream_id
        peer.headers(stream, (":status", "200"), end=True)
        await peer.wait_for(HeadersFrame)

    async with Scripted(script) as address:
        gate = await site.gate([address], pool=HTTP2_POOL)
        answer = await gate.exchange(POST + LENGTH)
        assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("rest", [b"\r\nno chunk\r\n", b"\r\n1;" + b"x" * 700_000, b"\r\n%x\r\n" % 100_000 + HALF])
async def test_a_rest_that_is_refused_gets_no_second_answer(site: Site, version: int, rest: bytes) -> None:
    """No chunk, too much around the chunks, and more than `max_body`."""

    async def use(gate: Gate, early: Early) -> None:
        reader, writer, _ = await begun(gate, early, CHUNKED)
        writer.write(HALF + rest)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")

    await with_gate(site, version, use, route={"max_body": 350_000})


async def test_the_rest_has_the_time_of_a_body(site: Site, version: int) -> None:
    async def use(gate: Gate, early: Early) -> None:
        reader, writer, _ = await begun(gate, early, LENGTH)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")

    await with_gate(site, version, use, listener={"body_timeout_ns": 2 * SECOND})


async def test_a_drain_does_not_wait_for_the_rest(site: Site, version: int) -> None:
    async def use(gate: Gate, early: Early) -> None:
        reader, writer, _ = await begun(gate, early, LENGTH)
        gate.proxy.drain()
        assert await asyncio.wait_for(reader.read(), 20) == b""
        assert gate.proxy.busy() == 0
        writer.close()
        await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")

    await with_gate(site, version, use)


async def test_over_http2_in_front_other_streams_go_on(site: Site, version: int) -> None:
    async def use(gate: Gate, early: Early) -> None:
        early.go_on.set()
        async with h2_client(gate.port) as client, asyncio.timeout(20):
            stream = client.request("/", method="POST", end=False)
            await client.send(stream, HALF[:10_000], end=False)
            assert (await client.answer(stream)).status == 200
            assert (await client.fetch("/")).status == 200

    await with_gate(site, version, use)
