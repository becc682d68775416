"""Answers that begin before their request is complete."""

from __future__ import annotations

import asyncio

import pytest
from datapath import Site, settle
from h2_client import h2_client
from http2_front import read_request

PIECES = 40
SIZE = 50_000  # a piece: all together are more than any buffer on the way


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a body, chunked or of known length, while it comes."""
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        if b"content-length" in head:
            left = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            while left:
                data = await reader.read(min(left, 1 << 16))
                left -= len(data)
                writer.write(b"%x\r\n" % len(data) + data + b"\r\n")
                await writer.drain()
        else:
            while size := int(await reader.readline(), 16):
                writer.write(b"%x\r\n" % size + await reader.readexactly(size + 2))
                await writer.drain()
            await reader.readline()
        writer.write(b"0\r\n\r\n")


async def read_chunked(reader: asyncio.StreamReader, least: int, kept: bytes = b"") -> bytes:
    """What comes of a chunked body until there are `least` bytes, or its end."""
    while len(kept) < least:
        size = int(await reader.readline(), 16)
        if size == 0:
            await reader.readline()
            break
        kept += await reader.readexactly(size)
        await reader.readexactly(2)
    return kept


@pytest.mark.parametrize("chunked", [True, False])
async def test_each_piece_is_answered_before_the_next_is_sent(site: Site, chunked: bool) -> None:
    gate = await site.gate([await site.endpoint(echo)])
    reader, writer = await gate.connect()
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (PIECES * SIZE)
    async with asyncio.timeout(20):
        for _ in range(2):  # the connections of both sides can be used again
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
            got, head = b"", b""
            for number in range(PIECES):
                piece = b"%02d" % number * (SIZE // 2)
                writer.write(b"%x\r\n" % SIZE + piece + b"\r\n" if chunked else piece)
                head = head or await reader.readuntil(b"\r\n\r\n")
                assert b"connection: close" not in head.lower()
                got = await read_chunked(reader, (number + 1) * SIZE, got)
                assert got[-2:] == b"%02d" % number
            if chunked:
                writer.write(b"0\r\n\r\n")
            assert await read_chunked(reader, len(got) + 1, got) == got
            assert len(got) == PIECES * SIZE
    writer.close()
    await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_over_http2_in_front(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)])
    async with h2_client(gate.port) as client, asyncio.timeout(20):
        stream = client.request("/", method="POST", end=False)
        answer = client.answers[stream]
        for number in range(PIECES):
            await client.send(stream, b"%02d" % number * (SIZE // 2), end=False)
            await settle(lambda number=number: len(answer.body) == (number + 1) * SIZE, "no answer to this piece")
        await client.send(stream, b"")
        await client.answer(stream)
        assert len(answer.body) == PIECES * SIZE
    await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers by the head alone and closes, as servers do to bodies that are too large: with a reset, since it has read
    nothing of it."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_answer_in_the_midst_of_an_upload_reaches_the_client(site: Site, chunked: bool) -> None:
    gate = await site.gate([await site.endpoint(refuses)])
    for _ in range(20):
        reader, writer = await gate.connect()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 20000000"
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")

        async def upload(writer: asyncio.StreamWriter = writer) -> None:
            piece = bytes(SIZE)
            for _ in range(400):
                writer.write(b"%x\r\n" % SIZE + piece + b"\r\n" if chunked else piece)
                await writer.drain()

        task = asyncio.create_task(upload())
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 413 "), head
            assert b"connection: close" in head.lower()
            assert await reader.readexactly(8) == b"too much"
        await asyncio.wait([task], timeout=10)
        writer.close()
        assert task.done()
        assert task.exception() is None or isinstance(task.exception(), ConnectionError)
    await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers by the head alone, and then takes the body as if nothing were."""
    while True:
        task = asyncio.create_task(read_request(reader))
        await asyncio.sleep(0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await task


async def test_a_connection_whose_request_was_answered_too_early_is_not_used_again(site: Site) -> None:
    """What follows could be read as its body, or the rest of its body as a request."""
    gate = await site.gate([await site.endpoint(early)])
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + bytes(50))
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"connection: close" in head.lower()
        assert await reader.read() == b"ok"
    writer.close()
    await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
