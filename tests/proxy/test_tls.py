"""TLS in front: versions, names and certificates, requests and bodies."""

from __future__ import annotations

import asyncio
import re
import ssl

import pytest
from datapath import Site, settle
from tls_site import AUTHORITY, BLOCK, answer_ok, connect, echo_body, get, https, version


@pytest.mark.parametrize("name", ["TLSv1_2", "TLSv1_3"])
async def test_requests_pass_and_the_endpoint_learns_of_tls(site: Site, name: str) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    reader, writer = await connect(gate, version(name))
    for _ in range(3):
        head = await get(reader, writer, "X-Forwarded-Proto: http\r\n")
        assert "X-Forwarded-Proto: https\r\n" in head
        assert "X-Forwarded-Proto: http\r\n" not in head
    secured = writer.get_extra_info("ssl_object")
    assert secured.version() == name.replace("_", ".")
    assert secured.selected_alpn_protocol() is None
    writer.close()
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "the connection stays")
    assert list(gate.total(1).values("tls_handshakes").values()) == [1, 0, 0]


@pytest.mark.parametrize("name", ["TLSv1_2", "TLSv1_3"])
async def test_big_bodies_pass_both_ways(site: Site, name: str) -> None:
    gate = await site.gate([await site.endpoint(echo_body)], listener=https())
    reader, writer = await connect(gate, version(name))
    for size in (1, 16383, 16384, 16385, 65536, len(BLOCK), 3):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(BLOCK[:size])
        await writer.drain()
        await asyncio.sleep(0.05 if size > 100_000 else 0)  # the answer piles up meanwhile
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 200"), head
        assert await asyncio.wait_for(reader.readexactly(size), 20) == BLOCK[:size]
    writer.close()


async def test_pipelined_requests_in_one_record(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    reader, writer = await connect(gate, AUTHORITY.client_context())
    writer.write(
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    for i in (1, 2, 3):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None
        assert (await reader.readexactly(int(length[1]))).startswith(b"GET /%d " % i)
    writer.close()


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("a.example.org", "a.example.org"),
        ("A.EXAMPLE.org", "a.example.org"),
        ("b.example.org", "*.example.org"),
        ("default.test", "default.test"),
        ("unknown.test", "default.test"),
        ("deep.b.example.org", "default.test"),  # a wildcard is for one label
        ("example.org", "default.test"),
        (None, "default.test"),
    ],
)
async def test_the_name_chooses_the_certificate(site: Site, asked: str | None, shown: str) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    context = AUTHORITY.client_context()
    context.check_hostname = False
    reader, writer = await connect(gate, context, asked or "")
    await get(reader, writer)
    found = writer.get_extra_info("peercert")["subjectAltName"]
    assert found == (("DNS", shown),)
    writer.close()


async def test_alpn(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https())
    context = AUTHORITY.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    reader, writer = await connect(gate, context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    await get(reader, writer)
    writer.close()
    context = AUTHORITY.client_context()
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        await connect(gate, context)


async def test_old_versions_are_refused(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answer_ok)], listener=https(min_version="tls1.3"))
    with pytest.raises(ssl.SSLError):
        await connect(gate, version("TLSv1_2"))
    await settle(lambda: gate.total(1)["tls_handshakes.failed"] == 1, "the failed handshake is not counted")
