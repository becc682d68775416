"""Any token is a method over HTTP/2 (RFC 9110 section 9.1), to pools of either HTTP, in routes and explanations."""

from __future__ import annotations

import json

import h2.errors
import pytest
from datapath import Site
from h2_client import h2_client
from http2_front import echo
from test_http2_lengths import Http2Endpoint

from lb.proxy.exchange.explain.described import Described

# Of HTTP/1.1, of RTSP, of nobody, and one with every mark that a token may have.
METHODS = ["GET", "QUERY", "PROPFIND", "DESCRIBE", "BREW", "get", "M" * 500, "!#$%&'*+-.^_`|~09azAZ"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method[:10])
async def test_an_http1_pool_gets_the_method(site: Site, method: str) -> None:
    gate = await site.gate([await site.endpoint(echo)])
    async with h2_client(gate.port) as client:
        answer = await client.fetch("/a", method=method)
        assert json.loads(answer.body)[0] == f"{method} /a HTTP/1.1"
        posted = await client.fetch("/a", method=method, body=b"abc")
        assert (posted.status, posted.body) == (200, b"abc")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method[:10])
async def test_an_http2_pool_gets_the_method(site: Site, method: str) -> None:
    endpoint = Http2Endpoint([([(":status", "200")], True)])
    gate = await site.gate([await site.endpoint(endpoint.handle)], pool={"protocol": "http2"})
    async with h2_client(gate.port) as client:
        assert (await client.fetch("/a", method=method)).status == 200
    assert endpoint.methods == [method]


@pytest.mark.parametrize(
    "method",
    ["", "A B", "GET / HTTP/1.1\r\nX: y", "BR\rEW", "BR\nEW", "BR\0EW", "B\xe9", "BR\tEW", "BREW:", "(BREW"],
)
async def test_what_is_no_token_reaches_nobody(site: Site, method: str) -> None:
    async def never(*_: object) -> None:
        raise AssertionError("a connection came")

    gate = await site.gate([await site.endpoint(never)])
    async with h2_client(gate.port) as client:
        answer = await client.fetch("/a", method=method)
        assert (answer.status, answer.reset) == (0, h2.errors.ErrorCodes.PROTOCOL_ERROR)


@pytest.mark.parametrize("method", ["PRI", "CONNECT"])
async def test_what_is_no_request_to_an_origin_is_501(site: Site, method: str) -> None:
    gate = await site.gate([await site.endpoint(echo)])
    async with h2_client(gate.port) as client:
        head = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", "/")]
        answer = await client.answer(client.open(head[:1] + head[2:3] if method == "CONNECT" else head, end=True))
        assert answer.status == 501


async def test_routes_tell_methods_apart(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], route={"methods": ("QUERY", "BREW", "brew-2")})
    async with h2_client(gate.port) as client:
        statuses = {
            method: (await client.fetch("/", method=method)).status
            for method in ("QUERY", "BREW", "brew-2", "brew", "BREW-2", "WHEN", "GET")
        }
    assert statuses == {"QUERY": 200, "BREW": 200, "brew-2": 200, "brew": 405, "BREW-2": 405, "WHEN": 405, "GET": 405}
    for method, reason in (("BREW", None), ("WHEN", "a route matches but for its method: 405")):
        found = gate.proxy.explain(Described("web", method=method, host="a.test"))
        assert (found["route"] is not None, found.get("reason") if reason else None) == (reason is None, reason)
