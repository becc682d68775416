"""Answers that break off: what came of them goes out, then the client can tell, and they count as failures."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from datapath import Gate, Site, settle
from h2_client import H2Client, h2_client
from test_http2_lengths import HTTP2_POOL
from tls_site import AUTHORITY, https

HEAD = b"HTTP/1.1 200 OK\r\nX-Seen: 1\r\n"
CUT = {
    "length": HEAD + b"Content-Length: 20\r\n\r\nhe",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n",
    "chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n14\r\nhe",
}
ROUTE = 2  # its series


def ending(answer: bytes, reset: bool = False) -> Any:
    """An endpoint that gives `answer` together with its end."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if reset:
            writer.transport.abort()
        else:
            writer.close()

    return handler


async def idle(gate: Gate) -> None:
    await settle(lambda: gate.proxy.busy() == 0 and gate.in_flight() == 0, "something is still in flight")


def codes(gate: Gate, series: int = ROUTE) -> list[int]:
    """Answers of the classes 1xx to 5xx."""
    found = gate.total(series).values("requests")
    return [found[f"{first}xx"] for first in range(1, 6)]


@pytest.mark.parametrize("how", CUT)
@pytest.mark.parametrize("reset", [False, True])
async def test_what_came_goes_out_over_http1(site: Site, how: str, reset: bool) -> None:
    gate = await site.gate([await site.endpoint(ending(CUT[how], reset=reset))])
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\nX-Seen: 1\r\n")
    assert answer.endswith(b"he\r\n" if b"chunked" in answer else b"\r\n\r\nhe")
    await idle(gate)
    assert codes(gate) == [0, 0, 0, 0, 1]
    assert codes(gate, 10) == [0, 0, 0, 0, 1]  # its endpoint's


async def test_a_client_of_http10_can_tell(site: Site) -> None:
    gate = await site.gate([await site.endpoint(ending(CUT["chunked"]))])
    loop = asyncio.get_running_loop()
    got = b""
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", gate.port))
        await loop.sock_sendall(client, b"GET / HTTP/1.0\r\n\r\n")
        while not got.endswith(b"\r\n\r\nhe"):
            piece = await asyncio.wait_for(loop.sock_recv(client, 4096), 60)
            assert piece, "it ended as if it were whole"
            got += piece
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(loop.sock_recv(client, 4096), 60)
    assert got.startswith(b"HTTP/1.1 200 ")
    await idle(gate)
    assert codes(gate) == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("how", CUT)
async def test_what_came_goes_out_over_http2(site: Site, how: str) -> None:
    gate = await site.gate([await site.endpoint(ending(CUT[how]))])
    async with h2_client(gate.port) as client:
        answer = await client.answer(client.request("/"))
        assert (answer.status, answer.field_of("x-seen"), answer.body) == (200, "1", b"he")
        assert answer.reset is not None
    await idle(gate)
    assert codes(gate) == [0, 0, 0, 0, 1]


async def test_it_goes_out_before_the_end_over_tls(site: Site) -> None:
    gate = await site.gate([await site.endpoint(ending(CUT["length"]))], listener=https())
    context = AUTHORITY.client_context()
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, ssl=context, server_hostname="default.test")
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200 ")
    assert await asyncio.wait_for(reader.readexactly(2), 60) == b"he"
    writer.close()
    await idle(gate)


@pytest.mark.parametrize("front", ["http1", "http2"])
@pytest.mark.parametrize("length", [True, False])
async def test_an_http2_endpoint_that_breaks_off(site: Site, front: str, length: bool) -> None:
    fields = [(":status", "200"), ("x-seen", "1")] + ([("content-length", "20")] if length else [])
    gate = await site.gate([await site.endpoint(resetting(fields, b"he"))], pool=HTTP2_POOL)
    if front == "http1":
        answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\nx-seen: 1\r\n")
        assert answer.endswith(b"\r\n\r\nhe" if length else b"2\r\nhe\r\n")
    else:
        async with h2_client(gate.port) as client:
            got = await client.answer(client.request("/"))
            assert (got.status, got.body) == (200, b"he")
            assert got.reset is not None
    await idle(gate)
    assert codes(gate) == [0, 0, 0, 0, 1]
    assert codes(gate, 10) == [0, 0, 0, 0, 1]


def resetting(fields: list[tuple[str, str]], body: bytes) -> Any:
    """An HTTP/2 endpoint that gives a head, the begin of a body, and RST_STREAM in one segment."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    connection.send_headers(event.stream_id, fields)
                    connection.send_data(event.stream_id, body)
                    connection.reset_stream(event.stream_id, 2)
            writer.write(connection.data_to_send())

    return handler


async def test_a_slow_client_gets_all_that_came(site: Site) -> None:
    """More than sockets hold: the rest of it waits for the client, and the end for the rest."""
    body = b"x" * (4 << 20)
    answer = HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body
    gate = await site.gate([await site.endpoint(ending(answer))])
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=4096)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    got = await asyncio.wait_for(reader.read(-1), 20)
    assert len(got) == len(body)
    writer.close()
    await idle(gate)


async def test_a_stream_gets_all_that_came_as_its_window_opens(site: Site) -> None:
    body = b"x" * 200_000
    answer = HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body
    gate = await site.gate([await site.endpoint(ending(answer))])
    async with h2_client(gate.port, manual=True) as client:
        stream = client.request("/")
        await settle(lambda: len(client.answers[stream].body) == 65535, "the window is not used up")
        assert not client.answers[stream].done.is_set()
        await grow(client, stream, len(body))
        assert len((await client.answer(stream)).body) == len(body)
        assert client.answers[stream].reset is not None
    await idle(gate)
    assert codes(gate) == [0, 0, 0, 0, 1]


async def grow(client: H2Client, stream: int, size: int) -> None:
    client.h2.increment_flow_control_window(size)
    client.h2.increment_flow_control_window(size, stream)
    client.flush()


async def test_a_stream_that_opens_no_window_is_given_up(site: Site) -> None:
    body = b"x" * 200_000
    answer = HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body
    listener = {"send_timeout_ns": 300_000_000}
    gate = await site.gate([await site.endpoint(ending(answer))], listener=listener)
    async with h2_client(gate.port, manual=True) as client:
        got = await client.answer(client.request("/"))
        assert len(got.body) == 65535
        assert got.reset is not None
    await idle(gate)
