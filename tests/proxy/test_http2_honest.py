"""What honest clients send many of, and is no flood."""

from __future__ import annotations

import asyncio

import h2.errors
from datapath import HTTP2, Site, settle
from h2_client import H2Client, frame, h2_client
from msgspec.structs import replace
from test_grpc import GRPC_POOL, service

MESSAGES = 600
LIMITED = {"http2": replace(HTTP2, control_rate=20, reset_rate=1)}  # of which five seconds' worth may come at once
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]
WINDOW = (1).to_bytes(4, "big")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a chunked body chunk by chunk, as they come."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while size := int(await reader.readline(), 16):
        writer.write(b"%x\r\n" % size + await reader.readexactly(size + 2))
    writer.write(b"0\r\n\r\n")


async def test_windows_and_pings_that_our_data_calls_forth(site: Site) -> None:
    """Clients that read a stream of small messages answer each with two windows, and measure the way by a PING."""
    gate = await site.gate([await site.endpoint(echo)], listener=LIMITED)
    async with h2_client(gate.port) as client:
        stream = client.request("/", method="POST", end=False)
        answer = client.answers[stream]
        for n in range(1, MESSAGES + 1):
            await client.send(stream, b"token", end=False)
            while len(answer.body) < 5 * n and not client.closed.is_set():
                await asyncio.sleep(0)
            assert not client.closed.is_set(), n
            client.raw(frame(8, 0, 0, WINDOW) + frame(8, 0, stream, WINDOW) + frame(6, 0, 0, bytes(8)))
        await client.send(stream, b"", end=True)
        await asyncio.wait_for(answer.done.wait(), 60)
        assert answer.body == b"token" * MESSAGES
    assert gate.total(1)["http2_floods"] == 0


async def hang(client: H2Client, calls: int, timeout: str) -> list[int]:
    fields = [*GRPC, ("grpc-timeout", timeout)]
    streams = [client.request("/test.Kinds/Hang", method="POST", fields=fields, end=False) for _ in range(calls)]
    for stream in streams:
        await client.send(stream, bytes(5))
    return streams


async def test_calls_that_are_given_up_when_their_time_is_over(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL, listener=LIMITED)
        async with h2_client(gate.port) as client:
            over = asyncio.get_running_loop().time() + 1.7  # which may be later: then they have been answered
            streams = await hang(client, 60, "2S")
            await settle(lambda: asyncio.get_running_loop().time() > over, "time stands still")
            client.raw(b"".join(frame(3, 0, stream, (8).to_bytes(4, "big")) for stream in streams))
            await settle(lambda: gate.in_flight() == 0, "the slots are still taken")
            assert (await client.fetch("/test.Kinds/Unary", body=bytes(5), fields=GRPC)).status == 200
        assert gate.total(1)["http2_floods"] == 0
    assert gate.proxy.stats()["exchanges"] == 0


async def test_calls_that_are_given_up_at_once_are_counted(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL, listener=LIMITED)
        async with h2_client(gate.port) as client:
            streams = await hang(client, 20, "20S")
            await settle(lambda: gate.in_flight() > 0, "not asked")
            client.raw(b"".join(frame(3, 0, stream, (8).to_bytes(4, "big")) for stream in streams))
            await asyncio.wait_for(client.closed.wait(), 60)
            assert client.goaway is not None
            assert client.goaway.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
    assert gate.total(1)["http2_floods"] == 1


async def test_half_of_the_requests_may_be_cancelled(site: Site) -> None:
    """As where one connection has the requests of many users."""
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL, listener=LIMITED)
        async with h2_client(gate.port) as client:
            for _ in range(3):
                for _ in range(20):
                    assert (await client.fetch("/test.Kinds/Unary", body=bytes(5), fields=GRPC)).status == 200
                streams = await hang(client, 20, "20S")
                await settle(lambda: server.running == 20, "not asked")
                client.raw(b"".join(frame(3, 0, stream, (8).to_bytes(4, "big")) for stream in streams))
                await settle(lambda: gate.in_flight() == 0, "the slots are still taken")
                await settle(lambda: server.running == 0, "the server still works")
            assert not client.closed.is_set()
    assert gate.total(1)["http2_floods"] == 0
