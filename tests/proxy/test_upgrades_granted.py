"""An endpoint's 101 is believed where it grants what was asked for (RFC 9110 section 7.8, RFC 6455 section 4.2.2)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import Any

import pytest
from datapath import Gate, Site, settle
from h2_client import h2_client
from test_http1_edges import answering

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3
WRONG = [
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + KEY + b"\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Accept: %s\r\n",
    b"Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n",
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n",
    b"Upgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n",
    b"Upgrade: websocket\r\nConnection: close\r\nSec-WebSocket-Accept: %s\r\n",
]
RIGHT = b"Upgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Accept: %s\r\n"
CONNECT = [(":protocol", "websocket"), ("sec-websocket-version", "13")]


def granted(head: bytes, fields: bytes = RIGHT, status: bytes = b"101 Switching Protocols") -> bytes:
    """The answer to a request for a WebSocket."""
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
    made = base64.b64encode(hashlib.sha1((key[1] if key else b"") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return b"HTTP/1.1 " + status + b"\r\n" + fields.replace(b"%s", made) + b"\r\n"


def granting(fields: bytes, status: bytes = b"101 Switching Protocols") -> Any:
    """`fields` with the right Sec-WebSocket-Accept for each %s."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(granted(await reader.readuntil(b"\r\n\r\n"), fields, status))
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    return handler


async def ask(gate: Gate, fields: bytes = b"Sec-WebSocket-Key: " + KEY + b"\r\n", name: bytes = b"websocket") -> bytes:
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: " + name + b"\r\nConnection: Upgrade\r\n" + fields + b"\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    writer.close()
    return head


@pytest.mark.parametrize("fields", WRONG)
async def test_a_grant_of_something_else_is_none(site: Site, fields: bytes) -> None:
    gate = await site.gate([await site.endpoint(granting(fields))])
    assert (await ask(gate)).startswith(b"HTTP/1.1 502 ")
    async with h2_client(gate.port) as client:
        await settle(lambda: client.h2.remote_settings.enable_connect_protocol == 1, "not announced")
        stream = client.request("/", method="CONNECT", fields=CONNECT, end=False)
        assert (await client.answer(stream)).status == 502
    await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_a_grant_of_what_was_asked_for_is_one(site: Site) -> None:
    gate = await site.gate([await site.endpoint(granting(RIGHT))])
    head = await ask(gate)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n" in head
    async with h2_client(gate.port) as client:
        await settle(lambda: client.h2.remote_settings.enable_connect_protocol == 1, "not announced")
        stream = client.request("/", method="CONNECT", fields=CONNECT, end=False)
        await asyncio.wait_for(client.answers[stream].begun.wait(), 60)
        assert client.answers[stream].status == 200


async def test_a_websocket_without_a_key_is_granted_by_nobody(site: Site) -> None:
    gate = await site.gate([await site.endpoint(granting(RIGHT))])
    assert (await ask(gate, b"")).startswith(b"HTTP/1.1 502 ")


async def test_other_protocols_have_no_key(site: Site) -> None:
    listener = {"upgrades": ("echo",)}
    gate = await site.gate(
        [await site.endpoint(granting(b"Upgrade: echo\r\nConnection: Upgrade\r\n"))], listener=listener
    )
    assert (await ask(gate, b"", b"echo")).startswith(b"HTTP/1.1 101 ")
    gate = await site.gate(
        [await site.endpoint(granting(b"Upgrade: other\r\nConnection: Upgrade\r\n"))], listener=listener
    )
    assert (await ask(gate, b"", b"echo")).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    ("status", "seen"), [("200 OK", 502), ("204 No Content", 502), ("403 No", 403), ("302 Found", 302)]
)
async def test_a_stream_is_granted_by_101_alone(site: Site, status: str, seen: int) -> None:
    """To a client of RFC 8441 every 2xx is a grant."""
    gate = await site.gate([await site.endpoint(granting(b"Content-Length: 0\r\n", status.encode()))])
    async with h2_client(gate.port) as client:
        await settle(lambda: client.h2.remote_settings.enable_connect_protocol == 1, "not announced")
        stream = client.request("/", method="CONNECT", fields=CONNECT, end=False)
        assert (await client.answer(stream)).status == seen


async def test_a_pool_that_has_no_websockets_grants_none(site: Site) -> None:
    gate = await site.gate(["127.0.0.1:1"], pool={"protocol": "http2"})
    async with h2_client(gate.port) as client:
        await settle(lambda: client.h2.remote_settings.enable_connect_protocol == 1, "not announced")
        stream = client.request("/", method="CONNECT", fields=CONNECT, end=False)
        assert (await client.answer(stream)).status == 501


async def test_426_says_to_what(site: Site) -> None:
    """RFC 9110 section 15.5.22."""
    fields = b"Upgrade: websocket, TLS/1.3\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n"
    gate = await site.gate([await site.endpoint(answering(b"HTTP/1.1 426 Upgrade Required\r\n" + fields))])
    head = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nUpgrade: websocket, TLS/1.3\r\nConnection: Upgrade\r\n" in head
    async with h2_client(gate.port) as client:
        got = await client.fetch("/")
        assert got.status == 426
        assert got.field_of("upgrade") is None  # RFC 9113 section 8.2.2


async def test_other_answers_keep_it_back(site: Site) -> None:
    gate = await site.gate(
        [await site.endpoint(granting(b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 0\r\n", b"200 OK"))]
    )
    assert b"pgrade" not in await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
