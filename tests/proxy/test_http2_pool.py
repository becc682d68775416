"""Pools that speak HTTP/2, behind clients that speak either; nghttpd is the endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest
from datapath import SECOND, Site, settle
from h2_client import h2_client
from ports import free_port
from scripted_peer import Peer, Scripted

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
            assert gate.total(2)["sent_bytes"] == 0  # not finished
            other = await gate.exchange(b"HEAD /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b" 200 " in other
            client.h2.reset_stream(stream)
            client.flush()
            await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


@pytest.mark.parametrize("status", [242, 555, 999])
async def test_a_status_without_a_name(site: Site, status: int) -> None:
    """HTTP/1.1 wants a reason phrase, for which HTTP/2 has no place."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    connection.send_headers(event.stream_id, [(":status", str(status))], end_stream=True)
            writer.write(connection.data_to_send())

    gate = await site.gate([await site.endpoint(handler)], pool=HTTP2_POOL)
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d Unknown\r\n" % status)


class Refusing:
    """Reads requests to their ends; the first is not processed: by `how`, a GOAWAY or a stream refused."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.bodies: list[bytes] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        bodies: dict[int, bytes] = {}
        while True:
            writer.write(connection.data_to_send())
            data = await reader.read(1 << 16)
            if not data:
                return
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    bodies[event.stream_id] = b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.bodies.append(bodies[event.stream_id])
                    if len(self.bodies) > 1:
                        connection.send_headers(event.stream_id, [(":status", "200")])
                        connection.send_data(event.stream_id, b"%d" % len(self.bodies[-1]), end_stream=True)
                    elif self.how == "refused":
                        connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
                    else:
                        connection.close_connection(last_stream_id=0)
                        writer.write(connection.data_to_send())
                        writer.close()
                        return


@pytest.mark.parametrize("how", ["goaway", "refused"])
@pytest.mark.parametrize("parts", [[100], [1000, 1, 30_000], [65_536]], ids=["one", "three", "most"])
async def test_a_request_that_was_not_processed_is_sent_again_with_its_body(
    site: Site, how: str, parts: list[int]
) -> None:
    endpoint = Refusing(how)
    gate = await site.gate([await site.endpoint(endpoint.handle)], pool=HTTP2_POOL)
    async with h2_client(gate.port) as client:
        stream = client.request("/", method="POST", end=False)
        for i, size in enumerate(parts):
            await client.send(stream, bytes([65 + i]) * size, end=i == len(parts) - 1)
            await asyncio.sleep(0.05)
        answer = await asyncio.wait_for(client.answer(stream), 10)
    assert (answer.status, answer.body) == (200, b"%d" % sum(parts))
    body = b"".join(bytes([65 + i]) * size for i, size in enumerate(parts))
    assert endpoint.bodies == [body, body]
    assert gate.in_flight() == 0


@pytest.mark.parametrize("how", ["goaway", "refused"])
async def test_a_request_over_the_retry_buffer_is_not(site: Site, how: str) -> None:
    endpoint = Refusing(how)
    gate = await site.gate([await site.endpoint(endpoint.handle)], pool=HTTP2_POOL)
    async with h2_client(gate.port) as client:
        answer = await asyncio.wait_for(client.fetch("/", body=bytes(65_537)), 10)
    assert answer.status == 502
    assert endpoint.bodies == [bytes(65_537)]
    assert gate.in_flight() == 0


async def test_an_endpoint_that_takes_no_more_of_an_upload_has_response_timeout(site: Site) -> None:
    """Nobody else would end it: a client that leaves an upload that nobody reads cannot be told from one that waits."""

    async def reads_nothing(peer: Peer) -> None:
        await peer.settle()
        while True:
            await peer.next_frame()

    async with Scripted(reads_nothing) as address:
        gate = await site.gate([address], pool=HTTP2_POOL | {"response_timeout_ns": SECOND // 2})
        reader, writer = await gate.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n" + bytes(1 << 20))
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 504 ")
        writer.close()
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")
