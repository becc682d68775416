"""Rate limits at the wire: who is counted together, what refused clients are told, exactness over workers."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import time
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, listening_socket
from msgspec.structs import replace
from test_grpc import GRPC_POOL, channel_to, service
from test_http1 import Recorder
from waiting import until

from lb.config.plan.plan import HopPlan
from lb.config.plan.routes import AnswerPlan, RatePlan
from lb.proxy.proxy import Proxy
from lb.shared.segment import Segment

HOUR = 3600 * 1_000_000_000
LIMIT = RatePlan(interval_ns=HOUR, burst=3, key="source", key_name="", fields="standard")


async def limited(site: Site, limit: RatePlan = LIMIT, **listener: Any) -> Gate:
    return await site.gate([await site.endpoint(Recorder())], route={"rate_limit": limit}, listener=listener)


async def ask(gate: Gate, *fields: str, target: str = "/") -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: a", "Connection: close", *fields, "", ""]
    return await gate.exchange("\r\n".join(lines).encode())


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def field(answer: bytes, name: str) -> str | None:
    found = re.search(rf"(?im)^{name}: (.*)\r$", answer.partition(b"\r\n\r\n")[0].decode() + "\r")
    return found and found[1]


async def test_over_the_limit_is_refused_and_told_when_to_come_back(site: Site) -> None:
    gate = await limited(site)
    answers = [await ask(gate) for _ in range(5)]
    assert [status(answer) for answer in answers] == [200, 200, 200, 429, 429]
    assert [field(answer, "RateLimit-Policy") for answer in answers] == ['"all";q=3;w=10800'] * 5
    assert [field(answer, "RateLimit") for answer in answers] == [
        '"all";r=2;t=3600', '"all";r=1;t=7200', '"all";r=0;t=10800', '"all";r=0;t=10800', '"all";r=0;t=10800',
    ]  # fmt: skip
    assert [field(answer, "Retry-After") for answer in answers] == [None, None, None, "3600", "3600"]
    assert answers[4].endswith(b'{"error":"too many requests; Retry-After says when to ask again"}')
    series = gate.total(2)
    assert (series["requests.2xx"], series["requests.429"], series["rejected"]) == (3, 2, 2)
    assert series["started"] == series["finished"] == 5
    assert gate.proxy.busy() == 0


async def test_answers_of_our_own_tell_what_is_left(site: Site) -> None:
    gate = await site.gate(["127.0.0.1:1"], route={"rate_limit": LIMIT})
    answers = [await ask(gate) for _ in range(4)]
    assert [status(answer) for answer in answers] == [502, 502, 502, 429]
    assert [field(answer, "RateLimit") for answer in answers[:2]] == ['"all";r=2;t=3600', '"all";r=1;t=7200']
    for plan, code in ((AnswerPlan(200, body=b"hello"), 200), (AnswerPlan(302, redirect=True, host="b"), 302)):
        gate = await site.gate([], route={"rate_limit": LIMIT, "answer": plan, "pool": -1})
        answers = [await ask(gate) for _ in range(4)]
        assert [status(answer) for answer in answers] == [code, code, code, 429]
        assert [field(answer, "RateLimit") for answer in answers[:2]] == ['"all";r=2;t=3600', '"all";r=1;t=7200']


async def test_the_older_fields(site: Site) -> None:
    gate = await limited(site, replace(LIMIT, fields="legacy"))
    answer = await ask(gate)
    assert [field(answer, f"RateLimit-{name}") for name in ("Limit", "Remaining", "Reset")] == ["3", "2", "3600"]
    assert field(answer, "RateLimit") is None


async def test_no_fields(site: Site) -> None:
    gate = await limited(site, replace(LIMIT, fields="off", burst=1))
    assert b"RateLimit" not in await ask(gate)
    refused = await ask(gate)
    assert b"RateLimit" not in refused
    assert field(refused, "Retry-After") == "3600"


@pytest.mark.parametrize(
    ("key", "name", "make"),
    [
        ("header", "x-tenant", lambda who: ([f"X-Tenant: {who}"], "/")),
        ("cookie", "id", lambda who: ([f"Cookie: a=b; id={who}"], "/")),
        ("query", "user", lambda who: ([], f"/?a=b&user={who}")),
    ],
)
async def test_keys(site: Site, key: str, name: str, make: Any) -> None:
    gate = await limited(site, replace(LIMIT, key=key, key_name=name, burst=1))
    for who in ("ann", "bob"):
        fields, target = make(who)
        assert [status(await ask(gate, *fields, target=target)) for _ in range(2)] == [200, 429]
    # Without the key a request counts for its source.
    assert [status(await ask(gate)) for _ in range(2)] == [200, 429]


async def test_one_limit_for_the_whole_route(site: Site) -> None:
    gate = await limited(site, replace(LIMIT, key="", burst=2))
    assert [status(await ask(gate, f"X-Tenant: {i}")) for i in range(3)] == [200, 200, 429]


async def test_the_source_is_the_client_behind_trusted_proxies(site: Site) -> None:
    gate = await limited(site, replace(LIMIT, burst=1), hop=HopPlan(trusted_proxies=("127.0.0.0/8",)))
    for client in ("203.0.113.1", "203.0.113.2", "2001:db8:0:1::1", "2001:db8:0:2::1"):
        assert [status(await ask(gate, f"X-Forwarded-For: {client}")) for _ in range(2)] == [200, 429]
    # A client has a whole /64.
    assert status(await ask(gate, "X-Forwarded-For: 2001:db8:0:1:ffff::9")) == 429


async def test_a_refused_body_is_not_read(site: Site) -> None:
    gate = await limited(site, replace(LIMIT, burst=1))
    assert status(await ask(gate)) == 200
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(-1), 20)
    assert status(answer) == 429
    assert b"Connection: close" in answer
    writer.close()


async def test_a_client_within_its_limit_keeps_its_connection(site: Site) -> None:
    gate = await limited(site, replace(LIMIT, burst=1))
    reader, writer = await gate.connect()
    for expected in (b"200", b"429", b"429"):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == expected
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length is not None
        await reader.readexactly(int(length[1]))
    writer.close()


async def test_the_limit_holds_over_workers_and_a_reload(site: Site) -> None:
    limit = replace(LIMIT, burst=20)
    gate = await limited(site, limit)
    other = Proxy(asyncio.get_running_loop(), Segment.attach(os.dup(gate.segment.fd), 0))
    fd, port = listening_socket()
    other.apply(gate.plan, {"web": fd})
    twin = Gate(other, gate.segment, gate.plan, port)
    try:
        statuses = [status(answer) for answer in await asyncio.gather(*(ask(g) for g in (gate, twin) * 15))]
        assert sorted(statuses) == [200] * 20 + [429] * 10
        (listener,) = gate.plan.listeners
        routes = tuple(replace(route, rate_limit=replace(limit, burst=25)) for route in listener.routes)
        other.apply(replace(gate.plan, generation=2, listeners=(replace(listener, routes=routes),)), {"web": fd})
        assert [status(await ask(twin)) for _ in range(6)] == [200] * 5 + [429]
    finally:
        other.close()


async def test_routes_have_limits_of_their_own(site: Site) -> None:
    one = await limited(site, replace(LIMIT, burst=1))
    (listener,) = one.plan.listeners
    (route,) = listener.routes
    routes = (replace(route, name="b", path_kind="prefix", path="/b"), replace(route, name="c"))
    fd, port = listening_socket()
    one.proxy.apply(replace(one.plan, listeners=(replace(listener, routes=routes),)), {"web": fd})
    gate = dataclasses.replace(one, port=port)
    assert [status(await ask(gate, target=target)) for target in ("/b", "/c", "/b", "/c")] == [200, 200, 429, 429]


async def test_behind_some_of_the_burst_requests_wait_for_their_turn(site: Site) -> None:
    smooth = replace(LIMIT, interval_ns=200_000_000, burst=4, delay_after=1)
    recorder = Recorder()
    gate = await site.gate([await site.endpoint(recorder)], route={"rate_limit": smooth})
    body = b"x" * 100_000
    post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    began = time.monotonic()
    told = await asyncio.gather(ask(gate), ask(gate), gate.exchange(post), gate.exchange(post), ask(gate))
    # 0, 0, 200 and 400 ms: one goes on at once, and one more for its own token.
    assert time.monotonic() - began >= 0.39
    assert sorted(map(status, told)) == [200, 200, 200, 200, 429]
    assert gate.total(2)["requests.2xx"] == 4
    assert gate.proxy.busy() == 0

    # Who leaves meanwhile waits no more, and takes nobody's turn.
    await asyncio.sleep(0.8)
    waiting = [asyncio.create_task(ask(gate)) for _ in range(4)]
    await until(lambda: gate.proxy.stats()["rate_delayed"] == 2)
    for task in waiting:
        task.cancel()
    await until(lambda: gate.proxy.busy() == 0)
    assert gate.proxy.stats()["rate_delayed"] == 0


async def test_a_turn_that_is_not_taken_is_free_again(site: Site) -> None:
    """Else clients with less patience than the burst takes keep the bucket empty, and none of them is ever served."""
    hourly = replace(LIMIT, delay_after=0)
    gate = await limited(site, hourly)
    assert status(await ask(gate)) == 200
    for _ in range(5):  # leave before their turn
        _, writer = await gate.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: gate.proxy.stats()["rate_delayed"] == 1)
        writer.close()
        await until(lambda: gate.proxy.busy() == 0)

    # One whose turn comes after its deadline is refused at once.
    hasty = await site.gate(
        [await site.endpoint(Recorder())], route={"rate_limit": hourly, "timeout_ns": 1_000_000_000}
    )
    first, *refused = [await ask(hasty) for _ in range(5)]
    assert status(first) == 200
    for answer in refused:
        assert (status(answer), field(answer, "RateLimit")) == (429, '"all";r=2;t=3600')
        assert 3590 < int(field(answer, "Retry-After") or 0) < 3600  # then its turn comes in time


async def test_a_call_whose_deadline_comes_before_its_turn_is_refused_at_once(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL, route={"rate_limit": replace(LIMIT, delay_after=0)})
        async with channel_to(gate) as channel:
            assert await channel.unary_unary("/test.Kinds/Unary")(b"a", timeout=30) == b"a"
            for _ in range(4):
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await channel.unary_unary("/test.Kinds/Unary")(b"", timeout=30)
                assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
        series = gate.total(2)
        assert (series["grpc.OK"], series["grpc.Unavailable"]) == (1, 4)
        assert series["errors"] == 0  # a limit is no fault of the server, over HTTP neither
