"""HTTP/1.2 to 1.9 are served, and taken, as HTTP/1.1 (RFC 9110 section 2.5); chunks of sixteen digits are refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from compiled.bytes_to_values import parse_http1
from datapath import Site
from test_http1_edges import OK, answering

CLOSE = b"\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("version", [b"1.2", b"1.5", b"1.9"])
@pytest.mark.parametrize("method", [b"GET", b"BREW", b"DESCRIBE"])
async def test_a_later_minor_version_is_served(site: Site, version: bytes, method: bytes) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    answer = await gate.exchange(b"\r\n" + method + b" /x HTTP/" + version + b"\r\nHost: a" + CLOSE)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert requests[0].startswith(method + b" /x HTTP/1.1\r\n")


async def test_it_may_come_in_pieces_and_stay(site: Site) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    reader, writer = await gate.connect()
    request = b"POST /x HTTP/1.2\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    for i in range(len(request)):
        writer.write(request[i : i + 1])
        await writer.drain()
        await asyncio.sleep(0)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 60)).startswith(b"HTTP/1.1 200 ")
    writer.write(request + request)  # pipelined
    for _ in range(2):
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 60)).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert [request.endswith(b"\r\n\r\nabc") for request in requests] == [True] * 3


@pytest.mark.parametrize("version", [b"1.10", b"1.x", b"1.", b"1.2x", b"0.9", b"2.0", b"3.0", b"01.2"])
async def test_other_versions_are_not(site: Site, version: bytes) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    answer = await gate.exchange(b"GET /x HTTP/" + version + b"\r\nHost: a" + CLOSE)
    assert answer[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 505 ")
    assert requests == []


@pytest.mark.parametrize("status", [b"HTTP/1.2 200 OK", b"HTTP/1.9 200 "])
async def test_an_endpoint_may_have_it_too(site: Site, status: bytes) -> None:
    gate = await site.gate([await site.endpoint(answering(status + b"\r\nContent-Length: 2\r\n\r\nok"))])
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a" + CLOSE)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nok")


TOO_LARGE = [b"1" + b"0" * 15, b"f" * 16, b"8" + b"0" * 15, b"00001000000000000000", b"1" + b"0" * 16, b"f" * 32]


@pytest.mark.parametrize("size", TOO_LARGE)
async def test_a_chunk_size_of_sixteen_digits_is_refused(site: Site, size: bytes) -> None:
    got: list[bytes] = []

    async def endpoint(reader: Any, writer: Any) -> None:
        while data := await reader.read(65536):
            got.append(data)

    gate = await site.gate([await site.endpoint(endpoint)])
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\nhello"
    assert (await gate.exchange(request)).startswith(b"HTTP/1.1 400 ")
    assert b"hello" not in b"".join(got)
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\nhello"
    gate = await site.gate([await site.endpoint(answering(answer))])
    assert b"hello" not in await gate.exchange(b"GET / HTTP/1.1\r\nHost: a" + CLOSE)


@pytest.mark.parametrize("size", [b"5", b"05", b"000000005", b"0" * 15 + b"5", b"0" * 30 + b"5", b"5;a=b"])
async def test_leading_zeros_are_digits(site: Site, size: bytes) -> None:
    requests: list[bytes] = []
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, body, complete, _ = parse_http1(head + size + b"\r\nhello\r\n0\r\n\r\n")
    assert (body, complete) == (b"hello", True)
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\nhello\r\n0\r\n\r\n"
    gate = await site.gate([await site.endpoint(answering(answer, requests))])
    assert (await gate.exchange(b"GET / HTTP/1.1\r\nHost: a" + CLOSE)).endswith(b"\r\n5\r\nhello\r\n0\r\n\r\n")
