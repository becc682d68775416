"""Endpoints that talk without end, beside one that is well."""

from __future__ import annotations

import asyncio

import psutil
import pytest
from datapath import SECOND, Site, settle
from flooding_peer import FLOODS, IDLE_TALK, FloodingPeer, asks
from h2_client import h2_client
from http2_front import answering, plain
from hyperframe.frame import HeadersFrame, SettingsFrame
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
    peer = FloodingPeer(FLOODS[flood], reads=True)
    await peer.start()
    well = await site.endpoint(answering(plain(b"well")))
    flooded = await site.gate(
        [peer.address], pool={"protocol": "http2", "retries": 0, "response_timeout_ns": 60 * SECOND}
    )
    gate = await site.gate([well])
    asked = asyncio.create_task(flooded.exchange(GET))
    for _ in range(20):
        assert (await gate.exchange(GET)).endswith(b"well")
    assert (await asked).split()[1] == b"502"
    peer.close()


@pytest.mark.parametrize("talk", IDLE_TALK)
async def test_a_connection_that_brings_no_answer_on_is_ended(site: Site, talk: str) -> None:
    """Nothing of it waits for the endpoint, which reads all."""
    peer = FloodingPeer(IDLE_TALK[talk], waits=True)
    await peer.start()
    gate = await site.gate([peer.address], pool={"protocol": "http2", "retries": 0, "response_timeout_ns": 60 * SECOND})
    answer = await gate.exchange(GET)
    # Of what has begun with a head no other answer can be made: it is cut.
    last = answer.split(b"HTTP/1.1 ")[-1]
    assert last.startswith(b"200 " if talk == "data of nothing" else b"502 ")
    assert peer.made >= 1
    await settle(lambda: peer.open == 0, "a connection stays")
    assert gate.in_flight() == 0
    peer.close()


@pytest.mark.parametrize("talk", ["windows", "unknown frames", "interim answers"])
async def test_it_is_ended_when_its_client_has_gone(site: Site, talk: str) -> None:
    peer = FloodingPeer(IDLE_TALK[talk], waits=True)
    await peer.start()
    gate = await site.gate([peer.address], pool={"protocol": "http2", "retries": 0, "response_timeout_ns": 60 * SECOND})
    _, writer = await gate.connect()
    writer.write(GET)
    await settle(lambda: peer.made == 1, "not asked")
    writer.transport.abort()
    await settle(lambda: peer.open == 0 and gate.in_flight() == 0, "a connection stays")
    peer.close()


@pytest.mark.parametrize(("hints", "status"), [(100, b"200"), (101, b"502")])
@pytest.mark.parametrize("protocol", ["http", "http2"])
async def test_a_hundred_interim_answers_pass_and_no_more(site: Site, protocol: str, hints: int, status: bytes) -> None:
    async def over_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * hints)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def over_http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SettingsFrame(0).serialize())
        while not asks(await reader.read(65536)):
            pass
        writer.write(HeadersFrame(1, b"\x08\x03103", flags=["END_HEADERS"]).serialize() * hints)
        writer.write(HeadersFrame(1, b"\x88", flags=["END_HEADERS", "END_STREAM"]).serialize())

    address = await site.endpoint(over_http1 if protocol == "http" else over_http2)
    gate = await site.gate([address], pool={"protocol": protocol, "retries": 0})
    answer = await gate.exchange(GET)
    assert answer.count(b"HTTP/1.1 103") in (100, hints)
    assert answer.split(b"HTTP/1.1 ")[-1].startswith(status)
    assert gate.in_flight() == 0


@pytest.mark.parametrize("version", [1, 2])
async def test_informational_answers_without_end_take_no_memory(site: Site, version: int) -> None:
    """Even of a client that reads none of them."""
    asked = asyncio.Event()

    async def saying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 1000)
            await writer.drain()
            await asyncio.sleep(0)

    pool = {"retries": 0, "response_timeout_ns": 60 * SECOND}
    gate = await site.gate([await site.endpoint(saying)], pool=pool)
    before = psutil.Process().memory_info().rss
    if version == 1:
        _, writer = await gate.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET)
        await settle(asked.is_set, "not asked")
        await settle(lambda: gate.in_flight() == 0, "it goes on for ever")
        writer.close()
    else:
        async with h2_client(gate.port) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.request("/")
            await settle(asked.is_set, "not asked")
            await settle(lambda: gate.in_flight() == 0, "it goes on for ever")
    assert psutil.Process().memory_info().rss - before < MOST
