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
    TIMEOUT,
    TOO_LARGE,
    Outcome,
    channel_to,
    start,
    until,
)
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from scripted_peer import Peer, Scripted, framed

from lb.upstream.grpc_py import PyCall

Action = Callable[[Peer, int], None]


async def forever(peer: Peer) -> None:
    while True:
        await peer.next_frame()


async def echo(peer: Peer) -> None:
    await peer.settle()
    while True:
        stream, _, body = await peer.request()
        peer.answer(stream, body[5:])


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


async def close_at_once(_peer: Peer) -> None:
    return


async def speak_http1(peer: Peer) -> None:
    peer.writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await forever(peer)


async def goaway_at_once(peer: Peer) -> None:
    await peer.settle()
    peer.goaway(0)
    await forever(peer)


@pytest.mark.parametrize("script", [close_at_once, speak_http1, goaway_at_once])
async def test_a_connection_that_never_serves(script: Callable[[Peer], Awaitable[None]]) -> None:
    async with Scripted(script) as address, channel_to(address) as channel:
        calls = [start(channel, b"Echo", b"x") for _ in range(3)]
        assert [await call.kind() for call in calls] == [CONNECT] * 3
        assert channel.connects == 1
        assert channel.failures == 1
        # The pause: no further connect.
        assert await start(channel).kind() == CONNECT


async def test_a_connection_that_never_speaks() -> None:
    async with Scripted(forever) as address, channel_to(address, connect=0.1) as channel:
        assert await start(channel, timeout=None).kind() == CONNECT


async def test_after_a_pause_it_connects_again() -> None:
    async with Scripted(close_at_once, echo) as address, channel_to(address) as channel:
        assert await start(channel).kind() == CONNECT
        while (outcome := await start(channel, b"Echo", b"x").wait())[0] == CONNECT:
            pass
        assert outcome == (0, 0, "", b"x")
        assert (channel.failures, channel.connects) == (0, 2)


async def test_goaway_refuses_some_and_drains_others() -> None:
    going = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.settle()
        for _ in range(3):
            await peer.request()
        peer.goaway(3)
        await going.wait()
        peer.answer(1, b"one")
        peer.answer(3, b"three")
        await forever(peer)

    scripted = Scripted(script, echo)
    async with scripted as address, channel_to(address) as channel:
        first, second, third = (start(channel, b"Echo", b"x") for _ in range(3))
        assert await third.kind() == REFUSED
        assert not first.all
        # While the old connection drains, calls use a new one.
        assert (await start(channel, b"Echo", b"new").wait())[3] == b"new"
        assert channel.stats()["draining"] == 1
        going.set()
        assert (await first.wait())[3] == b"one"
        assert (await second.wait())[3] == b"three"
        await until(lambda: channel.stats()["draining"] == 0)
        assert scripted.connections == 2


async def test_goaway_when_idle_is_no_failure() -> None:
    async def script(peer: Peer) -> None:
        await peer.settle()
        stream, _, _ = await peer.request()
        peer.answer(stream, b"one")
        peer.goaway(stream)
        await forever(peer)

    async with Scripted(script, echo) as address, channel_to(address) as channel:
        assert (await start(channel).wait())[3] == b"one"
        await until(lambda: channel.stats()["state"] == "idle")
        assert (await start(channel, b"Echo", b"two").wait())[3] == b"two"
        assert channel.connect_failures == 0


async def test_deadlines_cancel_the_stream() -> None:
    codes: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.settle()
        await peer.request()
        codes.append((await peer.wait_for(RstStreamFrame)).error_code)
        peer.answer(1, b"too late")
        stream, _, _ = await peer.request()
        peer.answer(stream, b"in time")

    async with Scripted(script) as address, channel_to(address) as channel:
        assert await start(channel, timeout=0.05).kind() == TIMEOUT
        assert (await start(channel).wait())[3] == b"in time"
        assert codes == [8]


async def test_a_deadline_that_has_passed() -> None:
    async with Scripted(echo) as address, channel_to(address) as channel:
        assert await start(channel, timeout=0).kind() == TIMEOUT
        assert (await start(channel, b"Echo", b"x").wait())[3] == b"x"


async def test_cancel_resets_the_stream_and_tells_nobody() -> None:
    codes: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.settle()
        await peer.wait_for(HeadersFrame)
        codes.append((await peer.wait_for(RstStreamFrame)).error_code)
        await forever(peer)

    async with Scripted(script) as address, channel_to(address) as channel:
        outcome = start(channel, b"Echo", b"x" * 1_000_000)
        await until(lambda: channel.active == 1)
        outcome.call.cancel()
        outcome.call.cancel()
        assert channel.active == 0
        await until(lambda: codes == [8])
        assert not outcome.all


async def test_calls_over_the_limit_wait_in_order() -> None:
    order: list[bytes] = []
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.settle(MAX_CONCURRENT_STREAMS=2)
        while True:
            stream, _, body = await peer.request()
            order.append(body[5:])
            await gate.wait()
            peer.answer(stream, body[5:])

    async with Scripted(script) as address, channel_to(address) as channel:
        calls = [start(channel, b"Echo", b"%d" % i) for i in range(10)]
        late = start(channel, b"Echo", b"late", timeout=0.05)
        cancelled = start(channel, b"Echo", b"cancelled")
        await until(lambda: channel.active == 2)
        assert channel.waiting == 10
        assert await late.kind() == TIMEOUT
        cancelled.call.cancel()
        assert (channel.active, channel.waiting) == (2, 8)
        gate.set()
        assert [(await call.wait())[3] for call in calls] == [b"%d" % i for i in range(10)]
        assert order == [b"%d" % i for i in range(10)]
        assert not cancelled.all


async def test_a_limit_of_none_at_first() -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(MAX_CONCURRENT_STREAMS=0)
        await peer.wait_for(SettingsFrame)
        peer.send(SettingsFrame(0, {SettingsFrame.MAX_CONCURRENT_STREAMS: 5}))
        while True:
            stream, _, body = await peer.request()
            peer.answer(stream, body[5:])

    async with Scripted(script) as address, channel_to(address) as channel:
        assert (await start(channel, b"Echo", b"x").wait())[3] == b"x"


async def test_callbacks_may_start_and_cancel() -> None:
    async with Scripted(echo) as address, channel_to(address) as channel:
        victim = Outcome(b"victim")
        told: list[int] = []

        def again(kind: int, _status: int, _message: str, _reply: bytes) -> None:
            told.append(kind)
            victim.call.cancel()
            if len(told) < 50:
                first.start(channel, b"/x/y", 30.0)

        first = PyCall((b"first",), again)
        first.start(channel, b"/x/y", 30.0)
        victim.call.start(channel, b"/x/y", 30.0)
        await until(lambda: len(told) == 50 and not channel.active)
        assert told == [0] * 50
        assert len(victim.all) <= 1


async def test_a_callback_may_close_the_channel() -> None:
    async with Scripted(echo) as address, channel_to(address) as channel:
        others = [Outcome(b"x") for _ in range(5)]

        def close(*_: object) -> None:
            channel.close()

        first = PyCall((b"first",), close)
        first.start(channel, b"/x/y", 30.0)
        for other in others:
            other.call.start(channel, b"/x/y", 30.0)
        for other in others:
            assert await other.kind() in (0, RESET)
        late = start(channel)
        assert await late.kind() == CONNECT


async def test_close_fails_what_runs_and_what_waits() -> None:
    async def script(peer: Peer) -> None:
        await peer.settle(MAX_CONCURRENT_STREAMS=1)
        await forever(peer)

    async with Scripted(script) as address, channel_to(address) as channel:
        running, waiting = start(channel), start(channel)
        await until(lambda: channel.active == 1)
        channel.close()
        channel.close()
        assert await running.kind() == RESET
        assert await waiting.kind() == CONNECT


async def test_keepalive_notices_a_dead_peer() -> None:
    async def script(peer: Peer) -> None:
        await peer.settle()
        await peer.wait_for(PingFrame)
        await peer.reader.read()  # never answers again

    async with Scripted(script) as address, channel_to(address) as channel:
        channel.ping_after = 30_000_000
        channel.ping_timeout = 50_000_000
        assert await start(channel, timeout=None).kind() == RESET


async def test_keepalive_keeps_a_slow_peer() -> None:
    pings: list[PingFrame] = []

    async def script(peer: Peer) -> None:
        await peer.settle()
        await peer.request()
        for _ in range(3):
            pings.append(await peer.wait_for(PingFrame))
            peer.pong(pings[-1])
        peer.answer(1, b"at last")
        await forever(peer)

    async with Scripted(script) as address, channel_to(address) as channel:
        channel.ping_after = 30_000_000
        channel.ping_interval = 60_000_000
        channel.ping_timeout = 500_000_000
        assert (await start(channel, timeout=None).wait())[3] == b"at last"
        assert len(pings) == 3


async def test_the_peers_pings_are_answered() -> None:
    async def script(peer: Peer) -> None:
        await peer.settle()
        stream, _, _ = await peer.request()
        peer.send(PingFrame(0, b"12345678"))
        while True:
            frame = await peer.next_frame()
            if isinstance(frame, PingFrame):
                assert "ACK" in frame.flags
                assert frame.opaque_data == b"12345678"
                break
        peer.answer(stream, b"pong")
        await forever(peer)

    async with Scripted(script) as address, channel_to(address) as channel:
        assert (await start(channel).wait())[3] == b"pong"
