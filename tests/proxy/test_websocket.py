"""WebSockets through the gate: the `websockets` library on both sides, and over HTTP/2 (RFC 8441)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from datapath import SECOND, Gate, Site, settle
from h2_client import h2_client
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from lb.config.plan.plan import PolicyPlan


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def echo_server(**options: Any) -> AsyncIterator[str]:
    async with serve(echo, "127.0.0.1", 0, max_size=None, **options) as server:
        yield f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def url(gate: Gate) -> str:
    return f"ws://127.0.0.1:{gate.port}/chat"


async def test_messages_pass_both_ways(site: Site) -> None:
    async with echo_server(subprotocols=["a.b"]) as address:
        gate = await site.gate([address])
        async with connect(url(gate), subprotocols=["a.b"], max_size=None) as client:
            assert client.subprotocol == "a.b"
            for message in ("hello", b"\0" * 10, "x" * 300_000, b"y" * (4 << 20)):
                await client.send(message)
                assert await asyncio.wait_for(client.recv(), 20) == message
            assert await asyncio.wait_for(await client.ping(), 60) >= 0
            assert gate.in_flight() == 1
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
        assert gate.proxy.stats()["exchanges"] == 0
        assert gate.total(2)["requests.1xx"] == 1


@pytest.mark.parametrize("policy", ["auto", "least_time", "peak_ewma"])
async def test_how_long_a_conversation_lasts_is_no_latency(site: Site, policy: str) -> None:
    async with echo_server() as address:
        gate = await site.gate([address], pool={"policy": PolicyPlan(policy)})
        for _ in range(2):  # the first answer of an endpoint teaches nothing anyway
            async with connect(url(gate)) as client:
                await client.send("hello")
                assert await asyncio.wait_for(client.recv(), 20) == "hello"
            await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
        assert gate.proxy.pools[0].endpoints.latency(0) == 0


async def test_the_endpoints_close_is_the_clients(site: Site) -> None:
    async def bye(connection: ServerConnection) -> None:
        await connection.close(4000, "enough")

    async with serve(bye, "127.0.0.1", 0) as server:
        gate = await site.gate([f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"])
        async with connect(url(gate)) as client:
            with pytest.raises(websockets.ConnectionClosed) as caught:
                await client.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 4000
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_a_client_that_vanishes_frees_the_slot(site: Site) -> None:
    async with echo_server() as address:
        gate = await site.gate([address])
        client = await connect(url(gate))
        await client.send("x")
        assert await client.recv() == "x"
        client.transport.abort()
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_a_silent_tunnel_is_closed(site: Site) -> None:
    async with echo_server() as address:
        gate = await site.gate([address], listener={"upgrade_idle_timeout_ns": SECOND // 4})
        async with connect(url(gate), ping_interval=None) as client:
            with pytest.raises(websockets.ConnectionClosed):
                await asyncio.wait_for(client.recv(), 60)
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_other_protocols_are_not_asked_for(site: Site) -> None:
    heads: list[bytes] = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    gate = await site.gate([await site.endpoint(endpoint)])
    answer = await gate.exchange(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
        b"Connection: close, Upgrade, HTTP2-Settings\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"pgrade" not in heads[0]


async def test_a_refused_upgrade_is_an_answer(site: Site) -> None:
    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\nno"), 60)
        assert head.startswith(b"HTTP/1.1 403 ")
    writer.close()


async def test_over_http2(site: Site) -> None:
    async with echo_server() as address:
        gate = await site.gate([address])
        async with h2_client(gate.port) as client:
            await settle(lambda: client.h2.remote_settings.enable_connect_protocol == 1, "not announced")
            stream = client.request(
                "/chat",
                method="CONNECT",
                fields=[(":protocol", "websocket"), ("sec-websocket-version", "13")],
                end=False,
            )
            await asyncio.wait_for(client.answers[stream].begun.wait(), 60)
            assert client.answers[stream].status == 200
            assert client.answers[stream].field_of("sec-websocket-accept") is None
            await client.send(stream, b"\x81\x85\0\0\0\0hello", end=False)  # a masked text frame
            await settle(lambda: client.answers[stream].body == b"\x81\x05hello", "no echo")
            await client.send(stream, b"\x88\x82\0\0\0\0\x03\xe8", end=False)
            await asyncio.wait_for(client.answers[stream].done.wait(), 60)
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_a_stream_is_reset_when_its_endpoint_is_marked_down(site: Site) -> None:
    async with echo_server() as address:
        pool = {"on_marked_down": "shutdown_sessions"}
        gate = await site.gate([address], pool=pool, listener={"upgrades": ("websocket",)})
        slot = gate.plan.pools[0].endpoints[0].slot
        async with h2_client(gate.port) as client:
            fields = [(":protocol", "websocket"), ("sec-websocket-version", "13")]
            await settle(lambda: client.h2.remote_settings.enable_connect_protocol == 1, "not announced")
            stream = client.request("/chat", method="CONNECT", fields=fields, end=False)
            await asyncio.wait_for(client.answers[stream].begun.wait(), 60)
            gate.segment.set_health(slot, False, 0)
            await asyncio.wait_for(client.answers[stream].done.wait(), 60)
            assert client.answers[stream].reset == 2  # INTERNAL_ERROR
            await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
