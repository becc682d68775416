"""One queue over all workers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from datapath import SECOND, Gate, Handler, Site, settle, sharing
from msgspec.structs import replace
from queue_site import LONG, QUEUE, Held, ask, capped, hold, line, routes, wait, waiting, warm

from lb.config.plan.plan import QueuePlan


@contextlib.asynccontextmanager
async def two_workers(
    site: Site, endpoint: Handler, queue: QueuePlan = QUEUE, **settings: Any
) -> AsyncIterator[tuple[Gate, Gate]]:
    async with sharing(site, 2, partial(capped, site, endpoint, queue, **settings)) as (one, other):
        yield one, other


async def test_one_queue_over_two_workers(site: Site) -> None:
    endpoint = Held()
    async with two_workers(site, endpoint) as gates:
        tasks = [await hold(gates[0], endpoint), *[await wait(gates[i % 2], f"/{i}") for i in range(6)]]
        endpoint.answer(7)
        await asyncio.gather(*tasks)
        assert endpoint.seen[1:] == [f"/{i}" for i in range(6)]
        assert endpoint.peak == 1
        assert waiting(gates[0]) == 0


async def learn(gate: Gate, endpoint: Held, seconds: float) -> None:
    """From now on a request takes so long, as far as the gate knows."""
    await warm(gate, endpoint, "/learn/warm")
    path = f"/learn/{len(endpoint.seen)}"
    task = await hold(gate, endpoint, path)
    await asyncio.sleep(seconds)
    endpoint.answer()
    await task


@pytest.mark.parametrize(("others", "probe"), [("/low/{}", "/high/x"), ("/late/{}", "/soon/x")])
@pytest.mark.parametrize("own", [0, 1])
async def test_who_comes_before_all_in_another_worker_is_not_refused_for_them(
    site: Site, others: str, probe: str, own: int
) -> None:
    """By priority as by deadline: 40 wait, for 1 s each, and the newcomer has less time than all of them take."""
    endpoint = Held()
    served = routes(
        {"name": "high", "priority": 0, "timeout_ns": 20 * SECOND},
        {"name": "low", "priority": 2},
        {"name": "late", "timeout_ns": LONG},
        {"name": "soon", "timeout_ns": 20 * SECOND},
        {"name": "learn"},
    )
    async with two_workers(site, endpoint, listener={"routes": served}) as gates:
        await learn(gates[1], endpoint, 1)
        await learn(gates[0], endpoint, 1)
        tasks = [await hold(gates[0], endpoint, "/learn/held")]
        tasks += [await wait(gates[1 if i < own else 0], others.format(i)) for i in range(40)]
        newcomer = await wait(gates[1], probe)
        endpoint.answer(42)
        assert (await newcomer).startswith(b"HTTP/1.1 200 ")
        await asyncio.gather(*tasks)
        assert endpoint.seen[3] == probe


async def test_who_comes_behind_those_of_another_worker_is_refused_for_them(site: Site) -> None:
    endpoint = Held()
    served = routes(
        {"name": "high", "priority": 0},
        {"name": "low", "priority": 2, "timeout_ns": 10 * SECOND},
        {"name": "learn"},
    )
    async with two_workers(site, endpoint, listener={"routes": served}) as gates:
        await learn(gates[1], endpoint, 2)  # which counts for nine seconds
        tasks = [await hold(gates[0], endpoint, "/learn/held")]
        tasks += [await wait(gates[0], f"/high/{i}") for i in range(10)]
        assert b"too long to answer in time" in await ask(gates[1], "/low/x")
        endpoint.answer(11)
        await asyncio.gather(*tasks)


async def test_how_many_of_another_worker_come_before_is_known_roughly(site: Site) -> None:
    """Exactly for who comes before or behind all; else to a factor of two."""
    endpoint = Held()
    seconds = [100 * (i + 1) for i in range(8)]
    served = routes(*({"name": f"{n}s", "timeout_ns": n * SECOND} for n in seconds), {"name": "learn"})
    queue = replace(QUEUE, timeout_ns=1000 * SECOND)
    async with two_workers(site, endpoint, queue, listener={"routes": served}) as gates:
        tasks = [await hold(gates[0], endpoint, "/learn")]
        tasks += [await wait(gates[0], f"/{n}s/{i}") for i in range(10) for n in seconds]
        now = time.monotonic_ns()

        def before(priority: int, due: int) -> int:
            return int(gates[1].proxy.pools[0].queue.outlook(priority, now + due * SECOND, 0, now)["before"])

        assert before(0, 1000) == 0
        assert before(1, 50) == 0
        assert before(1, 1000) == 80
        assert before(2, 50) == 80
        for i, n in enumerate(seconds[:-1], 1):
            assert 5 * i <= before(1, n + 50) <= 20 * i, n
        endpoint.answer(81)
        await asyncio.gather(*tasks)


async def test_deadlines_beyond_the_timeout_over_two_workers(site: Site) -> None:
    """Who comes first is decided by deadline over all workers, as within one."""
    endpoint = Held()
    served = routes(*({"name": f"{n}s", "timeout_ns": n * SECOND} for n in (200, 300, 400, 500)), {"name": "learn"})
    queue = replace(QUEUE, timeout_ns=100 * SECOND)
    async with two_workers(site, endpoint, queue, listener={"routes": served}) as gates:
        tasks = [await hold(gates[0], endpoint, "/learn")]
        tasks += [await wait(gates[i % 2], f"/{n}s/x") for i, n in enumerate((500, 400, 300, 200))]
        now = time.monotonic_ns()
        outlook = gates[0].proxy.pools[0].queue.outlook
        assert [outlook(1, now + n * SECOND, 0, now)["before"] for n in (150, 250, 550)] == [0, 1, 4]
        endpoint.answer(5)
        await asyncio.gather(*tasks)
        assert endpoint.seen[1:] == [f"/{n}s/x" for n in (200, 300, 400, 500)]


async def test_a_burst_is_no_overload_for_a_worker_that_had_another_one_before(site: Site) -> None:
    """Nobody waits between the two; the second begins in the other worker."""
    endpoint = Held()
    queue = replace(QUEUE, timeout_ns=10 * SECOND, overload_after_ns=2 * SECOND, overload_share=0.2)
    async with two_workers(site, endpoint, queue) as gates:
        tasks = [await hold(gates[1], endpoint, "/before"), await wait(gates[1], "/before/1")]
        await asyncio.sleep(1)
        endpoint.answer(2)
        await asyncio.gather(*tasks)
        await asyncio.sleep(1.5)
        tasks = [await hold(gates[0], endpoint, "/0")]
        tasks += [await wait(gates[i], f"/{i}/{n}") for i in (0, 1) for n in range(4)]
        endpoint.answer(9)
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in await asyncio.gather(*tasks))
        assert line(gates[0])["ended.shed"] == 0


async def test_a_higher_priority_takes_the_last_place_in_another_worker(site: Site) -> None:
    endpoint = Held()
    served = routes({"name": "high", "priority": 0}, {"name": "low", "priority": 2})
    async with two_workers(site, endpoint, replace(QUEUE, max=2), listener={"routes": served}) as gates:
        tasks = [await hold(gates[0], endpoint, "/low"), await wait(gates[0], "/low/1")]
        last = await wait(gates[0], "/low/2")
        tasks.append(asyncio.create_task(ask(gates[1], "/high/1")))
        answer = await last
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"queue is full" in answer
        assert (await ask(gates[1], "/low/3")).startswith(b"HTTP/1.1 503 ")
        assert waiting(gates[0]) == 2
        endpoint.answer(3)
        await asyncio.gather(*tasks)
        assert endpoint.seen == ["/low", "/high/1", "/low/1"]


async def test_a_dead_worker_s_requests_still_count_for_a_moment(site: Site) -> None:
    endpoint = Held()
    async with two_workers(site, endpoint) as gates:
        first = await hold(gates[1], endpoint)
        second = await wait(gates[0], "/2")
        lost = gates[0].segment.clear_worker(1)
        await asyncio.sleep(0.1)
        assert endpoint.seen == ["/first"]
        gates[0].segment.forget(lost)
        await settle(lambda: endpoint.active == 2, "it still waits")
        endpoint.answer(2)
        await asyncio.gather(first, second)


async def test_a_body_that_comes_for_a_pool_that_a_reload_left_without_endpoints(site: Site) -> None:
    """Its turn does not come before that of those in the other worker: until it does, the request stays in line."""

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with two_workers(site, silent, pool={"protocol": "http2"}) as gates:
        clients = []
        for number, gate in enumerate((gates[0], gates[0], gates[1])):
            reader, writer = await gate.connect()
            clients.append((reader, writer))
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
            begun = (lambda: gates[0].in_flight() == 1) if number == 0 else (lambda n=number: waiting(gates[0]) == n)
            await settle(begun, f"request {number} has not begun")
        (pool,) = gates[1].plan.pools
        empty = replace(gates[1].plan, generation=2, pools=(replace(pool, endpoints=()),))
        gates[1].proxy.apply(empty, dict(gates[1].proxy.descriptors))
        reader, writer = clients[-1]
        for _ in range(10):
            writer.write(bytes(100))
            await asyncio.sleep(0)
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        for _, writer in clients:
            writer.close()
        await settle(lambda: waiting(gates[0]) == 0, "some still wait")
