"""Pools that speak HTTP/2, behind clients that speak either; nghttpd is the endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from datapath import Site, free_port, settle
from h2_client import h2_client

HTTP2_POOL = {"protocol": "http2"}


@contextlib.asynccontextmanager
async def nghttpd(folder: Path) -> AsyncIterator[str]:
    """nghttpd (nghttp2's own server) over `folder`, which echoes what is uploaded."""
    binary = shutil.which("nghttpd")
    assert binary, "nghttpd is missing: apt-get install nghttp2-server"
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        binary, "--no-tls", "--echo-upload", "-d", str(folder), "-a", "127.0.0.1", str(port),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def test_http1_in_front(site: Site, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(range(256)) * 8192)
    async with nghttpd(tmp_path) as address:
        gate = await site.gate([address], pool=HTTP2_POOL)
        answer = await gate.exchange(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == bytes(range(256)) * 8192
        posted = await gate.exchange(
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\n\r\n"
        )
        assert posted.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"abc" in posted
        missing = await gate.exchange(b"GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert missing.startswith(b"HTTP/1.1 404 ")
        headed = await gate.exchange(b"HEAD /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert headed.endswith(b"\r\n\r\n")
        assert gate.in_flight() == 0


@pytest.mark.parametrize("size", [0, 1, 100_000, 4 << 20])
async def test_http2_in_front(site: Site, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"z" * size)
    async with nghttpd(tmp_path) as address:
        gate = await site.gate([address], pool=HTTP2_POOL)
        async with h2_client(gate.port) as client:
            got = await client.fetch("/file")
            assert (got.status, got.body) == (200, b"z" * size)
            body = bytes(i % 253 for i in range(size))
            posted = await client.fetch("/", body=body)
            assert posted.status == 200
            assert posted.body == body
        assert gate.in_flight() == 0


async def test_many_streams_share_one_connection(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"here")
    async with nghttpd(tmp_path) as address:
        gate = await site.gate([address], pool=HTTP2_POOL)
        async with h2_client(gate.port) as one, h2_client(gate.port) as two:
            answers = await asyncio.gather(*(c.fetch("/file") for c in (one, two) for _ in range(100)))
        assert {a.body for a in answers} == {b"here"}
        (channel,) = gate.proxy.channels.values()
        assert channel.stats()["connects"] == 1
        assert channel.stats()["active"] == 0


async def test_an_endpoint_that_is_not_there(site: Site) -> None:
    gate = await site.gate([f"127.0.0.1:{free_port()}"], pool=HTTP2_POOL)
    async with h2_client(gate.port) as client:
        assert (await client.fetch("/")).status == 502
        posted = await client.fetch("/", body=b"x" * 1000)
        assert posted.status == 502


async def test_a_dead_endpoint_is_left_for_a_live_one(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"here")
    async with nghttpd(tmp_path) as address:
        gate = await site.gate([f"127.0.0.1:{free_port()}", address], pool=HTTP2_POOL)
        async with h2_client(gate.port) as client:
            for _ in range(6):
                assert (await client.fetch("/file")).body == b"here"


async def test_a_client_that_does_not_read_holds_the_endpoint_back(site: Site, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(16 << 20))
    async with nghttpd(tmp_path) as address:
        gate = await site.gate([address], pool=HTTP2_POOL)
        async with h2_client(gate.port, manual=True) as client:
            stream = client.request("/big")
            await settle(lambda: len(client.answers[stream].body) == 65535, "the first window did not come")
            await asyncio.sleep(0.3)
            assert gate.total(2)[9] == 0  # not finished
            other = await gate.exchange(b"HEAD /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b" 200 " in other
            client.h2.reset_stream(stream)
            client.flush()
            await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
