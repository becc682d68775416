"""Hedges of requests whose pool a reload changes meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from datapath import Gate, Site, settle
from hedge_site import BOTH, ENDPOINTS, Told, idle, lost, models, results, series, two
from msgspec.structs import replace
from oip_site import ask, plain

from lb.config.plan.plan import EndpointPlan

ASKED = {"trusted": ["127.0.0.1"]}


def change(gate: Gate, *endpoints: EndpointPlan, **more: Any) -> None:
    """A reload after which the only pool has these."""
    (pool,) = gate.plan.pools
    pools = (replace(pool, endpoints=endpoints, **more),)
    gate.proxy.apply(replace(gate.plan, generation=gate.plan.generation + 1, pools=pools), dict(gate.proxy.descriptors))


async def three(site: Site, protocol: str, *turns: str) -> tuple[Gate, list[Any], list[EndpointPlan]]:
    """A pool of two; and a third, for which a reload has the place of the second."""
    gate, a, b = await two(site, protocol, [turns[0]], [turns[1]], route={"idempotent": True}, explain=ASKED)
    c = ENDPOINTS[protocol]("c", [turns[2]])
    first, second = gate.plan.pools[0].endpoints
    return gate, [a, b, c], [first, second, replace(second, address=await site.endpoint(c))]


class Half:
    """A request that has its endpoint before all of it has come: until `finish` there is no hedge, however long that
    takes."""

    @classmethod
    async def of(cls, gate: Gate) -> Half:
        self = cls()
        self.reader, self.writer = await gate.connect()
        self.writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Tidegate-Explain: 1\r\n")
        self.writer.write(b"Content-Length: 4\r\n\r\nbo")
        await settle(lambda: gate.in_flight() == 1, "the first attempt has not begun")
        return self

    async def finish(self) -> tuple[int, dict[str, Any], bytes]:
        self.writer.write(b"dy")
        answer = await asyncio.wait_for(self.reader.read(), 20)
        self.writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        explained = re.search(rb"(?im)^x-tidegate-explain: (.*)\r$", head + b"\r")
        assert explained is not None
        return int(head.split()[1]), json.loads(explained[1]), body


@BOTH
@pytest.mark.parametrize("stays", [True, False])
async def test_a_hedge_goes_to_what_the_pool_has_now(site: Site, protocol: str, stays: bool) -> None:
    gate, (a, b, c), (first, _, third) = await three(site, protocol, "hang", "answer", "answer")
    request = await Half.of(gate)
    change(gate, *([first] if stays else []), third)
    status, explained, body = await request.finish()
    assert (status, body) == (200, b"c")
    assert (len(a.seen), len(b.seen), len(c.seen)) == (1, 0, 1)
    assert [(one["for"], one["endpoint"]) for one in explained["choices"]] == [
        ("first attempt", first.address),
        ("hedge", third.address),
    ]
    assert explained["endpoint"] == third.address
    assert first.address in explained["choices"][1]["steps"][0]
    await settle(lambda: lost(a), "the first endpoint was not told")
    assert results(gate) == (1, 1, 0, 0)
    await idle(gate)


@BOTH
async def test_such_a_hedge_is_cancelled_where_it_is(site: Site, protocol: str) -> None:
    gate, (a, _, c), (first, _, third) = await three(site, protocol, "hang", "answer", "hang")
    request = await Half.of(gate)
    change(gate, third, first)
    answer = asyncio.create_task(request.finish())
    await settle(lambda: bool(c.seen), "no hedge")
    change(gate, first)
    a.go.set()
    assert (await answer)[2] == b"a"
    await settle(lambda: lost(c), "the hedge's endpoint was not told")
    assert results(gate) == (1, 0, 1, 0)
    await idle(gate)


@BOTH
@pytest.mark.parametrize("turn", ["503", "break"])
async def test_such_a_hedge_fails(site: Site, protocol: str, turn: str) -> None:
    gate, (a, _, _), (first, _, third) = await three(site, protocol, "hang", "answer", turn)
    request = await Half.of(gate)
    change(gate, third, first)
    answer = asyncio.create_task(request.finish())
    await settle(lambda: results(gate)[2] == 1, "the hedge is not lost")
    a.go.set()
    assert (await answer)[2] == b"a"
    await idle(gate)


@BOTH
@pytest.mark.parametrize("protocol_now", ["", "http", "http2"])
async def test_nobody_else_is_left_or_none_that_speaks_it(site: Site, protocol: str, protocol_now: str) -> None:
    gate, (a, b, _), (first, second, _) = await three(site, protocol, "hang", "answer", "answer")
    if protocol_now == protocol:
        return
    request = await Half.of(gate)
    if protocol_now:
        change(gate, first, second, protocol=protocol_now)
    else:
        change(gate, first)
    answer = asyncio.create_task(request.finish())
    await settle(lambda: bool(a.seen), "it did not get there")
    await asyncio.sleep(0.2)
    a.go.set()
    assert (await answer)[2] == b"a"
    assert (len(b.seen), results(gate)) == (0, (0, 0, 0, 0))


async def test_an_inference(site: Site) -> None:
    for attempt in range(6):  # until the reload is before the hedge
        gate, (a, b) = await models(site, True, False, hedge={"after": f"{100 << attempt}ms", "budget": 100})
        c = Told(False)
        _, second = gate.plan.pools[0].endpoints
        third = replace(second, address=await site.model(c))
        asking = asyncio.create_task(ask(gate, plain()))
        await settle(lambda: bool(a.requests), "the first attempt has not begun")  # noqa: B023
        change(gate, third)
        early = series(gate)["hedges"]
        assert (await asking).status == 200
        await settle(lambda: gate.in_flight() == 0, "something is left")  # noqa: B023
        a.go.set()
        if not early:
            break
    assert (len(b.requests), len(c.requests)) == (0, 1)
    assert series(gate)["hedge_results.won"] == 1
