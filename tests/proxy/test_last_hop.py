"""Max-Forwards of TRACE and OPTIONS (RFC 9110 section 7.6.2)."""

from __future__ import annotations

from typing import Any

import pytest
from datapath import Site
from h2_client import h2_client
from routing_site import routing_gate, shown

CLOSE = b"Connection: close\r\n\r\n"
ROUTES: list[dict[str, Any]] = [
    {"match": {"path": {"prefix": "/few/"}, "method": ["GET", "OPTIONS"]}, "pool": "a"},
    {"pool": "a"},
]


@pytest.mark.parametrize("zero", ["0", "00", "000"])
async def test_zero_is_answered_here(site: Site, zero: str) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, ROUTES, pools)
    secret = b"Cookie: a=secret\r\nAuthorization: secret\r\nX-Seen: yes\r\n"
    head = f"TRACE /x?y HTTP/1.1\r\nHost: a\r\nMax-Forwards: {zero}\r\n".encode()
    answer = await gate.exchange(head + secret + CLOSE)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nContent-Type: message/http\r\n" in answer
    assert b"TRACE /x?y HTTP/1.1\r\nHost: a\r\n" in answer
    assert b"X-Seen: yes\r\n" in answer
    assert b"secret" not in answer
    answer = await gate.exchange(f"OPTIONS /few/x HTTP/1.1\r\nHost: a\r\nMax-Forwards: {zero}\r\n".encode() + CLOSE)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nAllow: GET, OPTIONS\r\n" in answer
    async with h2_client(gate.port) as client:
        got = await client.fetch("/x", method="TRACE", fields=[("max-forwards", zero), ("cookie", "secret")])
        assert (got.status, got.field_of("content-type")) == (200, "message/http")
        assert b"secret" not in got.body
        got = await client.fetch("/x", method="OPTIONS", fields=[("max-forwards", zero)])
        assert (got.status, got.body) == (200, b"")
    assert made["a"].requests == []


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS"])
@pytest.mark.parametrize(("said", "told"), [("1", "0"), ("10", "9"), ("007", "6"), ("x", "x"), ("-1", "-1"), ("", "")])
async def test_the_next_hop_is_told_one_less(site: Site, method: str, said: str, told: str) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, ROUTES, pools)
    await gate.exchange(f"{method} / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {said}\r\n".encode() + CLOSE)
    assert f"\r\nMax-Forwards: {told}\r\n".encode() in made["a"].last
    async with h2_client(gate.port) as client:
        assert (await client.fetch("/", method=method, fields=[("max-forwards", said)])).status == 200
    assert f"\r\nmax-forwards: {told}\r\n".encode() in made["a"].last


async def test_it_says_nothing_of_other_methods(site: Site) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, ROUTES, pools)
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n" + CLOSE)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nMax-Forwards: 0\r\n" in made["a"].last


async def test_what_no_route_takes_is_not_answered(site: Site) -> None:
    _, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"match": {"path": {"prefix": "/only/"}, "method": "GET"}, "pool": "a"}], pools)
    for path, status in (("/other", b"404"), ("/only/x", b"405")):
        answer = await gate.exchange(f"TRACE {path} HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n".encode() + CLOSE)
        assert answer.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    ("match", "status"),
    [
        ({}, 200), ({"path": {"prefix": "/"}}, 200), ({"path": {"template": "/{rest...}"}}, 200), ({"host": "a"}, 200),
        ({"path": {"prefix": "/x"}}, 404), ({"path": {"exact": "/"}}, 404), ({"path": {"template": "/{one}"}}, 404),
        ({"method": "GET"}, 405),
    ],
)  # fmt: skip
async def test_the_server_as_a_whole_is_where_any_path_goes(site: Site, match: dict[str, Any], status: int) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"match": match, "pool": "a"}], pools)
    for target in ("*", "http://a"):
        answer = await gate.exchange(f"OPTIONS {target} HTTP/1.1\r\nHost: a\r\n".encode() + CLOSE)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
    async with h2_client(gate.port) as client:
        assert (await client.fetch("*", method="OPTIONS", authority="a")).status == status
    assert [request.split(b" HTTP")[0] for request in made["a"].requests] == [b"OPTIONS *"] * (
        3 if status == 200 else 0
    )
