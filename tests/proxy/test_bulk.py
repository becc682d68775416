"""Long bodies over HTTP/1.1, which pass the process through a pipe: whole, counted, held back, and broken off."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator
from functools import partial

import pytest
from compiled.exchange import bytes_passed
from datapath import SECOND, Gate, Site, settle

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter

KIB = 1 << 10
MIB = 1 << 20


async def echo(reader: Reader, writer: Writer) -> None:
    """Answers each request with its own body."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None
        body = await reader.readexactly(int(length[1]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()


def post(body: bytes, length: int | None = None) -> bytes:
    said = len(body) if length is None else length
    return b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (said, body)


async def answer(reader: Reader) -> bytes:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.startswith(b"HTTP/1.1 200 ")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    return await asyncio.wait_for(reader.readexactly(int(length[1])), 20)


async def idle(gate: Gate) -> None:
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "an exchange is left")
    series = gate.total(2)
    assert series["started"] == series["finished"]


def reached(target: int) -> bool:
    return bytes_passed() >= target


def gate_is_free(gate: Gate) -> bool:
    return gate.in_flight() == 0


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("piece", [1 << 30, 300_000, 70_001])
async def test_bodies_arrive_whole_however_they_are_cut(site: Site, piece: int) -> None:
    """Requests follow each other at once: what is behind the end of a body is the next one's head."""
    gate = await site.gate([await site.endpoint(echo)])
    dice = random.Random(piece)
    sizes = [5 * MIB, 128 * KIB, 128 * KIB - 1, 16 * KIB, MIB, 0, 20 * MIB, 144 * KIB + 1, 400]
    bodies = [dice.randbytes(size) for size in sizes]
    reader, writer = await gate.connect()

    async def send() -> None:
        async for part in pieces(b"".join(map(post, bodies)), piece):
            writer.write(part)
            await writer.drain()

    before = bytes_passed()
    sending = asyncio.create_task(send())
    for body in bodies:
        assert await answer(reader) == body
    await sending
    assert bytes_passed() - before > 20 * MIB  # there and back 52 MiB, but what is kept, or comes in small parts
    writer.close()
    await idle(gate)
    series = gate.total(2)
    assert series["received_bytes"] == series["sent_bytes"] == sum(sizes)


async def test_who_must_not_go_past_does_not(site: Site) -> None:
    """A chunked answer, and a request that is kept for another try, are looked at as ever."""

    async def chunked(reader: Reader, writer: Writer) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            assert length is not None
            body = await reader.readexactly(int(length[1]))
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    gate = await site.gate([await site.endpoint(chunked)], listener={"retry_buffer": 64 * MIB})
    body = random.Random(3).randbytes(3 * MIB)
    reader, writer = await gate.connect()
    before = bytes_passed()
    writer.write(post(body))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert b"Transfer-Encoding: chunked" in head
    got = b""
    while size := int(await reader.readline(), 16):
        got += await reader.readexactly(size)
        assert await reader.readline() == b"\r\n"
    assert got == body
    assert bytes_passed() == before
    writer.close()
    await idle(gate)


async def test_a_slow_client_holds_up_the_endpoint(site: Site) -> None:
    total, sent = 64 * MIB, 0
    block = random.Random(4).randbytes(64 * KIB)

    async def flood(reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(block)
            await writer.drain()
            sent += len(block)

    gate = await site.gate([await site.endpoint(flood)])
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=64 * KIB)
    before = bytes_passed()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    held = -1
    while held != sent:  # until the endpoint is held up
        held = sent
        await asyncio.sleep(0.3)
    assert sent < total // 2
    for _ in range(total // len(block)):
        assert await asyncio.wait_for(reader.readexactly(len(block)), 20) == block
    assert bytes_passed() > before
    writer.close()
    await idle(gate)


async def test_a_slow_endpoint_holds_up_the_client(site: Site) -> None:
    loop, body = asyncio.get_running_loop(), random.Random(5).randbytes(64 * MIB)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)  # else the kernel may hold all of it
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        gate = await site.gate([f"127.0.0.1:{listener.getsockname()[1]}"])
        reader, writer = await gate.connect()
        before = bytes_passed()
        writer.write(post(body))
        endpoint, _ = await asyncio.wait_for(loop.sock_accept(listener), 20)
        with endpoint:
            endpoint.setblocking(False)
            waiting = -1
            while waiting != (left := writer.transport.get_write_buffer_size()):  # until we are held up
                waiting = left
                await asyncio.sleep(0.3)
            assert waiting > len(body) // 4
            taken = bytearray()
            while len(taken) < len(body) or not taken.endswith(body[-100:]):
                taken += await asyncio.wait_for(loop.sock_recv(endpoint, 8 * MIB), 20)
            assert taken.endswith(b"\r\n\r\n" + body)
            await loop.sock_sendall(endpoint, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert await answer(reader) == b"ok"
    assert bytes_passed() > before
    writer.close()
    await idle(gate)


@pytest.mark.parametrize("abort", [False, True])
async def test_an_answer_that_breaks_off_cuts_the_client(site: Site, abort: bool) -> None:
    sent = asyncio.Event()

    async def breaking(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (20 * MIB, bytes(3 * MIB)))
        await writer.drain()
        await sent.wait()
        if abort:
            writer.transport.abort()
        else:
            writer.close()

    gate = await site.gate([await site.endpoint(breaking)])
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    await asyncio.wait_for(reader.readexactly(2 * MIB), 20)
    sent.set()
    try:
        rest = await asyncio.wait_for(reader.read(-1), 20)
    except ConnectionResetError:
        rest = b""
    assert len(rest) <= MIB
    writer.close()
    await idle(gate)


async def test_a_client_that_leaves_in_a_body_leaves_nothing(site: Site) -> None:
    ends: list[bool] = []

    async def endpoint(reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        try:
            if head.startswith(b"POST"):
                await reader.readexactly(20 * MIB)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
                while True:
                    writer.write(bytes(MIB))
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            ends.append(True)

    gate = await site.gate([await site.endpoint(endpoint)])
    for abort in (False, True):
        _, writer = await gate.connect()
        target = bytes_passed() + MIB
        writer.write(post(bytes(3 * MIB), 20 * MIB))
        await settle(partial(reached, target), "the body does not come")
        if abort:
            writer.transport.abort()
        else:
            writer.close()
        reader, writer = await gate.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readexactly(3 * MIB)
        writer.transport.abort()
        await settle(partial(gate_is_free, gate), "an exchange is left")
    await settle(lambda: len(ends) == 4, "an endpoint was not told")
    await idle(gate)


async def test_an_endpoint_that_leaves_in_a_request(site: Site) -> None:
    async def leaving(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2 * MIB)
        writer.transport.abort()

    gate = await site.gate([await site.endpoint(leaving)])
    reader, writer = await gate.connect()
    writer.write(post(bytes(30 * MIB)))
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 502 ")
    writer.transport.abort()
    await idle(gate)


async def test_an_answer_before_the_end_of_the_request(site: Site) -> None:
    async def early(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2 * MIB)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")

    gate = await site.gate([await site.endpoint(early)])
    reader, writer = await gate.connect()
    writer.write(post(bytes(8 * MIB), 30 * MIB))
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 413 ")
    writer.transport.abort()
    await idle(gate)


async def test_a_client_that_stops_in_a_body_times_out(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], listener={"body_timeout_ns": SECOND // 5})
    reader, writer = await gate.connect()
    before = bytes_passed()
    writer.write(post(bytes(3 * MIB), 20 * MIB))
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 408 ")
    assert bytes_passed() > before
    writer.transport.abort()
    await idle(gate)


async def test_a_steady_body_keeps_to_its_least_rate(site: Site) -> None:
    """What passes counts for the rate: a client above it is served, though its body takes many windows."""
    listener = {"body_timeout_ns": SECOND, "min_body_rate": 256 * KIB}
    gate = await site.gate([await site.endpoint(echo)], listener=listener)
    body = random.Random(6).randbytes(12 * MIB)
    reader, writer = await gate.connect()
    got = asyncio.create_task(answer(reader))
    async for part in pieces(post(body), MIB):
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.2)
    assert await got == body
    writer.close()
    await idle(gate)
