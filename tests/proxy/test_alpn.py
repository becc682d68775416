"""What a client has agreed on by ALPN is what it speaks (RFC 7301 section 3.2, RFC 9113 section 3.2)."""

from __future__ import annotations

import asyncio

import pytest
from datapath import Site
from h2_client import h2_client
from tls_site import AUTHORITY, answer_ok, https

BOTH = ("h2", "http/1.1")
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


async def say(port: int, agreed: list[str], data: bytes) -> bytes:
    """What comes back for `data`, up to the end."""
    context = AUTHORITY.client_context()
    if agreed:
        context.set_alpn_protocols(agreed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="default.test")
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(-1), 10)
    writer.close()
    return answer


async def test_http1_is_refused_where_http2_was_agreed_on(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(alpn=BOTH))
    answer = await say(gate.port, ["h2"], GET)
    assert b"HTTP/1.1" not in answer
    assert gate.total(2)["requests.2xx"] == 0  # no request was answered


@pytest.mark.parametrize(
    ("offered", "agreed"), [(BOTH, ["http/1.1"]), (("http/1.1",), ["http/1.1"]), (("http/1.1",), []), ((), [])]
)
async def test_http2_is_refused_where_it_was_not(site: Site, offered: tuple[str, ...], agreed: list[str]) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(alpn=offered))
    assert (await say(gate.port, agreed, PREFACE)).startswith(b"HTTP/1.1 400 ")
    assert (await say(gate.port, agreed, GET)).startswith(b"HTTP/1.1 200 ")


async def test_each_is_served_where_it_was(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(alpn=BOTH))
    assert (await say(gate.port, ["http/1.1"], GET)).startswith(b"HTTP/1.1 200 ")
    context = AUTHORITY.client_context()
    context.set_alpn_protocols(["h2"])
    async with h2_client(gate.port, secured=context, name="default.test") as client:
        assert (await client.fetch("/")).status == 200
