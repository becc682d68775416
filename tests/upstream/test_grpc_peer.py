"""Http2Channel against a peer whose every frame is scripted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from grpc_peers import (
    CONNECT,
    PROTOCOL,
    REFUSED,
    RESET,
    TOO_LARGE,
    channel_to,
    start,
    until,
)
from grpc_scripts import echo, forever
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PushPromiseFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)
from scripted_peer import Peer, Scripted, framed

Action = Callable[[Peer, int], None]


def answering(*actions: Action, wait: bool = True) -> Callable[[Peer], Awaitable[None]]:
    """A script that lets the actions answer the first request; afterwards it reads on, or closes."""

    async def script(peer: Peer) -> None:
        await peer.settle()
        stream, _, _ = await peer.request()
        for action in actions:
            action(peer, stream)
        if wait:
            await forever(peer)

    return script


async def outcome_of(script: Callable[[Peer], Awaitable[None]], **options: int) -> tuple[int, int, str, bytes]:
    async with Scripted(script) as address, channel_to(address, **options) as channel:
        return await start(channel, b"Echo", b"q").wait()


async def test_the_request_on_the_wire() -> None:
    seen: list[tuple[dict[bytes, bytes], bytes]] = []

    async def script(peer: Peer) -> None:
        await peer.settle()
        while True:
            stream, fields, body = await peer.request()
            seen.append((fields, body))
            peer.answer(stream, b"")

    async with Scripted(script) as address, channel_to(address) as channel:
        for timeout in (None, 2.0):
            assert await start(channel, b"Echo", b"ab", b"", b"c" * 5000, timeout=timeout).wait() == (0, 0, "", b"")
    fields, body = seen[0]
    assert body == framed(b"ab" + b"c" * 5000)
    agent = fields.pop(b"user-agent")
    assert agent.startswith(b"tidegate/")
    assert fields == {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/test.Service/Echo",
        b":authority": address.encode(),
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    value = seen[1][0][b"grpc-timeout"]
    assert value.endswith(b"u")
    assert 0 < int(value[:-1]) <= 2_000_000


def begin(*more: tuple[str, str]) -> Action:
    return lambda peer, stream: peer.begin(stream, *more)


def data(content: bytes) -> Action:
    return lambda peer, stream: peer.data(stream, content)


def raw(content: bytes) -> Action:
    return lambda peer, _stream: peer.writer.write(content)


def finish(*fields: tuple[str, str]) -> Action:
    return lambda peer, stream: peer.finish(stream, *fields)


def headers(*fields: tuple[str, str], end: bool = False) -> Action:
    return lambda peer, stream: peer.headers(stream, *fields, end=end)


def answer(message: bytes) -> Action:
    return lambda peer, stream: peer.answer(stream, message)


def reset(code: int) -> Action:
    return lambda peer, stream: peer.reset(stream, code)


def push(peer: Peer, stream: int) -> None:
    peer.send(PushPromiseFrame(stream, 2, peer.encoder.encode([(":path", "/")]), flags=["END_HEADERS"]))


GRPC = ("content-type", "application/grpc")


OK = (":status", "200")


BAD_HPACK = HeadersFrame(1, b"\xff" * 6, flags=["END_HEADERS"]).serialize()


# Answers that are not answers.
BAD_ANSWERS: dict[str, tuple[Action, ...]] = {
    "no message": (begin(), finish()),
    "status 0 and nothing else": (headers(OK, GRPC, ("grpc-status", "0"), end=True),),
    "half a prefix": (begin(), data(b"\0\0"), finish()),
    "half a message": (begin(), data(framed(b"abc")[:-1]), finish()),
    "two messages": (begin(), data(framed(b"a") * 2), finish()),
    "two empty messages": (begin(), data(framed(b"") * 2), finish()),
    "compressed": (begin(), data(framed(b"abc", 1)), finish()),
    "unknown flag": (begin(), data(framed(b"abc", 7))),
    "content-length too small": (begin(("content-length", "3")), data(framed(b"abc"))),
    "data before headers": (data(framed(b"abc")),),
    "no :status": (headers(GRPC),),
    "upper case name": (begin(("Bad", "x")),),
    "push": (push,),
    "DATA on stream 0": (raw(DataFrame(1, b"x").serialize().replace(b"\0\0\0\1x", b"\0\0\0\0x")),),
    "lonely CONTINUATION": (raw(ContinuationFrame(1, b"", flags=["END_HEADERS"]).serialize()),),
    "oversized frame": (raw(b"\xff\xff\xff\0\0\0\0\0\1"),),
    "HPACK garbage": (raw(BAD_HPACK),),
    "text": (raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),),
    "window overflow": (raw(WindowUpdateFrame(0, 2**31 - 1).serialize()),),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_garbage_is_a_protocol_failure(name: str) -> None:
    assert (await outcome_of(answering(*BAD_ANSWERS[name])))[0] == PROTOCOL


async def refuse(peer: Peer) -> None:
    await peer.settle(MAX_CONCURRENT_STREAMS=10)
    while True:
        stream, _, _ = await peer.request()
        peer.reset(stream, 7)


async def test_a_refused_stream_is_tried_again_a_few_times() -> None:
    scripted = Scripted(refuse)
    async with scripted as address, channel_to(address) as channel:
        assert await start(channel, b"Echo", b"x").kind() == REFUSED
        assert channel.connects == 1
        assert len([f for f in scripted.peers[0].frames if isinstance(f, HeadersFrame)]) == 5


async def test_a_stream_refused_once() -> None:
    async def script(peer: Peer) -> None:
        await peer.settle()
        stream, _, _ = await peer.request()
        peer.reset(stream, 7)
        stream, _, body = await peer.request()
        peer.answer(stream, body[5:])
        await forever(peer)

    async with Scripted(script) as address, channel_to(address) as channel:
        assert await start(channel, b"Echo", b"x" * 10_000).wait() == (0, 0, "", b"x" * 10_000)


async def test_refusals_lower_the_limit_to_half_at_most() -> None:
    most = [0]

    async def script(peer: Peer) -> None:
        await peer.settle(MAX_CONCURRENT_STREAMS=10)
        for _ in range(50):
            stream, _, _ = await peer.request()
            peer.reset(stream, 7)
        await forever(peer)

    async with Scripted(script) as address, channel_to(address) as channel:
        refused = [start(channel, b"Echo", b"x") for _ in range(10)]
        for call in refused:
            assert await call.kind() == REFUSED
        held = [start(channel, b"Echo", b"x") for _ in range(20)]
        await until(lambda: channel.active)
        most[0] = channel.active
        channel.close()
        assert [await call.kind() for call in held] == [RESET] * 5 + [CONNECT] * 15
    assert most == [5]


@pytest.mark.parametrize(
    ("code", "kind"), [(0, RESET), (1, RESET), (2, RESET), (8, RESET), (11, RESET), (12345, RESET)]
)
async def test_reset_streams(code: int, kind: int) -> None:
    assert (await outcome_of(answering(reset(code))))[0] == kind


async def test_a_stream_refused_after_its_answer_began_was_processed() -> None:
    assert (await outcome_of(answering(begin(), reset(7))))[0] == RESET


async def test_a_reset_after_the_whole_answer_changes_nothing() -> None:
    script = answering(answer(b"yes"), reset(0))
    assert await outcome_of(script) == (0, 0, "", b"yes")


async def test_closed_with_the_request_sent() -> None:
    assert (await outcome_of(answering(wait=False)))[0] == RESET


async def test_closed_within_an_answer() -> None:
    assert (await outcome_of(answering(begin(), data(b"\0"), wait=False)))[0] == RESET


async def test_an_answer_then_a_close() -> None:
    assert await outcome_of(answering(answer(b"yes"), wait=False)) == (0, 0, "", b"yes")


async def test_trailers_only() -> None:
    fields = OK, GRPC, ("grpc-status", "5"), ("grpc-message", "n%C3%A4h%21")
    assert await outcome_of(answering(headers(*fields, end=True))) == (0, 5, "näh!", b"")


async def test_an_error_after_a_message_is_an_error() -> None:
    script = answering(begin(), data(framed(b"x")), finish(("grpc-status", "14")))
    assert (await outcome_of(script))[:2] == (0, 14)


async def test_a_strange_grpc_status_is_unknown() -> None:
    assert (await outcome_of(answering(begin(), finish(("grpc-status", "?")))))[:2] == (0, 2)


async def test_no_trailers() -> None:
    script = answering(begin(), lambda p, s: p.data(s, framed(b"x"), end=True))
    assert (await outcome_of(script))[:2] == (0, 2)


@pytest.mark.parametrize(("http", "status"), [(400, 13), (401, 16), (403, 7), (404, 12), (503, 14), (500, 2), (200, 2)])
@pytest.mark.parametrize("end", [True, False])
async def test_http_answers(http: int, status: int, end: bool) -> None:
    """Without the end of the stream, too: a page of an HTTP server is not waited for."""
    script = answering(headers((":status", str(http)), ("content-type", "text/html"), end=end))
    kind, code, message, _ = await outcome_of(script)
    assert (kind, code) == (0, status)
    assert str(http) in message


async def test_informational_answers_are_skipped() -> None:
    script = answering(
        headers((":status", "103"), ("link", "x")),
        headers((":status", "100")),
        answer(b"yes"),
    )
    assert await outcome_of(script) == (0, 0, "", b"yes")


async def test_a_message_in_many_frames() -> None:
    message = bytes(range(256)) * 3
    pieces = framed(message)
    script = answering(
        begin(),
        *(data(pieces[i : i + 1]) for i in range(20)),
        data(b""),
        data(pieces[20:]),
        finish(),
    )
    assert await outcome_of(script) == (0, 0, "", message)


async def test_the_largest_reply_fits_and_one_more_does_not() -> None:
    async with Scripted(echo) as address, channel_to(address, limit=1000) as channel:
        assert (await start(channel, b"Echo", b"x" * 1000).wait())[3] == b"x" * 1000
        assert await start(channel, b"Echo", b"x" * 1001).kind() == TOO_LARGE
        assert (await start(channel, b"Echo", b"again").wait())[3] == b"again"


async def test_too_many_fields() -> None:
    script = answering(begin(*((f"x{i}", "v" * 1000) for i in range(16))))
    assert (await outcome_of(script))[0] == TOO_LARGE


async def test_an_answer_before_the_request_is_read() -> None:
    reset = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.settle(INITIAL_WINDOW_SIZE=100)
        peer.decoder.decode((await peer.wait_for(HeadersFrame)).data)
        await peer.wait_for(DataFrame)
        peer.headers(1, (":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "8"), end=True)
        frame = await peer.wait_for(RstStreamFrame)
        assert frame.error_code == 8
        reset.set()
        stream, _, _ = await peer.request()
        peer.answer(stream, b"next")

    async with Scripted(script) as address, channel_to(address) as channel:
        assert (await start(channel, b"Echo", b"x" * 100_000).wait())[:2] == (0, 8)
        await asyncio.wait_for(reset.wait(), 20)
        assert (await start(channel, b"Echo", b"y").wait())[3] == b"next"
        assert channel.connects == 1
