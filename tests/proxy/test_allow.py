"""An answer 405 says which methods there are (RFC 9110 section 15.5.6)."""

from __future__ import annotations

from typing import Any

import pytest
from datapath import Site
from h2_client import h2_client
from oip_site import ModelServer
from routing_site import routing_gate

PATH = {"path": {"prefix": "/a"}}
# Match of each route, host and path asked for, and the methods that are told.
CASES: dict[str, tuple[list[dict[str, Any]], str, str, str]] = {
    "one": ([{"method": "GET"}], "h", "/", "GET"),
    "several of one route": ([{"method": ["PUT", "GET", "HEAD"]}], "h", "/", "GET, HEAD, PUT"),
    "of all routes that the path has": (
        [{"path": {"exact": "/a"}, "method": "PUT"}, {**PATH, "method": ["GET", "PUT"]}, {"method": "PATCH"}],
        "h", "/a", "GET, PATCH, PUT",
    ),
    "of no other path": ([{**PATH, "method": "GET"}, {"path": {"prefix": "/b"}, "method": "PUT"}], "h", "/b", "PUT"),
    "of an expression": ([{"path": {"regex": "^/[0-9]+$"}, "method": "GET"}, {"method": "PUT"}], "h", "/7", "GET, PUT"),
    "of all kinds of hosts": (
        [
            {"host": "a.example.org", "method": "GET"}, {"host": "*.example.org", "method": "PUT"},
            {"host_regex": "^a", "method": "PATCH"}, {"method": "COPY"}, {"host": "b.example.org", "method": "LOCK"},
        ],
        "a.example.org", "/", "COPY, GET, PATCH, PUT",
    ),
    "of those whose conditions hold": (
        [{"method": "GET", "query": {"v": "1"}}, {"method": "PUT", "query": {"v": "2"}}], "h", "/?v=2", "PUT",
    ),
    "of nobody's but yours": ([{"method": ["BREW", "QUERY", "x-own"]}], "h", "/", "BREW, QUERY, x-own"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_what_routes_allow(site: Site, case: str) -> None:
    matches, host, path, allowed = CASES[case]
    routes = [{"match": match, "pool": "p"} for match in matches]
    gate = await routing_gate(site, routes, {"p": ["127.0.0.1:1"]})
    for method in ("DELETE", "WHEN"):
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        answer = await gate.exchange(head)
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert f"\r\nAllow: {allowed}\r\n".encode() in answer
        async with h2_client(gate.port) as client:
            same = await client.fetch(path, method=method, authority=host)
            assert (same.status, same.field_of("allow")) == (405, allowed)


async def test_other_refusals_say_nothing_of_methods(site: Site) -> None:
    gate = await routing_gate(site, [{"match": PATH, "pool": "p"}], {"p": ["127.0.0.1:1"]})
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"Allow:" not in answer


@pytest.mark.parametrize(
    ("line", "allowed"),
    [(b"POST /v2", b"GET, HEAD"), (b"GET /v2/models/m/infer", b"POST"), (b"BREW /v2/models/m", b"GET, HEAD")],
)
async def test_what_the_inference_protocol_allows(site: Site, line: bytes, allowed: bytes) -> None:
    gate = await site.gate([await site.model(ModelServer())], pool={"protocol": "oip"})
    answer = await gate.exchange(line + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: " + allowed + b"\r\n" in answer
