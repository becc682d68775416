"""Hosts that are none: no spelling of one goes past a rule for it, over either HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from datapath import Gate, Site
from h2_client import h2_client
from routing_site import Shown, routing_gate, shown

CLOSE = b"Connection: close\r\n\r\n"
SECRET = "secret.example.org"
BAD = [
    ":80x", ":x", ":80:90", ":+80", ":-1", ":65536", ":0x50", ":8 0", ":80/", "@", "@a", "\\", "%2e", "%00", "|", '"',
    "<", "[", "]",
]  # fmt: skip
GOOD = ["", ":", ":0", ":80", ":00080", ":65535", ".", ".:80"]


async def guarded(site: Site) -> tuple[dict[str, Shown], Gate]:
    """A gate that keeps one host for itself, and passes every other on."""
    made, pools = await shown(site, "open")
    routes: list[dict[str, Any]] = [
        {"match": {"host": SECRET}, "respond": {"status": 403}},
        {"pool": "open"},
    ]
    return made, await routing_gate(site, routes, pools)


async def status_of(gate: Gate, host: str, target: str = "/") -> int:
    answer = await gate.exchange(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n".encode() + CLOSE)
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("tail", BAD)
async def test_an_invalid_host_is_refused(site: Site, tail: str) -> None:
    made, gate = await guarded(site)
    assert await status_of(gate, SECRET + tail) == 400
    assert await status_of(gate, "other.example.org", f"http://{SECRET}{tail}/") == (403 if tail == ":80/" else 400)
    assert await status_of(gate, SECRET + tail, "http://other.example.org/") == 400
    assert made["open"].requests == []


@pytest.mark.parametrize("tail", GOOD)
async def test_a_valid_port_changes_no_route(site: Site, tail: str) -> None:
    made, gate = await guarded(site)
    assert await status_of(gate, SECRET + tail) == 403
    assert await status_of(gate, "other.example.org" + tail) == 200
    assert f"\r\nHost: other.example.org{tail}\r\n".encode() in made["open"].last


@pytest.mark.parametrize("host", ["[::1]", "[::1]:8080", "[v7.a:b]", "127.0.0.1:1", "a_b"])
async def test_addresses_are_hosts(site: Site, host: str) -> None:
    made, gate = await guarded(site)
    assert await status_of(gate, host) == 200
    assert f"\r\nHost: {host}\r\n".encode() in made["open"].last


@pytest.mark.parametrize("tail", [tail for tail in BAD if tail not in (":8 0",)])
@pytest.mark.parametrize("field", [":authority", "host"])
async def test_an_invalid_authority_is_refused(site: Site, tail: str, field: str) -> None:
    made, gate = await guarded(site)
    head = [(":method", "GET"), (":scheme", "http"), (":path", "/")]
    named = (field, SECRET + tail)
    async with h2_client(gate.port) as client:
        answer = await client.answer(client.open([*head, named], end=True))
        assert answer.status == 400 or answer.reset is not None
        assert (await client.fetch("/", authority=SECRET + ":80")).status == 403
        assert (await client.fetch("/", authority="other.example.org:")).status == 200
    assert len(made["open"].requests) == 1


async def test_a_query_behind_the_authority_is_one_of_the_root(site: Site) -> None:
    made, gate = await guarded(site)
    assert await status_of(gate, "a", "http://other.example.org?x=/y") == 200
    assert made["open"].last.startswith(b"GET /?x=/y HTTP/1.1\r\n")
    assert b"\r\nHost: other.example.org\r\n" in made["open"].last
    assert await status_of(gate, "a", f"http://{SECRET}?x") == 403
    assert await status_of(gate, "a", "http://?x") == 400
