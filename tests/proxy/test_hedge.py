"""Hedges: a second try at another endpoint while the first is late, and what becomes of the loser."""

from __future__ import annotations

import asyncio

import pytest
from datapath import Site, settle
from h2_client import h2_client
from hedge_site import BOTH, averages, get, idle, lost, results, series, two


@BOTH
async def test_the_hedge_answers_and_the_first_try_is_cancelled(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["answer"])
    assert await get(gate) == (200, b"b")
    await settle(lambda: lost(a), "the first endpoint was not told")
    assert results(gate) == (1, 1, 0, 0)
    await idle(gate)
    assert len(a.seen) == len(b.seen) == 1
    words = [series(gate, endpoint.series) for endpoint in gate.plan.pools[0].endpoints]
    assert [tuple(word.values("requests").values()) for word in words] == [(0, 0, 0, 0, 0, 0, 1), (0, 1, 0, 0, 0, 0, 0)]


@BOTH
async def test_the_first_try_answers_and_the_hedge_is_cancelled(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"])
    task = asyncio.create_task(get(gate))
    await settle(lambda: len(b.seen) == 1, "no hedge")
    assert gate.in_flight() == 2
    a.go.set()
    assert await task == (200, b"a")
    await settle(lambda: lost(b), "the hedge's endpoint was not told")
    assert results(gate) == (1, 0, 1, 0)
    await idle(gate)


@BOTH
async def test_a_quick_answer_has_no_hedge(site: Site, protocol: str) -> None:
    gate, _a, _b = await two(site, protocol, ["answer"], ["answer"], hedge={"after": "1s", "budget": 100})
    assert [(await get(gate))[1] for _ in range(4)] == [b"a", b"b", b"a", b"b"]
    await asyncio.sleep(1.2)
    assert results(gate) == (0, 0, 0, 0)
    await idle(gate)


@BOTH
async def test_both_answer_at_the_same_moment(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"])
    b.go = a.go
    for _ in range(20):
        before = len(a.seen) + len(b.seen)
        task = asyncio.create_task(get(gate))
        await settle(lambda before=before: len(a.seen) + len(b.seen) == before + 2, "no hedge")  # type: ignore[misc]
        a.go.set()
        status, body = await task
        assert (status, body in (b"a", b"b")) == (200, True)
        a.go.clear()
    await idle(gate)
    begun, won, gone, refused = results(gate)
    assert (begun, won + gone, refused) == (20, 20, 0)


@BOTH
@pytest.mark.parametrize("turn", ["503", "500", "429", "break"])
async def test_a_hedge_that_fails_does_not_win(site: Site, protocol: str, turn: str) -> None:
    gate, a, _b = await two(site, protocol, ["hang"], [turn])
    task = asyncio.create_task(get(gate))
    await settle(lambda: results(gate)[2] == 1, "the hedge is not lost")
    assert gate.in_flight() == 1
    a.go.set()
    assert await task == (200, b"a")
    await idle(gate)


@BOTH
async def test_a_first_try_that_breaks_leaves_it_to_the_hedge(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["snap"], ["hang"])
    task = asyncio.create_task(get(gate))
    await settle(lambda: len(b.seen) == 1, "no hedge")
    a.go.set()
    await settle(lambda: gate.in_flight() == 1, "it is not noticed")
    b.go.set()
    assert await task == (200, b"b")
    await idle(gate)
    assert results(gate) == (1, 1, 0, 0)
    assert series(gate)["retries"] == 0


@BOTH
async def test_the_client_leaves_during_a_hedge(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"])
    _, writer = await gate.connect()
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    await settle(lambda: len(b.seen) == 1, "no hedge")
    writer.transport.abort()
    await settle(lambda: lost(a) and lost(b), "the endpoints were not told")
    await idle(gate)
    assert results(gate) == (1, 0, 1, 0)


@BOTH
async def test_the_deadline_passes_during_a_hedge(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"], route={"timeout": 300_000_000})
    assert (await get(gate))[0] == 504
    await settle(lambda: lost(a) and lost(b), "the endpoints were not told")
    await idle(gate)


@BOTH
async def test_a_reload_during_a_hedge(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"])
    task = asyncio.create_task(get(gate))
    await settle(lambda: len(b.seen) == 1, "no hedge")
    gate.proxy.apply(gate.plan, dict(gate.proxy.descriptors))
    b.go.set()
    assert await task == (200, b"b")
    await settle(lambda: lost(a), "the first endpoint was not told")
    await idle(gate)
    assert await get(gate) == (200, b"b")


@BOTH
async def test_what_may_not_be_repeated_has_no_hedge(site: Site, protocol: str) -> None:
    gate, a, _b = await two(site, protocol, ["hang"], ["answer"])
    task = asyncio.create_task(get(gate, "POST", b"body"))
    await settle(lambda: len(a.seen) == 1, "no request")
    await asyncio.sleep(0.2)
    a.go.set()
    assert await task == (200, b"a")
    assert results(gate) == (0, 0, 0, 0)


@BOTH
async def test_a_route_may_say_that_its_posts_can(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["answer"], route={"idempotent": True})
    assert await get(gate, "POST", b"body") == (200, b"b")
    assert b.seen[0].endswith(b"body")
    assert a.seen[0].endswith(b"body")
    await idle(gate)


@BOTH
async def test_what_is_not_kept_has_no_hedge(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["answer"], retry_buffer=1000)
    # Kept while it is not connected; so a connection first.
    warm = asyncio.create_task(get(gate))
    assert await warm == (200, b"b")
    task = asyncio.create_task(get(gate, "PUT", bytes(200_000)))
    await settle(lambda: len(a.seen) == 2 or len(b.seen) == 2, "no request")
    await asyncio.sleep(0.2)
    begun = results(gate)[0]
    a.go.set()
    assert (await task)[0] == 200
    assert begun == 1
    await idle(gate)


@BOTH
async def test_the_budget(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"], hedge={"after": "20ms", "budget": 0, "budget_min": 1})
    tasks = [asyncio.create_task(get(gate)) for _ in range(4)]
    await settle(lambda: results(gate)[3] == 3, "nothing was refused")
    a.go.set()
    b.go.set()
    await asyncio.gather(*tasks)
    assert results(gate)[0] == 1
    await idle(gate)


@BOTH
async def test_no_hedge_without_another_endpoint(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["answer"])
    gate.segment.set_health(gate.plan.pools[0].endpoints[1].slot, False, 0)
    task = asyncio.create_task(get(gate))
    await asyncio.sleep(0.15)
    assert (len(a.seen), len(b.seen), gate.in_flight()) == (1, 0, 1)
    a.go.set()
    assert await task == (200, b"a")
    await idle(gate)


@BOTH
async def test_caps_hold_for_hedges_and_none_waits(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"], pool={"max_in_flight": 1})
    tasks = [asyncio.create_task(get(gate)) for _ in range(3)]
    await settle(lambda: (len(a.seen), len(b.seen)) == (1, 1), "no requests")
    await asyncio.sleep(0.3)
    assert results(gate) == (0, 0, 0, 0)
    assert (len(a.seen), len(b.seen)) == (1, 1)  # the third waits in the queue
    a.go.set()
    b.go.set()
    assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 3
    await idle(gate)


async def test_an_endpoint_that_lost_is_left_alone_for_a_while(site: Site) -> None:
    gate, a, _b = await two(site, "http", ["hang"], ["answer"], hedge={"after": "100ms", "budget": 100})
    assert await get(gate) == (200, b"b")
    # Round robin's next is a; but it has kept one waiting just now.
    assert [(await get(gate))[1] for _ in range(4)] == [b"b"] * 4
    assert len(a.seen) == 1
    a.go.set()
    await asyncio.sleep(0.15)
    assert {(await get(gate))[1] for _ in range(4)} == {b"a", b"b"}
    await idle(gate)


async def test_one_that_has_answered_nobody_for_long_is_left_alone_for_longer(site: Site) -> None:
    gate, a, _b = await two(site, "http", ["hang"], ["answer"], hedge={"after": "100ms", "budget": 100})
    averages(gate, 0.001, 0.001)
    assert await get(gate) == (200, b"b")
    a.go.set()
    await asyncio.sleep(0.2)  # twice as long as it was waited for
    assert [(await get(gate))[1] for _ in range(4)] == [b"b"] * 4
    await asyncio.sleep(1)
    assert {(await get(gate))[1] for _ in range(4)} == {b"a", b"b"}
    await idle(gate)


async def test_what_is_slow_by_nature_has_twice_its_average(site: Site) -> None:
    hedge = {"after": "p90", "budget": 100, "samples": 20}
    gate, a, _b = await two(site, "http", ["answer"], ["answer"], hedge=hedge)
    for _ in range(20):
        assert (await get(gate))[0] == 200
    a.turns = ["hang"]
    await asyncio.sleep(0.1)  # until the quantile is looked at again
    averages(gate, 0.3, 0.3)
    began = asyncio.get_running_loop().time()
    assert [(await get(gate))[1] for _ in range(2)] == [b"b"] * 2  # one of them by a hedge
    assert asyncio.get_running_loop().time() - began >= 0.6
    assert results(gate)[1] == 1
    await idle(gate)


async def test_after_a_quantile(site: Site) -> None:
    hedge = {"after": "p90", "budget": 100, "samples": 20}
    gate, a, b = await two(site, "http", ["answer"], ["answer"], hedge=hedge)
    a.turns = ["hang"]
    a.go.set()
    for _ in range(20):
        assert (await get(gate))[0] == 200
    assert results(gate)[0] == 0
    a.go.clear()
    b.turns = ["answer"]
    await asyncio.sleep(0.1)
    answers = [await asyncio.wait_for(get(gate), 60) for _ in range(2)]
    assert answers == [(200, b"b")] * 2
    assert results(gate)[1] >= 1
    await idle(gate)


# HTTP/2 in front.


@BOTH
async def test_http2_in_front(site: Site, protocol: str) -> None:
    gate, a, _b = await two(site, protocol, ["hang"], ["answer"])
    async with h2_client(gate.port) as client:
        answer = await client.fetch("/x")
        assert (answer.status, answer.body) == (200, b"b")
        stream = client.request("/x")
        await settle(lambda: lost(a), "the first endpoint was not told")
        assert (await asyncio.wait_for(client.answer(stream), 60)).body == b"b"
    await idle(gate)


@BOTH
@pytest.mark.parametrize("down", [0, 1], ids=["first", "hedge"])
async def test_an_endpoint_that_is_marked_down_leaves_it_to_the_other(site: Site, protocol: str, down: int) -> None:
    pool = {"on_marked_down": "shutdown_sessions"}
    gate, *ends = await two(site, protocol, ["hang"], ["hang"], pool=pool)
    task = asyncio.create_task(get(gate))
    await settle(lambda: len(ends[1].seen) == 1, "no hedge")
    gate.segment.set_health(gate.plan.pools[0].endpoints[down].slot, False, 0)
    await settle(lambda: lost(ends[down]), "the endpoint was not told")
    assert gate.in_flight() == 1
    ends[1 - down].go.set()
    assert await task == (200, b"ba"[down : down + 1])
    await idle(gate)
