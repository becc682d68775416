"""Clients of HTTP/2 that are slow, old, or flood us."""

from __future__ import annotations

import asyncio

import h2.errors
import h2.settings
import pytest
from datapath import HTTP2, SECOND, Site, settle
from h2_client import frame, h2_client
from http2_front import answering, gate_to, plain, read_request
from msgspec.structs import replace

WINDOW = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE


async def test_a_drain_finishes_what_runs_and_refuses_the_rest(site: Site) -> None:
    release = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await release.wait()
        writer.write(plain(b"late"))

    gate = await gate_to(site, handler)
    async with h2_client(gate.port) as client:
        stream = client.request("/")
        await settle(lambda: gate.in_flight() == 1, "not asked")
        gate.proxy.drain()
        await settle(lambda: client.goaway is not None, "no GOAWAY")
        assert client.goaway is not None
        assert client.goaway.error_code == 0
        assert gate.proxy.busy() > 0
        release.set()
        assert (await client.answer(stream)).body == b"late"
        await asyncio.wait_for(client.closed.wait(), 60)
    assert gate.proxy.busy() == 0


async def test_an_old_connection_is_asked_to_go(site: Site) -> None:
    gate = await gate_to(site, listener={"http2": replace(HTTP2, max_age_ns=SECOND // 5)})
    async with h2_client(gate.port) as client:
        assert (await client.fetch("/")).status == 200
        await asyncio.wait_for(client.closed.wait(), 60)
        assert client.goaway is not None
        assert client.goaway.error_code == 0


async def test_an_idle_connection_is_closed(site: Site) -> None:
    gate = await gate_to(site, listener={"idle_timeout_ns": SECOND // 5})
    async with h2_client(gate.port) as client:
        assert (await client.fetch("/")).status == 200
        await asyncio.wait_for(client.closed.wait(), 60)
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "still open")


@pytest.mark.parametrize("slow", ["body", "reader", "block"])
async def test_slow_clients_are_cut_off(site: Site, slow: str) -> None:
    gate = await gate_to(
        site,
        answering(plain(bytes(1 << 20))),
        listener={"body_timeout_ns": SECOND // 4, "send_timeout_ns": SECOND // 4, "header_timeout_ns": SECOND // 4},
    )
    async with h2_client(gate.port, manual=True, settings={WINDOW: 1000}) as client:
        if slow == "body":
            stream = client.request("/", method="POST", end=False)
            client.h2.send_data(stream, b"x")
            client.flush()
            assert (await client.answer(stream)).status == 408
        elif slow == "reader":
            stream = client.request("/")
            answer = await client.answer(stream)
            assert answer.reset is not None
            assert len(answer.body) == 1000
        else:
            client.raw(frame(1, 1, 1, b"\x82"))  # HEADERS without END_HEADERS
            await asyncio.wait_for(client.closed.wait(), 60)
    await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
    await settle(lambda: gate.proxy.stats()["exchanges"] == 0, "the exchange is still there")


FLOODS = {
    "ping": frame(6, 0, 0, bytes(8)),
    "settings": frame(4, 0, 0),
    "window": frame(8, 0, 0, b"\0\0\0\1"),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_control_frames_ends_the_connection(site: Site, kind: str) -> None:
    gate = await gate_to(site, listener={"http2": replace(HTTP2, control_rate=20)})
    async with h2_client(gate.port) as other, h2_client(gate.port) as client:
        assert (await client.fetch("/")).status == 200
        client.raw(FLOODS[kind] * 4000)
        await asyncio.wait_for(client.closed.wait(), 60)
        assert (await other.fetch("/")).status == 200
    assert gate.total(1)["http2_floods"] == 1


async def test_empty_frames_end_the_connection(site: Site) -> None:
    gate = await gate_to(site, listener={"http2": replace(HTTP2, control_rate=20)})
    async with h2_client(gate.port) as client:
        stream = client.request("/", method="POST", end=False)
        client.raw(frame(0, 0, stream) * 2000)
        await asyncio.wait_for(client.closed.wait(), 60)
    await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


@pytest.mark.parametrize("piece", [0, 1, 7, 12])
async def test_a_stream_that_is_reset_at_once_costs_nothing(site: Site, piece: int) -> None:
    """In one write nothing of it reaches an endpoint, wherever earlier writes cut its frames; others are served."""
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    gate = await gate_to(site, answer)
    async with h2_client(gate.port) as client:
        client.flush = lambda: None  # type: ignore[method-assign]
        streams = [client.request(f"/{number}") for number in range(20)]
        for stream in streams[::2]:
            client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        data = client.h2.data_to_send()
        for at in range(piece):
            client.raw(data[at : at + 1])
            await client.writer.drain()
            await asyncio.sleep(0.002)
        client.raw(data[piece:])
        del client.flush
        for stream in streams[1::2]:
            assert (await client.answer(stream)).status == 200
    assert sorted(asked) == sorted(b"/%d" % number for number in range(1, 20, 2))
    await settle(lambda: gate.in_flight() == 0, "slots are still taken")


async def test_a_rapid_reset_ends_the_connection(site: Site) -> None:
    gate = await gate_to(site, listener={"http2": replace(HTTP2, reset_rate=20)})
    async with h2_client(gate.port) as client:
        for _ in range(400):
            if client.closed.is_set() or client.goaway:
                break
            stream = client.request("/")
            client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
            client.flush()
            await asyncio.sleep(0)
        await asyncio.wait_for(client.closed.wait(), 60)
    await settle(lambda: gate.in_flight() == 0, "slots are still taken")
    assert gate.proxy.stats()["exchanges"] == 0


async def test_a_continuation_flood_ends_the_connection(site: Site) -> None:
    gate = await gate_to(site)
    async with h2_client(gate.port) as client:
        client.raw(frame(1, 1, 1, b"\x82"))
        for _ in range(2000):
            if client.closed.is_set():
                break
            client.raw(frame(9, 0, 1, b"\x40\x01a\x7f\x00" + b"b" * 127))
            await asyncio.sleep(0)
        await asyncio.wait_for(client.closed.wait(), 15)


async def test_more_streams_than_allowed_are_refused(site: Site) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await reader.read()

    gate = await gate_to(site, silent, listener={"http2": replace(HTTP2, max_streams=3)})
    async with h2_client(gate.port) as client:
        await settle(lambda: client.h2.remote_settings.max_concurrent_streams == 3, "no settings")
        for _ in range(3):
            client.request("/")
        await settle(lambda: gate.in_flight() == 3, "not asked")
        client.raw(frame(1, 5, 7, b"\x82\x86\x84\x41\x01a"))
        await asyncio.sleep(0.1)
        assert gate.in_flight() <= 3
