"""Connections to a peer over gRPC: those that never serve, GOAWAY, limits, deadlines, keep-alive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from grpc_peers import (
    CONNECT,
    REFUSED,
    RESET,
    TIMEOUT,
    Outcome,
    channel_to,
    start,
    until,
)
from grpc_scripts import echo, forever
from hyperframe.frame import (
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)
from scripted_peer import Peer, Scripted

from lb.upstream.connections.grpc_py import PyCall


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


async def test_goaway_drains_some_and_the_next_connection_has_the_others() -> None:
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
        assert (await third.wait())[3] == b"x"
        assert not first.all
        # While the old connection drains, calls use a new one.
        assert (await start(channel, b"Echo", b"new").wait())[3] == b"new"
        assert channel.stats()["draining"] == 1
        going.set()
        assert (await first.wait())[3] == b"one"
        assert (await second.wait())[3] == b"three"
        await until(lambda: channel.stats()["draining"] == 0)
        assert scripted.connections == 2


async def test_a_server_that_ends_its_connections_after_so_many_requests() -> None:
    async def one(peer: Peer) -> None:
        await peer.settle()
        stream, _, body = await peer.request()
        peer.goaway(stream)
        peer.answer(stream, body[5:])
        await forever(peer)

    scripted = Scripted(one)
    async with scripted as address, channel_to(address) as channel:
        calls = [start(channel, b"Echo", b"%d" % i) for i in range(5)]
        assert sorted([(await call.wait())[3] for call in calls]) == [b"0", b"1", b"2", b"3", b"4"]
        assert scripted.connections == 5


async def test_a_server_that_takes_no_request_before_it_goes() -> None:
    """Not for ever: elsewhere it may be taken."""

    async def none(peer: Peer) -> None:
        await peer.settle()
        await peer.request()
        peer.goaway(0)
        await forever(peer)

    scripted = Scripted(none)
    async with scripted as address, channel_to(address) as channel:
        assert await start(channel, b"Echo", b"x").kind() == REFUSED
        assert scripted.connections == 5


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
