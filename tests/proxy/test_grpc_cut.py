"""gRPC answers that break off: the client is told by a status, where it can be, and what came before is kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import grpc
import pytest
from datapath import SECOND, Gate, Site, settle
from hedge_site import series
from scripted_peer import Peer, Scripted, framed

INTERNAL = 2
UNAVAILABLE, DEADLINE_EXCEEDED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED
Ends = Callable[[Peer, int], Awaitable[object]]


async def never(peer: Peer, stream: int) -> None:
    await asyncio.Event().wait()


async def resets(peer: Peer, stream: int) -> None:
    peer.reset(stream, INTERNAL)
    await peer.reader.read()


async def closes(peer: Peer, stream: int) -> None:
    peer.writer.close()


def answering(end: Ends, *more: tuple[str, str], part: bytes = b"") -> Callable[[Peer], Awaitable[None]]:
    """One message of the answer, `part` of the next, and then `end`."""

    async def script(peer: Peer) -> None:
        await peer.settle()
        stream, _, _ = await peer.request()
        peer.begin(stream, *more)
        peer.data(stream, framed(b"first") + part)
        await end(peer, stream)

    return script


async def call(gate: Gate) -> tuple[list[bytes], grpc.StatusCode, str]:
    """The messages that came, and how the call ended."""
    messages = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        stream = channel.unary_stream("/test.Kinds/Down")(b"")
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (message := await stream.read()) is not grpc.aio.EOF:
                messages.append(message)
        return messages, await stream.code(), await stream.details() or ""


@pytest.mark.parametrize(
    ("end", "status", "says"),
    [
        (never, DEADLINE_EXCEEDED, "the endpoint did not answer in time"),
        (resets, UNAVAILABLE, "the endpoint ended the stream within its answer"),
        (closes, UNAVAILABLE, "the endpoint ended the stream within its answer"),
    ],
)
async def test_the_status_says_how_an_answer_ended(site: Site, end: Ends, status: grpc.StatusCode, says: str) -> None:
    """A stream that is reset would say INTERNAL, of whatever happened."""
    async with Scripted(answering(end)) as address:
        gate = await site.gate([address], pool={"protocol": "grpc"}, route={"timeout_ns": SECOND // 2})
        assert await call(gate) == ([b"first"], status, says)
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
        broken = series(gate, gate.plan.pools[0].endpoints[0].series)["response_errors"]
        assert broken == (0 if end is never else 1)


async def test_a_message_that_was_cut_is_not_given_to_anybody(site: Site) -> None:
    async with Scripted(answering(resets, part=framed(b"second")[:-1])) as address:
        gate = await site.gate([address], pool={"protocol": "grpc"})
        messages, status, _ = await call(gate)
        assert messages == [b"first"]
        assert status != grpc.StatusCode.OK


class Told:
    """Resets the stream when the test says so."""

    def __init__(self) -> None:
        self.now = asyncio.Event()

    async def __call__(self, peer: Peer, stream: int) -> None:
        await self.now.wait()
        await resets(peer, stream)


async def test_an_answer_with_a_length_is_not_made_shorter(site: Site) -> None:
    """Its stream is reset, since an end before the length would make it malformed (RFC 9113 section 8.1.1)."""
    told = Told()
    async with Scripted(answering(told, ("content-length", "100"))) as address:
        gate = await site.gate([address], pool={"protocol": "grpc"})
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
            stream = channel.unary_stream("/test.Kinds/Down")(b"")
            assert await stream.read() == b"first"
            told.now.set()
            assert await stream.code() == grpc.StatusCode.INTERNAL


async def test_a_web_client_is_cut_off_since_its_trailers_are_in_the_body(site: Site) -> None:
    """They would be read as the rest of the message that was cut."""
    told = Told()
    async with Scripted(answering(told, part=framed(b"second")[:-1])) as address:
        gate = await site.gate([address], pool={"protocol": "grpc"})
        reader, writer = await gate.connect()
        writer.write(b"POST /test.Kinds/Down HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web+proto\r\n")
        writer.write(b"Content-Length: 5\r\n\r\n" + framed(b""))
        await reader.readuntil(b"secon")
        told.now.set()
        rest = await reader.read()
        assert b"0\r\n\r\n" not in rest
        assert b"grpc-status" not in rest
        writer.close()
