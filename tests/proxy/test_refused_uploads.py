"""Uploads that are refused while they come: the client that sends all of its request first has its answer, too."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from datapath import SECOND, Gate, Site, settle
from http2_front import answering, plain
from tls_site import AUTHORITY, https

from lb.config.plan.routes import RatePlan

PIECE = bytes(1 << 20)
PIECES = 32  # more than all buffers on the way take
LENGTH = b"Content-Length: %d\r\n" % (PIECES * len(PIECE))
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ONE_AN_HOUR = RatePlan(interval_ns=3600 * SECOND, burst=1, key="", key_name="", fields="off")


async def gate_of(site: Site, route: dict[str, Any], tls: bool = False) -> Gate:
    endpoint = await site.endpoint(answering(plain(b"ok")))
    return await site.gate([endpoint], route=route, listener=https() if tls else None)


def send_and_read(port: int, fields: bytes, tls: bool = False) -> bytes:
    """The answer to a request of which every byte is sent before any of the answer is looked at."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        if tls:
            secured = AUTHORITY.client_context().wrap_socket(client, server_hostname="default.test")
            client = stack.enter_context(secured)
        client.sendall(b"POST /up HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
        for _ in range(PIECES):
            client.sendall(b"%x\r\n" % len(PIECE) + PIECE + b"\r\n" if fields == CHUNKED else PIECE)
        if fields == CHUNKED:
            client.sendall(b"0\r\n\r\n")
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize("fields", [LENGTH, CHUNKED, LENGTH + b"Connection: close\r\n"])
@pytest.mark.parametrize(
    ("route", "status"),
    [
        ({"max_body": 1000}, b"413"),
        ({"path_kind": "exact", "path": "/else"}, b"404"),
        ({"methods": ("GET",)}, b"405"),
        ({"rate_limit": ONE_AN_HOUR}, b"429"),
    ],
)
async def test_it_is_read_away(site: Site, route: dict[str, Any], status: bytes, fields: bytes) -> None:
    gate = await gate_of(site, route)
    if status == b"429":
        assert b" 200 OK" in await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = await asyncio.to_thread(send_and_read, gate.port, fields)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert b"\r\nConnection: close\r\n" in answer
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")


async def test_it_is_read_away_through_tls(site: Site) -> None:
    gate = await gate_of(site, {"max_body": 1000}, tls=True)
    answer = await asyncio.to_thread(send_and_read, gate.port, LENGTH, tls=True)
    assert answer.startswith(b"HTTP/1.1 413 ")
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")


async def test_whoever_says_nothing_more_is_not_waited_for(site: Site) -> None:
    gate = await gate_of(site, {"max_body": 1000})
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + LENGTH + b"\r\n" + PIECE)
    answer = await asyncio.wait_for(reader.read(), 20)
    assert answer.startswith(b"HTTP/1.1 413 ")
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")
    writer.close()


async def test_a_drain_does_not_wait_for_what_is_read_away(site: Site) -> None:
    gate = await gate_of(site, {"max_body": 1000})
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\n%x\r\n" % (1 << 40))

    async def go_on() -> None:
        while True:
            writer.write(PIECE)
            await writer.drain()

    task = asyncio.create_task(go_on())
    answer = await asyncio.wait_for(reader.read(), 20)
    assert answer.startswith(b"HTTP/1.1 413 ")
    gate.proxy.drain()
    assert gate.proxy.stats()["connections"] == 1  # still one of max_connections
    await settle(lambda: gate.proxy.busy() == 0, "the drain waits")
    assert not task.done()
    gate.proxy.close()
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(task, 20)
    writer.close()
