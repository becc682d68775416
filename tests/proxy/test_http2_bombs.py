"""Header blocks that decode to many times their size, from clients and from endpoints (RFC 7541 section 7.3)."""

from __future__ import annotations

import asyncio

import h2.errors
import pytest
from datapath import HTTP2, SECOND, Site, settle
from h2_client import frame, h2_client
from http2_front import gate_to
from hyperframe.frame import HeadersFrame
from msgspec.structs import replace
from scripted_peer import Peer, Scripted

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
HEADERS, GOAWAY, CONTINUATION = 1, 7, 9
END_STREAM, END_HEADERS = 1, 4
# :method GET or POST, :scheme http, :path /, :authority x (RFC 7541 appendix A).
GET = b"\x82\x86\x84\x41\x01x"
POST = b"\x83\x86\x84\x41\x01x"
STATUS_200 = b"\x88"
# A field of 3,998 bytes that the decoder keeps, and one byte that repeats it.
KEPT = b"\x40\x01a\x7f\x80\x1e" + b"b" * 3997
REPEATED = b"\xbe"
BOMB = KEPT + REPEATED * 10_000

ATTACKS = {
    "a request": frame(HEADERS, END_HEADERS | END_STREAM, 1, GET + BOMB),
    "in pieces": frame(HEADERS, END_STREAM, 1, GET + KEPT)
    + frame(CONTINUATION, 0, 1, REPEATED * 5000)
    + frame(CONTINUATION, 0, 1, REPEATED * 5000),
    "a refused stream": frame(HEADERS, END_HEADERS, 1, POST) + frame(HEADERS, END_HEADERS | END_STREAM, 3, GET + BOMB),
    "trailers": frame(HEADERS, END_HEADERS, 1, POST) + frame(HEADERS, END_HEADERS | END_STREAM, 1, BOMB),
    "a broken request": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82" + BOMB),
    "small fields": frame(HEADERS, END_HEADERS | END_STREAM, 1, GET + b"\x84" * 15_000),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_bomb_ends_its_connection(site: Site, attack: str) -> None:
    """With ENHANCE_YOUR_CALM, wherever it comes; others are served."""
    gate = await gate_to(site, listener={"http2": replace(HTTP2, max_streams=1)})
    async with h2_client(gate.port) as other:
        assert (await other.fetch("/")).status == 200
        reader, writer = await gate.connect()
        writer.write(PREFACE + ATTACKS[attack])
        said = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        last = said[-17:]
        assert last[3] == GOAWAY
        assert int.from_bytes(last[13:], "big") == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        assert (await other.fetch("/")).status == 200
    assert gate.total(1)["http2_floods"] == 1
    await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_a_few_times_the_limit_is_431(site: Site) -> None:
    """A client with too many cookies is told so, and the connection lives."""
    gate = await gate_to(site)
    async with h2_client(gate.port) as client:
        for _ in range(3):
            assert (await client.fetch("/", fields=[(f"x-{n}", "v" * 3000) for n in range(45)])).status == 431
            assert (await client.fetch("/")).status == 200
    assert gate.total(1)["http2_floods"] == 0


async def forever(peer: Peer) -> None:
    while True:
        await peer.next_frame()


@pytest.mark.parametrize("where", ["head", "trailers"])
async def test_an_endpoint_that_sends_a_bomb_loses_its_connection(site: Site, where: str) -> None:
    connections = []

    async def script(peer: Peer) -> None:
        connections.append(peer)
        await peer.settle()
        stream = (await peer.wait_for(HeadersFrame)).stream_id
        if where == "trailers":
            peer.writer.write(frame(HEADERS, END_HEADERS, stream, STATUS_200))
            peer.writer.write(frame(HEADERS, END_HEADERS | END_STREAM, stream, BOMB))
        else:
            peer.writer.write(frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200 + BOMB))
        await forever(peer)

    async with Scripted(script) as address:
        pool = {"protocol": "http2", "retries": 0, "response_timeout_ns": 20 * SECOND}
        gate = await site.gate([address], pool=pool)
        async with h2_client(gate.port) as client:
            for _ in range(2):
                answer = await client.fetch("/")
                assert answer.status == 502 or answer.reset is not None
        assert len(connections) == 2
    assert gate.in_flight() == 0
