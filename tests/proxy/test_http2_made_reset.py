"""Clients that make the gate reset their streams (CVE-2025-8671): counted, and no work for others to wait behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from compiled.http2_sessions import bytes_looked
from datapath import HTTP2, Gate, Site, settle
from h2_client import frame, h2_client
from http2_front import answering, gate_to, plain
from hyperframe.frame import HeadersFrame, RstStreamFrame
from msgspec.structs import replace
from scripted_peer import Peer, Scripted
from test_gathered_pieces import segments

DATA, RST_STREAM, GOAWAY = 0, 3, 7
ENHANCE_YOUR_CALM = 11
GET = b"\x82\x86\x84\x41\x01a"
POST = b"\x83\x86\x84\x41\x01a"
START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)

Fault = Callable[[int], bytes]
FAULTS: dict[str, Fault] = {
    "a window of nothing": lambda n: frame(1, 5, n, GET) + frame(8, 0, n, bytes(4)),
    "a window that overflows": lambda n: frame(1, 5, n, GET) + frame(8, 0, n, b"\x7f\xff\xff\xff"),
    "data after the end": lambda n: frame(1, 5, n, GET) + frame(0, 1, n, b"x"),
    "a head after the end": lambda n: frame(1, 5, n, GET) + frame(1, 5, n, GET),
    "more than the length": lambda n: frame(1, 4, n, POST + b"\x0f\x0d\x011") + frame(0, 1, n, b"xy"),
    "less than the length": lambda n: frame(1, 4, n, POST + b"\x0f\x0d\x019") + frame(0, 1, n, b"xy"),
    "no body for the length": lambda n: frame(1, 5, n, POST + b"\x0f\x0d\x019"),
    "trailers without an end": lambda n: frame(1, 4, n, POST) + frame(1, 4, n, b"\x00\x01a\x01b"),
    "trailers of pseudo-header fields": lambda n: frame(1, 4, n, POST) + frame(1, 5, n, b"\x84"),
    "a head without a path": lambda n: frame(1, 5, n, b"\x82\x86\x41\x01a"),
    "a head with upper case": lambda n: frame(1, 5, n, GET + b"\x00\x01A\x01b"),
    "data behind its own reset": lambda n: frame(1, 4, n, POST) + frame(3, 0, n, b"\0\0\0\x08") + frame(0, 1, n, b"x"),
}


Frame = tuple[int, int, bytes]


async def next_frame(reader: asyncio.StreamReader) -> Frame:
    """Its kind, stream and payload."""
    header = await reader.readexactly(9)
    return header[3], int.from_bytes(header[5:], "big"), await reader.readexactly(int.from_bytes(header[:3], "big"))


async def body(reader: asyncio.StreamReader, stream: int) -> bytes:
    """Of the answer on this stream, which a frame has, on a connection that goes on."""
    async with asyncio.timeout(20):
        while (said := await next_frame(reader))[:2] != (DATA, stream):
            assert said[0] != GOAWAY
    return said[2]


@contextlib.asynccontextmanager
async def by_hand(gate: Gate) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await gate.connect()
    writer.write(START)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize("at_once", [1, 25])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_client_that_makes_us_reset_is_sent_away(site: Site, fault: str, at_once: int) -> None:
    gate = await gate_to(site, answering(plain(b"ok")), listener={"http2": replace(HTTP2, reset_rate=20)})
    async with by_hand(gate) as (reader, writer):
        code, resets = ENHANCE_YOUR_CALM, 0
        for first in range(1, 1000, 2 * at_once):
            writer.write(b"".join(FAULTS[fault](n) for n in range(first, first + 2 * at_once, 2)))
            await asyncio.sleep(0)
        # Its last words may be lost behind what was still sent.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            async with asyncio.timeout(20):
                while True:
                    kind, _, payload = await next_frame(reader)
                    resets += kind == RST_STREAM
                    code = int.from_bytes(payload[4:8], "big") if kind == GOAWAY else code
        assert code == ENHANCE_YOUR_CALM
        assert resets < 10  # 20 a second over five seconds, each for 25
        await honest_answer(gate)
    assert gate.total(1)["http2_floods"] == 1
    await settle(lambda: gate.in_flight() == 0, "slots are still taken")
    await settle(lambda: gate.proxy.stats()["exchanges"] == 0, "exchanges are left")


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_odd_fault_ends_its_stream_alone(site: Site, fault: str) -> None:
    gate = await gate_to(site, answering(plain(b"ok")), listener={"http2": replace(HTTP2, reset_rate=20)})
    async with by_hand(gate) as (reader, writer):
        writer.write(FAULTS[fault](1))
        writer.write(frame(1, 5, 3, GET))
        assert await body(reader, 3) == b"ok"
    assert gate.total(1)["http2_floods"] == 0


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_endpoint_sees_what_is_reset_while_it_is_read(site: Site, fault: str) -> None:
    """Each would be a connection of its own."""
    connections = 0

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answering(plain(b"ok"))(reader, writer)

    gate = await gate_to(site, endpoint, listener=UNBOUNDED)
    async with by_hand(gate) as (reader, writer):
        writer.write(b"".join(FAULTS[fault](n) for n in range(1, 51, 2)))
        writer.write(frame(1, 5, 51, GET))
        assert await body(reader, 51) == b"ok"
    assert connections == 1
    assert gate.in_flight() == 0


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_http2_endpoint_sees_what_is_reset_while_it_is_read(site: Site, fault: str) -> None:
    """Each would be a stream of the connection that it shares with others, and its reset."""
    seen: list[int] = []

    async def endpoint(peer: Peer) -> None:
        await peer.settle()
        while True:
            said = await peer.next_frame()
            if isinstance(said, HeadersFrame | RstStreamFrame):
                seen.append(said.stream_id)
            if isinstance(said, HeadersFrame):
                peer.begin(said.stream_id)
                peer.data(said.stream_id, b"ok", end=True)

    async with Scripted(endpoint) as address:
        gate = await site.gate([address], pool={"protocol": "http2"}, listener=UNBOUNDED)
        await honest_answer(gate)
        async with by_hand(gate) as (reader, writer):
            writer.write(b"".join(FAULTS[fault](n) for n in range(1, 51, 2)))
            writer.write(frame(1, 5, 51, GET))
            assert await body(reader, 51) == b"ok"
        assert seen == [1, 3]
        assert gate.in_flight() == 0


async def test_whoever_leaves_with_a_request_leaves_nothing(site: Site) -> None:
    gate = await gate_to(site, answering(plain(b"ok")))
    async with by_hand(gate) as (_, writer):
        writer.write(frame(1, 4, 1, POST))
        writer.write_eof()
    await settle(lambda: gate.proxy.stats()["exchanges"] == 0 and gate.in_flight() == 0, "something is left")
    await honest_answer(gate)


async def test_a_request_that_is_read_at_once_goes_out_at_once(site: Site) -> None:
    """With its body, although that comes behind the head, where there is a connection to take."""
    writes: list[int] = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            before = segments(writer)
            await reader.readuntil(b"\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
            writes.append(segments(writer) - before)
            writer.write(plain(b"ok"))

    gate = await gate_to(site, endpoint)
    async with by_hand(gate) as (reader, writer):
        async with asyncio.timeout(20):
            for stream in (1, 3):
                writer.write(frame(1, 4, stream, POST) + frame(0, 1, stream, b"body"))
                while (await next_frame(reader))[:2] != (DATA, stream):
                    pass
    assert writes[1] == 1


async def honest_answer(gate: Gate) -> None:
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(-1), 20)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def overtaken(gate: Gate, first: bytes, flood: bytes) -> tuple[int, int]:
    """How many bytes the gate has answered to a client that sends `flood` in one go, when one that came later has its
    answer; and in the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=1 << 26)
    writer.write(first)
    await asyncio.wait_for(reader.read(1), 20)
    count = 0

    async def read() -> None:
        nonlocal count
        while data := await reader.read(1 << 16):
            count += len(data)

    reading = asyncio.create_task(read())
    writer.write(flood)
    await honest_answer(gate)
    meanwhile = count
    await writer.drain()
    last = -1
    while last < count or count == 0:
        last = count
        await honest_answer(gate)
        await asyncio.sleep(0.1)
    reading.cancel()
    writer.close()
    return meanwhile, count


MANY = 4000
UNBOUNDED = {"http2": replace(HTTP2, reset_rate=1_000_000, control_rate=1_000_000)}


@pytest.mark.parametrize("fault", ["a window of nothing", "more than the length", "data after the end"])
async def test_whoever_comes_later_overtakes_the_resets(site: Site, fault: str) -> None:
    gate = await gate_to(site, answering(plain(b"ok")), listener=UNBOUNDED)
    flood = b"".join(FAULTS[fault](n) for n in range(1, 2 * MANY, 2))
    meanwhile, resets = await overtaken(gate, START, flood)
    assert resets >= 13 * MANY
    assert meanwhile < resets / 2


async def test_whoever_comes_later_overtakes_requests_that_are_answered_here(site: Site) -> None:
    gate = await gate_to(site, answering(plain(b"ok")), route={"path_kind": "exact", "path": "/"}, listener=UNBOUNDED)
    nowhere = b"\x82\x86\x44\x02/n\x41\x01a"
    flood = b"".join(frame(1, 5, n, nowhere) for n in range(1, 2 * MANY, 2))
    meanwhile, answers = await overtaken(gate, START + frame(8, 0, 0, b"\x3f\xff\xff\xff"), flood)
    assert meanwhile < answers / 2


async def test_what_waits_for_another_turn_is_not_looked_over_in_each(site: Site) -> None:
    """A flood that is read in one piece takes many turns."""
    gate = await gate_to(site, answering(plain(b"ok")), listener=UNBOUNDED)
    last = 8 * MANY - 1
    flood = b"".join(frame(1, 4, n, POST) for n in range(1, last + 1, 2))  # most of which are refused
    before = bytes_looked()
    async with by_hand(gate) as (reader, writer):
        writer.write(flood)
        async with asyncio.timeout(20):
            while (await next_frame(reader))[:2] != (RST_STREAM, last):
                pass
    # Each turn takes about two KiB and looks over sixteen, and once more over what it took.
    assert bytes_looked() - before < 16 * len(flood)


async def test_whoever_comes_later_overtakes_a_pipeline(site: Site) -> None:
    gate = await gate_to(site, answering(plain(b"ok")), route={"path_kind": "exact", "path": "/"})
    request = b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"
    meanwhile, answers = await overtaken(gate, request, request * MANY)
    assert answers > 100 * MANY
    assert meanwhile < answers / 2


async def test_a_pipeline_has_a_small_part_of_a_turn(site: Site) -> None:
    """How many of its requests are answered before another client that has sent one at the same time."""
    gate = await gate_to(site, answering(plain(b"ok")), route={"path_kind": "exact", "path": "/"})
    request = b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"
    loop = asyncio.get_running_loop()
    with socket.socket() as pipeline, socket.socket() as other:
        for sock in (pipeline, other):
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", gate.port))
            await loop.sock_sendall(sock, request)
            await loop.sock_recv(sock, 1 << 16)
        pipeline.send(request * 640)
        other.send(request)
        async with asyncio.timeout(20):
            assert await loop.sock_recv(other, 1 << 16)
        assert pipeline.recv(1 << 20).count(b"HTTP/1.1 404 ") < 100


async def test_a_body_in_tiny_chunks_arrives(site: Site) -> None:
    """It takes many turns."""
    came = asyncio.Event()
    size = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal size
        await reader.readuntil(b"\r\n\r\n")
        while n := int(await reader.readline(), 16):
            size += len(await reader.readexactly(n + 2)) - 2
        await reader.readline()
        came.set()
        writer.write(plain(b"ok"))

    gate = await gate_to(site, handler)
    body = b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await gate.exchange(head + body)).endswith(b"ok")
    assert size == 60_000


async def test_an_answer_in_tiny_chunks_arrives(site: Site) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    gate = await gate_to(site, answering(head + b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n"))
    async with h2_client(gate.port) as client:
        for _ in range(2):
            assert (await client.fetch("/")).body == b"x" * 60_000
