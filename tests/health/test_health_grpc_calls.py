"""Calls of checks to servers that say all kinds of things, frame by frame."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from lb.health.check import CheckFailed
from lb.health.checks.grpc_connection import CallFailed, Status, grpc_connection

PATH = "/a.B/C"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = {":status": "200", "content-type": "application/grpc"}
MESSAGE = b"\0\0\0\0\5hello"
OK = {"grpc-status": "0"}


def head(stream: int, fields: dict[str, str], *flags: str) -> bytes:
    """HEADERS whose block changes nothing of the connection's table."""
    frame = HeadersFrame(stream, Encoder().encode([(n, v, True) for n, v in fields.items()]))
    frame.flags |= {"END_HEADERS", *flags}
    return frame.serialize()


def data(stream: int, content: bytes) -> bytes:
    return DataFrame(stream, content).serialize()


def answer(stream: int, message: bytes = MESSAGE) -> bytes:
    return head(stream, HEAD) + data(stream, message) + head(stream, OK, "END_STREAM")


def goaway(last: int, code: int = 0, said: bytes = b"") -> bytes:
    return GoAwayFrame(0, last, code, said).serialize()


class Peer:
    """A server that reads frames, and what it is told to say to each request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> int:
        """The stream of the next request, once all of it has come."""
        while True:
            frame = await self.frame()
            if "END_STREAM" in frame.flags:
                return frame.stream_id

    async def frame(self) -> Frame:
        first = memoryview(await self.reader.readexactly(9))
        frame, size = Frame.parse_frame_header(first)
        frame.parse_body(memoryview(await self.reader.readexactly(size)))
        return frame

    async def say(self, *said: bytes) -> None:
        self.writer.write(b"".join(said))
        await self.writer.drain()


Script = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(
    script: Script, settings: dict[int, int] | None = None, path: Path | None = None
) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            assert await reader.readexactly(len(PREFACE)) == PREFACE
            writer.write(SettingsFrame(0, settings or {}).serialize())
            await script(Peer(reader, writer))
            await reader.read()  # until the client closes
        writer.close()

    if path is not None:
        async with await asyncio.start_unix_server(serve, path):
            yield f"unix:{path}"
    else:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def ask(address: str, message: bytes = b"x") -> bytes:
    async with asyncio.timeout(20), grpc_connection(address, None) as connection:
        return await connection.unary(PATH, message)


def says(*parts: Callable[[int], bytes]) -> Script:
    """A script that says these to one request."""

    async def script(peer: Peer) -> None:
        stream = await peer.request()
        await peer.say(*(part(stream) for part in parts))

    return script


@pytest.mark.parametrize(
    "before",
    [
        b"",
        goaway(2**31 - 1),
        goaway(1),
        goaway(1) * 2,
        PingFrame(0, b"12345678").serialize(),
        SettingsFrame(0, {SettingsFrame.HEADER_TABLE_SIZE: 0}).serialize(),
        b"\0\0\3\xbe\0\0\0\0\0new",
        head(1, {":status": "103"}),
    ],
)
async def test_an_answer_behind_other_frames(before: bytes) -> None:
    async with serving(says(lambda _: before, answer)) as address:
        assert await ask(address) == b"hello"


async def test_behind_a_unix_socket(tmp_path: Path) -> None:
    async with serving(says(answer), path=tmp_path / "s") as address:
        assert await ask(address) == b"hello"


def ended(stream: int, fields: dict[str, str]) -> bytes:
    return head(stream, HEAD) + data(stream, MESSAGE) + head(stream, fields, "END_STREAM")


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        (lambda s: head(s, HEAD | {"grpc-status": "5"}, "END_STREAM"), Status.NOT_FOUND, "NOT_FOUND$"),
        (
            lambda s: head(s, HEAD | {"grpc-status": "8", "grpc-message": "50%25 f%C3%BCll%0A%1B"}, "END_STREAM"),
            Status.RESOURCE_EXHAUSTED,
            r"RESOURCE_EXHAUSTED: 50% füll \?$",
        ),
        (lambda s: ended(s, {"grpc-status": "14"}), Status.UNAVAILABLE, "UNAVAILABLE$"),
        (lambda s: ended(s, {"grpc-status": "99"}), Status.UNKNOWN, "UNKNOWN$"),
        (lambda s: ended(s, {"grpc-status": "-1"}), Status.UNKNOWN, "no status"),
        (lambda s: ended(s, {"grpc-status": ""}), Status.UNKNOWN, "no status"),
        (lambda s: ended(s, {"x": "y"}), Status.UNKNOWN, "no status"),
        (lambda s: head(s, {":status": "404"}, "END_STREAM"), Status.UNIMPLEMENTED, "HTTP status 404"),
        (lambda s: head(s, {":status": "503"}, "END_STREAM"), Status.UNAVAILABLE, "HTTP status 503"),
        (lambda s: head(s, {":status": "200", "content-type": "text/html"}, "END_STREAM"), Status.UNKNOWN, "text/html"),
        (
            lambda s: head(s, {":status": "502"}) + data(s, b"<html>") + head(s, {"x": "y"}, "END_STREAM"),
            Status.UNAVAILABLE,
            "HTTP status 502",
        ),
        (lambda s: head(s, HEAD) + head(s, OK, "END_STREAM"), Status.INTERNAL, "0 messages"),
        (lambda s: answer(s, MESSAGE * 2), Status.INTERNAL, "2 messages"),
        (lambda s: answer(s, MESSAGE[:-1]), Status.INTERNAL, "within a message"),
        (lambda s: answer(s, b"\1\0\0\0\5hello"), Status.INTERNAL, "compressed"),
        (lambda s: answer(s, b"\0\x7f\0\0\0"), Status.RESOURCE_EXHAUSTED, "4194304 are allowed"),
        (lambda s: RstStreamFrame(s, 7).serialize(), Status.UNAVAILABLE, "reset the stream with error 7"),
        (lambda s: RstStreamFrame(s, 11).serialize(), Status.RESOURCE_EXHAUSTED, "error 11"),
        (lambda s: RstStreamFrame(s, 1).serialize(), Status.INTERNAL, "error 1"),
        (lambda _: goaway(0), Status.UNAVAILABLE, "error 0"),
        (lambda _: goaway(1, 11, b"too_many_pings\n"), Status.UNAVAILABLE, "error 11: too_many_pings$"),
        (lambda _: b"\0\0\4\7\0\0\0\0\0last", Status.UNAVAILABLE, "too short"),
        (lambda _: b"\x40\0\0\0\0\0\0\0\1", Status.UNAVAILABLE, "frame of 4194304 bytes"),
        (
            lambda s: PushPromiseFrame(s, 2, b"", flags=["END_HEADERS"]).serialize(),
            Status.UNAVAILABLE,
            "no valid HTTP/2",
        ),
        (lambda s: head(s, {"no-status": "x"}, "END_STREAM"), Status.UNAVAILABLE, "no valid HTTP/2"),
        (lambda s: WindowUpdateFrame(s, 2**31 - 1).serialize() * 2, Status.INTERNAL, "reset"),
    ],
)
async def test_how_a_call_fails(said: Callable[[int], bytes], code: Status, reason: str) -> None:
    async with serving(says(said)) as address:
        with pytest.raises(CallFailed, match=reason) as caught:
            await ask(address)
    assert caught.value.code is code


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"])
async def test_a_server_of_http1(said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        with pytest.raises(CallFailed, match="speaks HTTP/1, gRPC needs HTTP/2"):
            await ask(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def test_nobody_listens() -> None:
    with pytest.raises(CheckFailed, match="refused"):
        await ask("127.0.0.1:9")


FLOODS = {
    "ping": PingFrame(0, b"12345678").serialize(),
    "acknowledged ping": PingFrame(0, b"12345678", flags=["ACK"]).serialize(),
    "settings": SettingsFrame(0, {SettingsFrame.HEADER_TABLE_SIZE: 100}).serialize(),
    "window": WindowUpdateFrame(0, 1).serialize(),
    "empty data": DataFrame(1, b"").serialize(),
    "unknown": b"\0\0\0\xbe\0\0\0\0\0",
    "priority": PriorityFrame(3, depends_on=0).serialize(),
    "goaway": goaway(1),
    "interim": head(1, {":status": "103"}),
    "drops of a message": data(1, b"x"),
}


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("reads", [True, False])
async def test_a_server_that_only_talks(flood: str, reads: bool) -> None:
    """The call fails, and what has come until then is little, whether or not the server takes what it calls forth."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        if flood in ("empty data", "drops of a message"):
            await peer.say(head(1, HEAD), data(1, b"\0\0\x3f\xff\xff") if flood != "empty data" else b"")
        drain = asyncio.create_task(peer.reader.read(-1)) if reads else None
        try:
            while True:
                await peer.say(FLOODS[flood] * 100)
                sent += 100
        finally:
            if drain is not None:
                drain.cancel()

    async with serving(script) as address:
        with pytest.raises(CallFailed, match="frames and no answer"):
            await ask(address)
    assert sent < 1_000_000


async def test_as_many_calls_as_the_server_takes() -> None:
    """Its limit holds, and so do its windows, which are opened late."""
    most = 0

    async def script(peer: Peer) -> None:
        nonlocal most
        open_streams: set[int] = set()
        sizes: dict[int, int] = {}
        while True:
            frame = await peer.frame()
            if isinstance(frame, HeadersFrame):
                open_streams.add(frame.stream_id)
                most = max(most, len(open_streams))
                await peer.say(WindowUpdateFrame(frame.stream_id, 3).serialize())
            if isinstance(frame, DataFrame):
                sizes[frame.stream_id] = sizes.get(frame.stream_id, 0) + len(frame.data)
                if "END_STREAM" in frame.flags:
                    open_streams.discard(frame.stream_id)
                    await peer.say(answer(frame.stream_id, b"\0\0\0\0\1%d" % (sizes[frame.stream_id] % 10)))
                else:
                    await peer.say(WindowUpdateFrame(frame.stream_id, 2).serialize())

    settings = {SettingsFrame.MAX_CONCURRENT_STREAMS: 2, SettingsFrame.INITIAL_WINDOW_SIZE: 0}
    async with serving(script, settings) as address, asyncio.timeout(20), grpc_connection(address, None) as connection:
        # What comes before the server's settings is not bound by them.
        assert await connection.unary(PATH, b"") == b"5"
        most = 0
        answers = await connection.unaries(PATH, [b"x" * n for n in range(5)])
    assert answers == [b"%d" % (5 + n) for n in range(5)]
    assert most == 2


async def test_a_stream_of_messages() -> None:
    async def script(peer: Peer) -> None:
        stream = await peer.request()
        await peer.say(head(stream, HEAD), data(stream, MESSAGE + MESSAGE[:3]), data(stream, MESSAGE[3:]))
        await peer.say(head(stream, {"grpc-status": "14", "grpc-message": "enough"}, "END_STREAM"))

    async with serving(script) as address, asyncio.timeout(20), grpc_connection(address, None) as connection:
        messages = connection.stream(PATH, b"")
        assert [await anext(messages), await anext(messages)] == [b"hello", b"hello"]
        with pytest.raises(CallFailed, match="UNAVAILABLE: enough"):
            await anext(messages)


async def test_no_call_begins_on_a_connection_that_ends() -> None:
    async def script(peer: Peer) -> None:
        await peer.say(goaway(1), answer(await peer.request()))

    async with serving(script) as address, asyncio.timeout(20), grpc_connection(address, None) as connection:
        assert await connection.unary(PATH, b"") == b"hello"
        with pytest.raises(CallFailed, match="closes the connection"):
            await connection.unary(PATH, b"")
