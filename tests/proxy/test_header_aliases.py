"""Headers that a CGI or WSGI server reads as others, by `aliased_headers`: over either HTTP, in head and trailers."""

from __future__ import annotations

from typing import Any

import pytest
from datapath import Gate, Site
from h2_client import h2_client
from routing_site import Shown, routing_gate, shown

OURS = [
    "X_Forwarded_For", "X-Forwarded_For", "x_forwarded_proto", "X_FORWARDED_HOST", "X_Forwarded_Port",
    "X.Forwarded.For", "X~Forwarded~For", "X_Request_Id", "Content_Length", "Transfer_Encoding",
    "X_Forwarded_Client_Cert", "x!forwarded|client^cert",
]  # fmt: skip
OTHERS = ["X_Kept", "api_key", "x.y.z", "_X-Forwarded-For", "X__Forwarded-For"]
ROUTES: list[dict[str, Any]] = [
    {"match": {"headers": {"x-debug": {"present": True}}}, "respond": {"status": 403}},
    {"match": {"headers": {"x_tenant": "a"}}, "pool": "a"},
    {"pool": "a", "request_headers": {"remove": ["X-Secret"], "set": {"X-User": "nobody"}}},
]
OF_ROUTES = ["X_Debug", "X.Secret", "x_user"]


async def gate_of(site: Site, **listener: Any) -> tuple[Shown, Gate]:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, ROUTES, pools, forwarded="replace", request_id=True, **listener)
    return made["a"], gate


async def send(gate: Gate, *fields: str) -> int:
    lines = "".join(f"{name}: 6.6.6.6\r\n" for name in fields)
    answer = await gate.exchange(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}Connection: close\r\n\r\n".encode())
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("name", OURS + OF_ROUTES)
async def test_another_spelling_of_ours_is_dropped(site: Site, name: str) -> None:
    endpoint, gate = await gate_of(site)
    assert await send(gate, name) == 200
    assert b"6.6.6.6" not in endpoint.last
    async with h2_client(gate.port) as client:
        assert (await client.fetch("/", fields=[(name.lower(), "6.6.6.6")])).status == 200
    assert b"6.6.6.6" not in endpoint.last
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("name", OTHERS)
async def test_other_names_are_passed_on(site: Site, name: str) -> None:
    endpoint, gate = await gate_of(site)
    assert await send(gate, name) == 200
    assert f"\r\n{name}: 6.6.6.6\r\n".encode() in endpoint.last
    _, refusing = await gate_of(site, aliased_headers="reject")
    assert await send(refusing, name) == 200


@pytest.mark.parametrize("name", ["X_Forwarded_For", "X.Secret"])
async def test_they_can_be_refused_or_passed(site: Site, name: str) -> None:
    endpoint, gate = await gate_of(site, aliased_headers="reject")
    assert await send(gate, name) == 400
    async with h2_client(gate.port) as client:
        assert (await client.fetch("/", fields=[(name.lower(), "6.6.6.6")])).status == 400
    assert endpoint.requests == []
    endpoint, gate = await gate_of(site, aliased_headers="pass")
    assert await send(gate, name) == 200
    assert f"\r\n{name}: 6.6.6.6\r\n".encode() in endpoint.last


async def test_a_spelling_of_the_configuration_is_no_alias(site: Site) -> None:
    endpoint, gate = await gate_of(site)
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nX_Tenant: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nX_Tenant: a\r\n" in endpoint.last


@pytest.mark.parametrize("protocol", ["http", "http2"])
async def test_trailers_bring_none_of_them_in(site: Site, protocol: str) -> None:
    """What the head may not have, a server that merges trailers into it must not get from there."""
    names = [
        "X_Forwarded_For",
        "X-Forwarded-For",
        "X-Forwarded-Port",
        "X-Request-Id",
        "Via",
        "X-Secret",
        "X_User",
        "X-User",
    ]
    got: list[bytes] = []

    async def endpoint(reader: Any, writer: Any) -> None:
        data = b""
        while b"X-Kept" not in data and b"x-kept" not in data:
            data += await reader.read(65536)
        got.append(data)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    gate = await routing_gate(site, ROUTES, {"a": [await site.endpoint(endpoint)]})
    if protocol == "http":
        lines = "".join(f"{name}: 6.6.6.6\r\n" for name in names)
        request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n"
        answer = await gate.exchange(f"{request}{lines}X-Kept: 1\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200 ")
    else:
        async with h2_client(gate.port) as client:
            stream = client.request("/", method="POST", end=False)
            await client.send(stream, b"x", end=False)
            client.h2.send_headers(stream, [*((n.lower(), "6.6.6.6") for n in names), ("x-kept", "1")], end_stream=True)
            client.flush()
            assert (await client.answer(stream)).status == 200
    assert b"6.6.6.6" not in got[0]
