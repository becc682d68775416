"""Endpoints that say when they may be asked again: Retry-After, and gRPC's pushback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from hedge_site import Multiplexed, call, idle, series
from routing_site import routing_gate

FIELDS = b"HTTP/1.1 %d X\r\nContent-Length: 1\r\n%s\r\n%s"


class Limited:
    """Answers each request with the next of `turns`: a status, and what its Retry-After says ("" for none)."""

    def __init__(self, name: str, *turns: tuple[int, str]) -> None:
        self.name = name
        self.turns = list(turns)
        self.seen: list[float] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            self.seen.append(time.monotonic())
            status, after = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
            line = b"Retry-After: %s\r\n" % after.encode() if after else b""
            writer.write(FIELDS % (status, line, self.name.encode()))


async def limited(site: Site, *endpoints: Limited, pool: dict[str, Any] | None = None, **route: Any) -> Gate:
    """`retry=None`: the route says nothing of retries."""
    own = {"on": ["5xx", "rate-limited"], "attempts": 3, "budget": 100, "backoff": {"base": 0}}
    said = route.pop("retry", {})
    retry = None if said is None else own | said
    made = {"endpoints": [await site.endpoint(each) for each in endpoints], "policy": "round_robin", **(pool or {})}
    return await routing_gate(site, [{"pool": "p", "hedge": "off", "retry": retry, **route}], {"p": made})


async def get(gate: Gate, method: str = "GET") -> tuple[int, str]:
    answer = await gate.exchange(f"{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


@pytest.mark.parametrize("status", [503, 429])
async def test_another_endpoint_is_asked_at_once(site: Site, status: int) -> None:
    a, b = Limited("a", (status, "3600")), Limited("b", (200, ""))
    gate = await limited(site, a, b)
    for _ in range(4):
        assert await get(gate) == (200, "b")
    assert len(a.seen) == 2
    await idle(gate)


@pytest.mark.parametrize("after", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)])
async def test_where_none_is_left_the_request_waits(site: Site, after: Callable[[], str]) -> None:
    a = Limited("a", (503, after()), (200, ""))
    gate = await limited(site, a)
    assert await get(gate) == (200, "a")
    assert 0.9 < a.seen[1] - a.seen[0] < 5
    await idle(gate)


async def test_of_several_the_one_that_may_be_asked_first(site: Site) -> None:
    a, b = Limited("a", (503, "8")), Limited("b", (503, "1"), (200, ""))
    gate = await limited(site, a, b)
    assert await get(gate) == (200, "b")
    assert (len(a.seen), len(b.seen)) == (1, 2)
    assert b.seen[1] - b.seen[0] >= 0.9
    await idle(gate)


@pytest.mark.parametrize(
    ("after", "route"),
    [
        ("11", {}),  # longer than ten seconds
        ("99999999999999999999", {}),
        ("Fri, 31 Dec 2199 23:59:59 GMT", {}),
        ("1", {"retry": {"backoff": {"retry_after": 0}}}),
        ("2", {"timeout": 1_000_000_000}),  # the deadline would pass
    ],
)
async def test_who_has_no_time_gets_the_answer(site: Site, after: str, route: dict[str, Any]) -> None:
    a = Limited("a", (503, after))
    gate = await limited(site, a, **route)
    started = time.monotonic()
    assert await get(gate) == (503, "a")
    assert time.monotonic() - started < 0.9
    assert len(a.seen) == 1
    assert series(gate)["retries"] == 0
    await idle(gate)


async def test_endpoints_of_http2(site: Site) -> None:
    retry = {"on": ["5xx", "rate-limited"], "attempts": 3, "budget": 100, "backoff": {"base": 0}}

    async def served(*endpoints: Multiplexed) -> Gate:
        pool = {"protocol": "http2", "endpoints": [await site.endpoint(e) for e in endpoints], "policy": "round_robin"}
        return await routing_gate(site, [{"pool": "p", "hedge": "off", "retry": retry}], {"p": pool})

    gate = await served(Multiplexed("a", ["429"], retry_after="3600"), Multiplexed("b", ["answer"]))
    assert await get(gate) == (200, "b")
    await idle(gate)
    gate = await served(Multiplexed("a", ["503", "answer"], retry_after="1"))
    started = time.monotonic()
    assert await get(gate) == (200, "a")
    assert time.monotonic() - started >= 0.9
    await idle(gate)
    late = Multiplexed("a", ["503"], retry_after="3600")
    gate = await served(late)
    assert await get(gate) == (503, "a")
    assert len(late.seen) == 1
    await idle(gate)


async def test_a_client_stays_until_its_endpoint_wants_a_pause(site: Site) -> None:
    a, b = Limited("a", (200, ""), (503, "3600")), Limited("b", (200, ""))
    gate = await limited(site, a, b, pool={"affinity": {"cookie": {"name": "stay"}}})
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    cookie = answer.partition(b"Set-Cookie: ")[2].partition(b";")[0]
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: %s\r\n\r\n" % cookie
    for _ in range(2):
        assert (await gate.exchange(request)).startswith(b"HTTP/1.1 200 ")
    assert len(a.seen) <= 3
    assert len(b.seen) >= 1
    await idle(gate)


@pytest.mark.parametrize("after", ["", "0", "-1", "soon", "1.5", "Thu, 01 Jan 1970 00:00:00 GMT"])
async def test_what_says_nothing_of_a_time(site: Site, after: str) -> None:
    a = Limited("a", (503, after), (200, ""))
    assert await get(await limited(site, a)) == (200, "a")


async def test_what_may_not_be_repeated_and_what_is_not_named(site: Site) -> None:
    a = Limited("a", (429, "0"))
    gate = await limited(site, a)
    assert await get(gate, "POST") == (429, "a")
    gate = await limited(site, a, retry={"on": ["5xx"]})
    assert await get(gate) == (429, "a")
    assert len(a.seen) == 2


async def test_retries_by_default_ask_no_endpoint_before_its_time(site: Site) -> None:
    a, b = Limited("a", (503, "60")), Limited("b", (503, "60"))
    gate = await limited(site, a, b, pool={"retries": 5}, retry=None)
    assert (await get(gate))[0] == 503
    assert (len(a.seen), len(b.seen)) == (1, 1)
    await idle(gate)


async def test_a_client_that_leaves_while_its_request_waits(site: Site) -> None:
    a = Limited("a", (503, "5"))
    gate = await limited(site, a)
    _, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await settle(lambda: bool(a.seen) and gate.in_flight() == 0 and gate.proxy.busy() == 1, "it does not wait")
    writer.transport.abort()
    await idle(gate)
    assert len(a.seen) == 1


async def test_pushback_of_grpc_servers(site: Site) -> None:
    """One that says it leaves the others; alone it is waited for; a time that is too long is an answer."""
    retry = {"on": ["unavailable"], "attempts": 3, "budget": 100, "backoff": {"base": 0}}

    async def served(*endpoints: Multiplexed) -> Gate:
        pool = {"protocol": "grpc", "endpoints": [await site.endpoint(e) for e in endpoints], "policy": "round_robin"}
        return await routing_gate(site, [{"pool": "p", "hedge": "off", "retry": retry}], {"p": pool})

    a, b = Multiplexed("a", ["14"], pushback="3600000"), Multiplexed("b", ["answer"])
    gate = await served(a, b)
    assert await call(gate) == b"b"
    await idle(gate)
    alone = Multiplexed("a", ["14", "answer"], pushback="300")
    gate = await served(alone)
    started = time.monotonic()
    assert await call(gate) == b"a"
    assert time.monotonic() - started >= 0.3
    await idle(gate)
    gate = await served(Multiplexed("a", ["14"], pushback="10001"))
    with pytest.raises(grpc.aio.AioRpcError):
        await call(gate)
    await idle(gate)
