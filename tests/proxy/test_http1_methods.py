"""Any token is a method over HTTP/1.1 too (RFC 9110 section 9.1), though llhttp knows only some."""

from __future__ import annotations

import json

import pytest
from compiled.bytes_to_values import parse_http1
from datapath import Gate, Site, settle
from http2_front import echo
from test_http2_lengths import Http2Endpoint
from test_http2_methods import METHODS


async def ask(gate: Gate, method: str, body: bytes = b"", head: bytes = b"") -> tuple[int, bytes]:
    """Status and body of an answer whose body has a length."""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    answer = await gate.exchange(
        method.encode("latin-1") + b" /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + length + head + b"\r\n" + body
    )
    top, _, rest = answer.partition(b"\r\n\r\n")
    return int(top.split(b" ", 2)[1]), rest


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method[:10])
async def test_an_http1_pool_gets_the_method(site: Site, method: str) -> None:
    gate = await site.gate([await site.endpoint(echo)])
    status, shown = await ask(gate, method)
    assert (status, json.loads(shown)[0]) == (200, f"{method} /a HTTP/1.1")
    assert await ask(gate, method, b"abc") == (200, b"abc")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method[:10])
async def test_an_http2_pool_gets_the_method(site: Site, method: str) -> None:
    endpoint = Http2Endpoint([([(":status", "200")], True)])
    gate = await site.gate([await site.endpoint(endpoint.handle)], pool={"protocol": "http2"})
    assert (await ask(gate, method))[0] == 200
    assert endpoint.methods == [method]


async def test_requests_with_such_methods_follow_each_other_in_any_pieces(site: Site) -> None:
    """With a body by length, one in chunks, none, and empty lines before (RFC 9112 section 2.2)."""
    stream = (
        b"\r\nBREW /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        b"GETX /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n"
        b"PLAY /3 HTTP/1.1\r\nHost: a\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    gate = await site.gate([await site.endpoint(echo)])
    for size in (1, 2, 3, 7, 1000):
        reader, writer = await gate.connect()
        for at in range(0, len(stream), size):
            writer.write(stream[at : at + size])
            await writer.drain()
        answer = await reader.read(-1)
        writer.close()
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
        assert bodies[:2] == [b"abc", b"de"]
        assert [json.loads(body)[0] for body in bodies[2:]] == ["PLAY /3 HTTP/1.1", "GET /4 HTTP/1.1"]


@pytest.mark.parametrize(
    "line",
    [
        b"A\tB / HTTP/1.1", b"(BREW / HTTP/1.1", b"BREW: / HTTP/1.1", b"BR\0EW / HTTP/1.1", b"B\xe9 / HTTP/1.1",
        b" BREW / HTTP/1.1", b"BREW", b"BREW /", b"BREW / HTTP/2.0", b"BREW / http/1.1", b"BREW / RTSP/1.0",
        b"BREW / ICE/1.0", b"BREW HTTP/1.1", b"BREW /a b HTTP/1.1", b"BREW a HTTP/1.1", b"PRI / HTTP/1.1",
        b"GET / http/1.1", b"PLAY / RTSP/1.0", b"GET / RTSP/1.0", b"POST /  RTSP/1.0", b"SOURCE / ICE/1.0",
    ],
)  # fmt: skip
async def test_what_is_no_request_is_refused_as_ever(site: Site, line: bytes) -> None:
    async def never(*_: object) -> None:
        raise AssertionError("a connection came")

    gate = await site.gate([await site.endpoint(never)])
    answer = await gate.exchange(line + b"\r\nHost: a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 ")), answer
    assert answer.count(b"\r\nDate: ") == 1


@pytest.mark.parametrize("end", [b"", b" / HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_a_method_counts_as_part_of_the_head(site: Site, end: bytes) -> None:
    gate = await site.gate([], listener={"max_header_bytes": 2000})
    answer = await gate.exchange(b"M" * 3000 + end)
    assert answer.startswith(b"HTTP/1.1 414 ")
    assert b"Connection: close" in answer


async def test_a_body_that_is_bad_is_not_parsed_anew(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)])
    chunked = b"BREW / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await gate.exchange(chunked + b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    await settle(lambda: gate.in_flight() == 0, "the endpoint was let go")


async def test_routes_tell_methods_apart(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], route={"methods": ("QUERY", "BREW", "brew-2")})
    methods = ("QUERY", "BREW", "brew-2", "brew", "BREW-2", "WHEN", "GET")
    statuses = {method: (await ask(gate, method))[0] for method in methods}
    assert statuses == {"QUERY": 200, "BREW": 200, "brew-2": 200, "brew": 405, "BREW-2": 405, "WHEN": 405, "GET": 405}


def test_the_parser_takes_the_whole_message_and_no_more() -> None:
    head, body = b"BREW /pot HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n", b"ok"
    fields = [(b"Host", b"a"), (b"Content-Length", b"2")]
    assert parse_http1(head + body + b"BREW") == (fields, b"ok", True, len(head + body))
    assert all(parse_http1(head[:size]) == (None, b"", False, 0) for size in range(len(head)))


def test_an_answer_has_no_method() -> None:
    with pytest.raises(ValueError, match="HTTP"):
        parse_http1(b"BREW / HTTP/1.1\r\n\r\n", response=True)
