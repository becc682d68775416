"""POSTs that an Idempotency-Key makes repeatable, where the route says so."""

from __future__ import annotations

from typing import Any

import pytest
from datapath import Gate, Site
from hedge_site import BOTH, idle, results, two

KEY = ("Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324",)


async def post(gate: Gate, *fields: str) -> tuple[int, bytes]:
    lines = ["POST /x HTTP/1.1", "Host: a", "Connection: close", "Content-Length: 4", *fields, "", "body"]
    head, _, body = (await gate.exchange("\r\n".join(lines).encode())).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@BOTH
async def test_a_post_with_a_key_is_repeated(site: Site, protocol: str) -> None:
    route = {"idempotency_key": True, "retry": {"on": ["5xx"], "budget": 100}}
    gate, a, b = await two(site, protocol, ["503"], ["answer"], hedge={"after": "30s"}, route=route)
    assert await post(gate, *KEY) == (200, b"b")
    if protocol == "http":
        assert KEY[0].encode() in a.seen[0]
        assert a.seen == b.seen  # the same key, so that the endpoints know it again
    await idle(gate)


@pytest.mark.parametrize(
    ("fields", "route"),
    [
        ((), {"idempotency_key": True}),
        (("Idempotency-Key:",), {"idempotency_key": True}),
        ((*KEY, *KEY), {"idempotency_key": True}),  # which of them counts is unknown
        (KEY, {}),  # the default: the endpoints may not know the header
    ],
)
async def test_any_other_post_is_not(site: Site, fields: tuple[str, ...], route: dict[str, Any]) -> None:
    route = {**route, "retry": {"on": ["5xx"], "budget": 100}}
    gate, a, b = await two(site, "http", ["503"], ["503"], hedge={"after": "30s"}, route=route)
    assert (await post(gate, *fields))[0] == 503
    assert len(a.seen) + len(b.seen) == 1
    await idle(gate)


async def test_it_may_have_a_hedge(site: Site) -> None:
    gate, a, _b = await two(site, "http", ["hang"], ["answer"], route={"idempotency_key": True})
    assert await post(gate, *KEY) == (200, b"b")
    assert results(gate)[:2] == (1, 1)
    a.go.set()
    await idle(gate)
