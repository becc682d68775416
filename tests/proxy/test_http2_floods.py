"""Endpoints that make the gate answer without end and never read, beside one that is well."""

from __future__ import annotations

import asyncio

import psutil
import pytest
from datapath import SECOND, Site, settle
from flooding_peer import FLOODS, FloodingPeer
from h2_client import h2_client
from http2_front import answering, plain
from test_grpc import GRPC_POOL

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
MOST = 32 << 20  # bytes of memory


@pytest.mark.parametrize("flood", ["ping", "settings", "settings that change", "windows of nothing"])
async def test_the_connection_fails_and_its_requests_get_502(site: Site, flood: str) -> None:
    peer = FloodingPeer(FLOODS[flood])
    await peer.start()
    gate = await site.gate([peer.address], pool={"protocol": "http2", "retries": 0, "response_timeout_ns": 60 * SECOND})
    before = psutil.Process().memory_info().rss
    for _ in range(3):
        assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 502 ")
    async with h2_client(gate.port) as client:
        answers = await asyncio.gather(*(client.fetch("/") for _ in range(20)))
    assert {answer.status for answer in answers} <= {502, 503}
    assert psutil.Process().memory_info().rss - before < MOST
    assert gate.in_flight() == 0
    await settle(lambda: peer.open == 0, "a connection stays")
    peer.close()


async def test_a_call_gets_unavailable_or_internal(site: Site) -> None:
    peer = FloodingPeer(FLOODS["ping"])
    await peer.start()
    gate = await site.gate([peer.address], pool={**GRPC_POOL, "retries": 0, "response_timeout_ns": 60 * SECOND})
    async with h2_client(gate.port) as client:
        fields = [("content-type", "application/grpc"), ("te", "trailers")]
        answer = await client.fetch("/a.B/C", body=bytes(5), fields=fields)
        assert answer.field_of("grpc-status") in ("13", "14")
    assert gate.in_flight() == 0
    await settle(lambda: peer.open == 0, "a connection stays")
    peer.close()


@pytest.mark.parametrize("flood", ["ping", "settings"])
async def test_others_are_served_beside_one_that_floods_and_reads(site: Site, flood: str) -> None:
    """It does nothing that ends the connection; its request runs into its time."""
    peer = FloodingPeer(FLOODS[flood], reads=True)
    await peer.start()
    well = await site.endpoint(answering(plain(b"well")))
    flooded = await site.gate([peer.address], pool={"protocol": "http2", "retries": 0, "response_timeout_ns": SECOND})
    gate = await site.gate([well])
    asked = asyncio.create_task(flooded.exchange(GET))
    for _ in range(20):
        assert (await gate.exchange(GET)).endswith(b"well")
    assert (await asked).split()[1] in (b"502", b"504")
    peer.close()


@pytest.mark.parametrize("version", [1, 2])
async def test_informational_answers_without_end_take_no_memory(site: Site, version: int) -> None:
    """Even of a client that reads none of them."""

    async def saying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 1000)
            await writer.drain()
            await asyncio.sleep(0)

    pool = {"retries": 0, "response_timeout_ns": 3 * SECOND}
    gate = await site.gate([await site.endpoint(saying)], pool=pool)
    before = psutil.Process().memory_info().rss
    if version == 1:
        _, writer = await gate.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET)
        await settle(lambda: gate.in_flight() == 1, "not asked")
        await settle(lambda: gate.in_flight() == 0, "it goes on for ever")
        writer.close()
    else:
        async with h2_client(gate.port) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.request("/")
            await settle(lambda: gate.in_flight() == 1, "not asked")
            await settle(lambda: gate.in_flight() == 0, "it goes on for ever")
    assert psutil.Process().memory_info().rss - before < MOST
