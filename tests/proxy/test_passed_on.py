"""What of an answer's head a proxy has to pass on, or to add: Date and Trailer (RFC 9110 sections 6.6.1, 6.6.2)."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

import pytest
from datapath import Gate, Site
from h2_client import h2_client
from http2_front import answering, read_request
from test_grpc import GRPC_POOL
from test_grpc_web_exchange import BINARY, TEXT, call, decoded
from test_http2_lengths import Http2Endpoint

from lb.config.plan.routes import FieldsPlan

FORM = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z][a-z] \d{4} \d\d:\d\d:\d\d GMT"
THEIRS = "Tue, 15 Nov 1994 08:12:31 GMT"


def answer_with(fields: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{fields}\r\nok".encode()


async def dates(gate: Gate, version: int) -> list[str]:
    """The Date fields of an answer, and of interim ones before it."""
    if version == 2:
        async with h2_client(gate.port) as client:
            return [value for name, value in (await client.fetch("/")).fields if name == "date"]
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    return re.findall(r"(?im)^date: (.*?)\r?$", answer.decode())


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("pool", ["http", "http2"])
async def test_an_answer_without_a_date_gets_one(site: Site, version: int, pool: str) -> None:
    handler = answering(answer_with("")) if pool == "http" else Http2Endpoint([([(":status", "200")], True)]).handle
    gate = await site.gate([await site.endpoint(handler)], pool={"protocol": pool})
    (date,) = await dates(gate, version)
    assert re.fullmatch(FORM, date)
    assert parsedate_to_datetime(date).year >= 2024


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("pool", ["http", "http2"])
async def test_an_answers_own_date_stays(site: Site, version: int, pool: str) -> None:
    head = [(":status", "200"), ("date", THEIRS)]
    handler = answering(answer_with(f"date: {THEIRS}\r\n")) if pool == "http" else Http2Endpoint([(head, True)]).handle
    gate = await site.gate([await site.endpoint(handler)], pool={"protocol": pool})
    assert await dates(gate, version) == [THEIRS]


@pytest.mark.parametrize("version", [1, 2])
async def test_one_that_a_route_sets_is_the_only_one(site: Site, version: int) -> None:
    for fields in ("", f"Date: {THEIRS}\r\n"):
        rules = FieldsPlan(remove=(), set=(("dAte", "Mon, 01 Jan 2024 00:00:00 GMT"),), add=())
        gate = await site.gate([await site.endpoint(answering(answer_with(fields)))], route={"response_fields": rules})
        assert await dates(gate, version) == ["Mon, 01 Jan 2024 00:00:00 GMT"]


async def test_one_that_is_taken_away_is_replaced(site: Site) -> None:
    """By a route, or by an endpoint that calls it hop-by-hop."""
    hop = answer_with(f"Date: {THEIRS}\r\nConnection: date\r\n")
    plain, rules = answer_with(f"Date: {THEIRS}\r\n"), FieldsPlan(remove=("date",), set=(), add=())
    for answer, route in ((hop, {}), (plain, {"response_fields": rules})):
        gate = await site.gate([await site.endpoint(answering(answer))], route=route)
        (date,) = await dates(gate, 1)
        assert date != THEIRS
        assert re.fullmatch(FORM, date)


async def test_an_interim_answer_gets_none(site: Site) -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer_with("")
    gate = await site.gate([await site.endpoint(answering(answer))])
    assert len(await dates(gate, 1)) == 1
    async with h2_client(gate.port) as client:
        both = await client.fetch("/")
        assert [name for fields in both.interim for name, _ in fields] == [":status", "link"]


async def test_trailers_are_announced(site: Site) -> None:
    """By both sides, whichever HTTP they speak."""
    seen: list[dict[str, str]] = []

    async def handler(reader, writer) -> None:  # type: ignore[no-untyped-def]
        while True:
            _, fields, _ = await read_request(reader)
            seen.append({name.lower(): value for name, value in fields})
            writer.write(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\ntrailer: X-More\r\n\r\n"
                b"2\r\nok\r\n0\r\nX-End: good\r\nTrailer: X-Lie\r\n\r\n"
            )

    gate = await site.gate([await site.endpoint(handler)])
    answer = await gate.exchange(
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    assert b"\r\nTrailer: X-End\r\ntrailer: X-More\r\n" in answer
    assert answer.endswith(b"0\r\nX-End: good\r\n\r\n")
    async with h2_client(gate.port) as client:
        same = await client.fetch("/", fields=[("trailer", "x-sum")])
    assert [value for name, value in same.fields if name == "trailer"] == ["X-End", "X-More"]
    assert same.trailers == [("x-end", "good")]
    assert [request["trailer"] for request in seen] == ["X-Sum", "x-sum"]


async def test_trailers_that_connection_names_are_not_announced(site: Site) -> None:
    """A proxy that sends no trailers of its own says so like this."""
    gate = await site.gate([await site.endpoint(answering(answer_with("Trailer: X-End\r\nConnection: trailer\r\n")))])
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"railer" not in answer


@pytest.mark.parametrize("kind", [BINARY, TEXT])
async def test_trailers_that_come_in_the_body_are_not_announced(site: Site, kind: str) -> None:
    head = [(":status", "200"), ("content-type", "application/grpc"), ("trailer", "grpc-status"), ("trailer", "x-end")]
    endpoint = Http2Endpoint([(head, False), ([("grpc-status", "0"), ("x-end", "good")], True)])
    gate = await site.gate([await site.endpoint(endpoint.handle)], pool=GRPC_POOL)
    for http in ("1.1", "2"):
        status, fields, body = await call(gate, http, "Unary", kind, b"")
        assert (status, fields.get("trailer")) == (200, None)
        assert b"x-end: good\r\n" in (decoded(body) if kind == TEXT else body)
