"""Bodies that come in very small pieces: what is here at once goes on in one piece, whatever both sides speak."""

from __future__ import annotations

import asyncio
import base64
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
from datapath import Gate, Site
from h2_client import frame, h2_client
from hyperframe.frame import HeadersFrame
from scripted_peer import Peer, Scripted, framed
from test_grpc import GRPC_POOL
from test_grpc_web_exchange import decoded
from test_upgrades_granted import CONNECT, granted

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

DATA, END_STREAM = 0, 1
FEW = 100  # pieces that became one on the way, at least
SIZE = 20_000  # bytes of a body
RETRY_BUFFERS = [1 << 20, 1024]  # in which the request is kept for other endpoints, or not
CHUNK = b"1\r\nx\r\n"
CLOSE = b"Connection: close\r\n"


async def read_chunks(reader: Reader) -> list[bytes]:
    """A body's chunks."""
    chunks = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunks.append(await reader.readexactly(size))
        assert await reader.readexactly(2) == b"\r\n"
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # a trailer
    return chunks


def segments(writer: Writer) -> int:
    """Segments with data that have come: Linux's tcpi_data_segs_in."""
    sock = writer.get_extra_info("socket")
    return int(struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 152)[0])


class Uploads:
    """An endpoint that notes in how many chunks, and segments, each upload came."""

    def __init__(self) -> None:
        self.chunks: list[list[bytes]] = []  # of each upload
        self.segments = 0

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"chunked" in head:
            self.chunks.append(await read_chunks(reader))
        else:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert await reader.readexactly(length) == b"x" * length
        self.segments = segments(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def gathered(pieces: list[bytes]) -> bool:
    return b"".join(pieces) == b"x" * SIZE and len(pieces) <= SIZE // FEW


@pytest.mark.parametrize("retry_buffer", RETRY_BUFFERS, ids=["kept", "passed on"])
async def test_chunks_of_a_request(site: Site, retry_buffer: int) -> None:
    uploads = Uploads()
    gate = await site.gate([await site.endpoint(uploads)], listener={"retry_buffer": retry_buffer})
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"\r\n"
    answer = await gate.exchange(head + CHUNK * SIZE + b"0\r\n\r\n")
    assert answer.endswith(b"ok")
    (chunks,) = uploads.chunks
    assert gathered(chunks)


def one_byte_frames(stream: int) -> bytes:
    return frame(DATA, 0, stream, b"x") * SIZE + frame(DATA, END_STREAM, stream)


@pytest.mark.parametrize("retry_buffer", RETRY_BUFFERS, ids=["kept", "passed on"])
@pytest.mark.parametrize("sized", [False, True], ids=["chunks", "length"])
async def test_data_frames_of_a_request(site: Site, retry_buffer: int, sized: bool) -> None:
    uploads = Uploads()
    gate = await site.gate([await site.endpoint(uploads)], listener={"retry_buffer": retry_buffer})
    async with h2_client(gate.port) as client:
        fields = [("content-length", str(SIZE))] if sized else []
        stream = client.request(method="POST", fields=fields, end=False)
        client.raw(one_byte_frames(stream))
        assert (await client.answer(stream)).body == b"ok"
    if sized:
        assert uploads.segments <= SIZE // FEW
    else:
        (chunks,) = uploads.chunks
        assert gathered(chunks)


async def test_data_frames_of_many_requests_at_once(site: Site) -> None:
    """Those of each are merged, although they come in turn."""
    uploads = Uploads()
    gate = await site.gate([await site.endpoint(uploads)])
    async with h2_client(gate.port) as client:
        streams = [client.request(method="POST", end=False) for _ in range(2)]
        client.raw(
            b"".join(frame(DATA, 0, stream, b"x") for stream in streams) * SIZE
            + b"".join(frame(DATA, END_STREAM, stream) for stream in streams)
        )
        for stream in streams:
            assert (await client.answer(stream)).body == b"ok"
    assert len(uploads.chunks) == len(streams)
    assert all(gathered(chunks) for chunks in uploads.chunks)


async def test_data_frames_behind_an_upgrade(site: Site) -> None:
    came = asyncio.get_running_loop().create_future()

    async def endpoint(reader: Reader, writer: Writer) -> None:
        writer.write(granted(await reader.readuntil(b"\r\n\r\n")))
        assert await reader.readexactly(SIZE) == b"x" * SIZE
        came.set_result(segments(writer))

    gate = await site.gate([await site.endpoint(endpoint)])
    async with h2_client(gate.port) as client:
        stream = client.request(method="CONNECT", fields=CONNECT, end=False)
        await asyncio.wait_for(client.answers[stream].begun.wait(), 20)
        client.raw(frame(DATA, 0, stream, b"x") * SIZE)
        assert await asyncio.wait_for(came, 20) <= SIZE // FEW


async def drip(reader: Reader, writer: Writer) -> None:
    """Answers in chunks of a byte."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK * SIZE + b"0\r\n\r\n")


async def chunks_of_answer(gate: Gate, request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") -> list[bytes]:
    reader, writer = await gate.connect()
    writer.write(request)
    async with asyncio.timeout(20):
        assert b"Transfer-Encoding: chunked" in await reader.readuntil(b"\r\n\r\n")
        chunks = await read_chunks(reader)
    writer.close()
    return chunks


async def test_chunks_of_an_answer(site: Site) -> None:
    gate = await site.gate([await site.endpoint(drip)])
    assert gathered(await chunks_of_answer(gate))


async def test_chunks_of_an_answer_to_http2(site: Site) -> None:
    gate = await site.gate([await site.endpoint(drip)])
    async with h2_client(gate.port) as client:
        answer = await client.fetch()
    assert gathered(answer.pieces)


def frame_by_frame(content_type: str, body: bytes) -> Callable[[Peer], Awaitable[None]]:
    """Answers with the body in DATA frames of a byte."""

    async def script(peer: Peer) -> None:
        await peer.settle()
        stream = (await peer.wait_for(HeadersFrame)).stream_id
        peer.headers(stream, (":status", "200"), ("content-type", content_type))
        peer.writer.write(b"".join(frame(DATA, 0, stream, bytes([byte])) for byte in body))
        peer.finish(stream)
        await peer.reader.read()

    return script


async def test_data_frames_of_an_answer(site: Site) -> None:
    async with Scripted(frame_by_frame("text/plain", b"x" * SIZE)) as address:
        gate = await site.gate([address], pool={"protocol": "http2"})
        assert gathered(await chunks_of_answer(gate))


@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web-text+proto"])
async def test_data_frames_of_an_answer_in_grpc_web(site: Site, kind: str) -> None:
    message = framed(b"x" * SIZE)
    async with Scripted(frame_by_frame("application/grpc+proto", message)) as address:
        gate = await site.gate([address], pool=GRPC_POOL)
        sent = base64.b64encode(framed(b"")) if "text" in kind else framed(b"abc")  # either is of eight bytes
        head = f"POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nContent-Type: {kind}\r\n\r\n"
        chunks = await chunks_of_answer(gate, head.encode() + sent)
    body = b"".join(chunks)
    assert (decoded(body) if "text" in kind else body).startswith(message)
    assert len(chunks) <= SIZE // FEW
