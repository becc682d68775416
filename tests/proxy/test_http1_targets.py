"""Request targets and framing that are rare: what is valid arrives as it was meant, what two servers could take for two
things does not arrive at all."""

from __future__ import annotations

import asyncio
import re

import pytest
from datapath import Site
from h2_client import h2_client
from test_http1_edges import OK, answering

CLOSE = b"\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("target", [b"/admin#", b"/admin#x", b"/?a#b", b"http://a/x#y", b"/#"])
async def test_a_fragment_is_refused(site: Site, target: bytes) -> None:
    """A route for `/admin` would not take `/admin#`, and an endpoint that cuts the fragment off would."""
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    answer = await gate.exchange(b"GET " + target + b" HTTP/1.1\r\nHost: a" + CLOSE)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert requests == []


@pytest.mark.parametrize(("method", "status"), [(b"OPTIONS", b"200"), (b"GET", b"400"), (b"BREW", b"400")])
async def test_the_server_as_a_whole_is_asked_for_options_alone(site: Site, method: bytes, status: bytes) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    answer = await gate.exchange(method + b" * HTTP/1.1\r\nHost: a" + CLOSE)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert len(requests) == (status == b"200")


@pytest.mark.parametrize("target", ["/admin#", "/x?a#b", b"/\xc3\xa9", b"/x?\xff"])
async def test_a_stream_has_no_target_that_http1_has_not(site: Site, target: str | bytes) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    async with h2_client(gate.port) as client:
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", target)]
        assert (await client.answer(client.open(head, end=True))).status == 400
        assert (await client.fetch("/x")).status == 200
    assert len(requests) == 1


async def test_a_scheme_may_be_written_in_capitals(site: Site) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    answer = await gate.exchange(b"GET HTTP://b.example:81/x?y HTTP/1.1\r\nHost: a" + CLOSE)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert requests[0].startswith(b"GET /x?y HTTP/1.1\r\n")
    assert b"\r\nHost: b.example:81\r\n" in requests[0]


async def test_the_host_of_an_absolute_target_is_known_without_a_field(site: Site) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    assert (await gate.exchange(b"GET http://b.example/x HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert requests[0].count(b"\r\nHost: b.example\r\n") == 1
    assert b"\r\nX-Forwarded-Host: b.example\r\n" in requests[0]


async def test_options_for_a_host_without_a_path_asks_about_the_server(site: Site) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    for target in (b"http://b.example", b"http://b.example/"):
        await gate.exchange(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: a" + CLOSE)
    assert [request.split(b" HTTP/")[0] for request in requests] == [b"OPTIONS *", b"OPTIONS /"]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("line", "fields", "status"),
    [
        (b"/" + b"a" * 2000, b"", b"414"),
        (b"/" + b"a" * 2000, b"X: y\r\n", b"414"),
        (b"/", b"X: " + b"a" * 2000, b"431"),
    ],
)
async def test_what_is_too_long_is_told(site: Site, whole: bool, line: bytes, fields: bytes, status: bytes) -> None:
    """However much of it comes at once."""
    gate = await site.gate([await site.endpoint(answering(OK))], listener={"max_header_bytes": 1024})
    head = b"GET " + line + b" HTTP/1.1\r\nHost: a\r\n" + fields
    reader, writer = await gate.connect()
    writer.write(head + (b"\r\n\r\n" if whole else b""))
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 " + status)
    writer.close()


@pytest.mark.parametrize(
    "name", ["Authorization", "Forwarded", "X-Forwarded-Client-Cert", "X-Forwarded-For", "X-Forwarded-Port"]
)
async def test_nobody_is_who_a_trailer_says(site: Site, name: str) -> None:
    """An endpoint that merges trailers into the head would believe it."""
    seen: list[bytes] = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n0\r\n"))
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        writer.close()

    gate = await site.gate([await site.endpoint(endpoint)])
    body = b"1\r\nx\r\n0\r\nX-Sum: 1\r\n" + name.encode() + b": evil\r\n\r\n"
    answer = await gate.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked" + CLOSE + body)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert seen[1] == b"X-Sum: 1\r\n\r\n"


@pytest.mark.parametrize("trailers", [b"X: y\r\n" * 65, b"X: " + b"y" * 20_000 + b"\r\n"], ids=["many", "large"])
@pytest.mark.parametrize("begun", [True, False])
async def test_too_much_behind_a_body_is_told(site: Site, trailers: bytes, begun: bool) -> None:
    """Whether the endpoint has the request's beginning by then, or all of it comes at once."""
    asked = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    if begun:
        writer.write(head)
        await asyncio.wait_for(asked.wait(), 20)
        head = b""
    writer.write(head + b"0\r\n" + trailers + b"\r\n")
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_204_has_no_length(site: Site) -> None:
    """Strict clients of HTTP/2 take the whole answer for malformed (RFC 9110 section 8.6)."""
    answer = b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nX-A: b\r\n\r\n"
    gate = await site.gate([await site.endpoint(answering(answer))])
    got = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a" + CLOSE)
    assert re.sub(rb"Date: .*\r\n", b"", got) == b"HTTP/1.1 204 No Content\r\nX-A: b\r\nConnection: close\r\n\r\n"
    async with h2_client(gate.port) as client:
        streamed = await client.fetch("/")
        assert (streamed.status, streamed.field_of("x-a")) == (204, "b")
        assert streamed.field_of("content-length") is None


async def test_an_empty_host_becomes_no_empty_authority(site: Site) -> None:
    """Which RFC 9113 section 8.3.1 forbids, and servers refuse."""
    requests: list[bytes] = []
    behind = await site.gate([await site.endpoint(answering(OK, requests))])
    gate = await site.gate([f"127.0.0.1:{behind.port}"], pool={"protocol": "http2"})
    assert (await gate.exchange(b"GET /x HTTP/1.1\r\nHost:" + CLOSE)).startswith(b"HTTP/1.1 200 ")
    assert b"\r\nHost: pool\r\n" in requests[0]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (103, b"103 Early Hints"),
        (203, b"203 Non-Authoritative Information"),
        (307, b"307 Temporary Redirect"),
        (403, b"403 Forbidden"),
        (418, b"418 I'm a Teapot"),
        (577, b"577 Unknown"),
    ],
)
async def test_a_status_that_came_without_a_phrase_gets_the_usual_one(site: Site, status: int, line: bytes) -> None:
    head = b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status
    behind = await site.gate([await site.endpoint(answering(head + (OK if status < 200 else b"")))])
    gate = await site.gate([f"127.0.0.1:{behind.port}"], pool={"protocol": "http2"})
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a" + CLOSE)
    assert answer.startswith(b"HTTP/1.1 " + line + b"\r\n")


async def test_chunk_extensions_do_not_go_on_for_ever(site: Site) -> None:
    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    sender = asyncio.ensure_future(pour(writer, b"x" * 16384))
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert answer.startswith(b"HTTP/1.1 400 ")
    sender.cancel()
    writer.transport.abort()


async def pour(writer: asyncio.StreamWriter, data: bytes) -> None:
    while True:
        writer.write(data)
        await writer.drain()


async def test_small_chunks_with_small_extensions_may_be_many(site: Site) -> None:
    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.write(OK)

    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(20_000):
        writer.write(b"1;a=b\r\nx\r\n")
    writer.write(b"0\r\n\r\n")
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 200 ")
    writer.close()
