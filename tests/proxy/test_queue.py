"""Requests that wait for an endpoint: in what order they are served, and when they are refused."""

from __future__ import annotations

import asyncio
import os
from time import monotonic_ns

import pytest
from datapath import SECOND, Site, settle
from h2_client import h2_client
from msgspec.structs import replace
from queue_site import MILLISECOND, QUEUE, Held, ask, capped, hold, line, routes, wait, waiting, warm

from lb.shared import words
from lb.shared.segment import Segment


async def test_first_come_first_served_one_at_a_time(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    tasks = [await hold(gate, endpoint), *[await wait(gate, f"/{i}") for i in range(6)]]
    endpoint.answer(7)
    answers = await asyncio.gather(*tasks)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    assert endpoint.seen == ["/first", *(f"/{i}" for i in range(6))]
    assert endpoint.peak == 1
    assert gate.in_flight() == 0
    found = line(gate)
    assert (found["started"], found["finished"], found["ended.full"], found["ended.timeout"]) == (6, 6, 0, 0)
    assert found["wait"] == 6
    assert found.sum_ns("wait") > 0


async def test_a_newcomer_does_not_pass_those_who_wait(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    first, second = await hold(gate, endpoint), await wait(gate, "/second")
    newcomers = [asyncio.create_task(ask(gate, "/new")) for _ in range(4)]
    endpoint.answer(6)
    await asyncio.gather(first, second, *newcomers)
    assert endpoint.seen[:2] == ["/first", "/second"]


async def test_a_full_queue(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint, replace(QUEUE, max=2))
    tasks = [await hold(gate, endpoint), await wait(gate, "/1"), await wait(gate, "/2")]
    answer = await ask(gate, "/3")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in answer
    assert b"queue is full" in answer
    assert line(gate)["ended.full"] == 1
    endpoint.answer(3)
    await asyncio.gather(*tasks)
    assert "/3" not in endpoint.seen


async def test_without_a_queue(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint, None)
    first = await hold(gate, endpoint)
    assert (await ask(gate, "/2")).startswith(b"HTTP/1.1 503 ")
    endpoint.answer()
    await first


async def test_the_longest_wait(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint, replace(QUEUE, timeout_ns=50 * MILLISECOND))
    first, second = await hold(gate, endpoint), await wait(gate, "/2")
    answer = await second
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert waiting(gate) == 0
    assert line(gate)["ended.timeout"] == 1
    endpoint.answer()
    await first
    assert endpoint.seen == ["/first"]


async def test_a_deadline_passes_while_it_waits(site: Site) -> None:
    endpoint = Held()
    listener = {"routes": routes({"name": "soon", "timeout_ns": 50 * MILLISECOND}, {"name": ""})}
    gate = await capped(site, endpoint, listener=listener)
    first = await hold(gate, endpoint)
    answer = await ask(gate, "/soon")
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert waiting(gate) == 0
    assert line(gate)["ended.timeout"] == 1
    endpoint.answer()
    await first
    assert endpoint.seen == ["/first"]


async def test_a_client_that_leaves(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    first = await hold(gate, endpoint)
    _, writer = await gate.connect()
    writer.write(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    third = await wait(gate, "/third")
    writer.close()
    await settle(lambda: waiting(gate) == 1, "it still waits")
    assert line(gate)["ended.left"] == 1
    endpoint.answer(2)
    await asyncio.gather(first, third)
    assert endpoint.seen == ["/first", "/third"]


async def test_priorities(site: Site) -> None:
    endpoint = Held()
    listener = {"routes": routes(*({"name": name, "priority": i} for i, name in enumerate(("high", "normal", "low"))))}
    gate = await capped(site, endpoint, listener=listener)
    paths = ("/low/1", "/normal/1", "/high/1", "/low/2", "/normal/2", "/high/2")
    tasks = [await hold(gate, endpoint, "/low"), *[await wait(gate, path) for path in paths]]
    endpoint.answer(7)
    await asyncio.gather(*tasks)
    assert endpoint.seen[1:] == ["/high/1", "/high/2", "/normal/1", "/normal/2", "/low/1", "/low/2"]


async def test_a_higher_priority_takes_the_last_place(site: Site) -> None:
    endpoint = Held()
    listener = {"routes": routes({"name": "high", "priority": 0}, {"name": "low", "priority": 2})}
    gate = await capped(site, endpoint, replace(QUEUE, max=2), listener=listener)
    tasks = [await hold(gate, endpoint, "/low"), await wait(gate, "/low/1")]
    last = await wait(gate, "/low/2")
    tasks.append(asyncio.create_task(ask(gate, "/high/1")))
    assert (await last).startswith(b"HTTP/1.1 503 ")
    assert (await ask(gate, "/low/3")).startswith(b"HTTP/1.1 503 ")
    endpoint.answer(3)
    await asyncio.gather(*tasks)
    assert endpoint.seen == ["/low", "/high/1", "/low/1"]


async def test_the_earliest_deadline_goes_first(site: Site) -> None:
    endpoint = Held()
    limits = (("c", 30), ("b", 20), ("a", 10))
    listener = {"routes": routes(*({"name": name, "timeout_ns": seconds * SECOND} for name, seconds in limits))}
    gate = await capped(site, endpoint, replace(QUEUE, timeout_ns=60 * SECOND), listener=listener)
    tasks = [await hold(gate, endpoint, "/c"), *[await wait(gate, path) for path in ("/c/1", "/b/1", "/a/1")]]
    endpoint.answer(4)
    await asyncio.gather(*tasks)
    assert endpoint.seen[1:] == ["/a/1", "/b/1", "/c/1"]


async def test_so_it_does_where_all_deadlines_are_beyond_the_timeout(site: Site) -> None:
    """The queue's timeout is where those stand that have no deadline; it makes nobody else's an earlier one."""
    endpoint = Held()
    limits = (("d", 80 * SECOND), ("c", 60 * SECOND), ("b", 40 * SECOND), ("a", 5 * SECOND), ("none", 0))
    listener = {"routes": routes(*({"name": name, "timeout_ns": limit} for name, limit in limits))}
    gate = await capped(site, endpoint, replace(QUEUE, timeout_ns=30 * SECOND), listener=listener)
    tasks = [await hold(gate, endpoint, "/d"), *[await wait(gate, f"/{name}/1") for name, _ in limits]]
    now = monotonic_ns()
    queue = gate.proxy.pools[0].queue
    due = {name: now + limit if limit else 2**64 - 1 for name, limit in limits}
    assert {name: queue.outlook(1, due[name], 0, now)["before"] for name in due} == {
        "a": 1, "none": 2, "b": 3, "c": 4, "d": 5,
    }  # fmt: skip
    endpoint.answer(6)
    await asyncio.gather(*tasks)
    assert endpoint.seen[1:] == ["/a/1", "/none/1", "/b/1", "/c/1", "/d/1"]


async def test_a_deadline_beyond_the_timeout_makes_no_wait_longer(site: Site) -> None:
    endpoint = Held()
    listener = {"routes": routes({"name": "late", "timeout_ns": 60 * SECOND}, {"name": ""})}
    gate = await capped(site, endpoint, replace(QUEUE, timeout_ns=50 * MILLISECOND), listener=listener)
    first = await hold(gate, endpoint)
    answer = await ask(gate, "/late")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert line(gate)["ended.timeout"] == 1
    endpoint.answer()
    await first
    assert endpoint.seen == ["/first"]


async def test_who_could_not_be_answered_in_time_is_refused_at_once(site: Site) -> None:
    endpoint = Held()
    listener = {"routes": routes({"name": "soon", "timeout_ns": 350 * MILLISECOND}, {"name": ""})}
    gate = await capped(site, endpoint, listener=listener)
    await warm(gate, endpoint)
    first = await hold(gate, endpoint)
    await asyncio.sleep(0.2)
    endpoint.answer()
    await first  # one request takes 200 ms, as far as anybody knows
    tasks = [await hold(gate, endpoint, "/second"), await wait(gate, "/third")]
    began = asyncio.get_running_loop().time()
    answer = await ask(gate, "/soon")
    assert asyncio.get_running_loop().time() - began < 0.3, "it waited for its deadline"
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"too long to answer in time" in answer
    assert line(gate)["ended.late"] == 1
    endpoint.answer(2)
    await asyncio.gather(*tasks)
    assert "/soon" not in endpoint.seen


async def test_a_cold_model_s_first_answer_has_nobody_refused(site: Site) -> None:
    """It took longer than the next has time."""
    endpoint = Held()
    gate = await capped(site, endpoint)
    first = await hold(gate, endpoint)
    await asyncio.sleep(0.3)
    endpoint.answer()
    await first
    held, third = await hold(gate, endpoint, "/second"), await wait(gate, "/third")
    now = monotonic_ns()
    soon = gate.proxy.pools[0].queue.outlook(1, now + 200 * MILLISECOND, 0, now)
    assert (soon["wait_ns"], soon["refused"]) == (0, "")
    endpoint.answer(2)
    await asyncio.gather(held, third)
    assert gate.proxy.pools[0].queue.outlook(1, now + 200 * MILLISECOND, 0, now)["wait_ns"] > 0


async def test_a_service_that_is_slow_by_nature_is_known_by_its_second_answer(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    for path in ("/first", "/second"):
        task = await hold(gate, endpoint, path)
        await asyncio.sleep(0.3)
        now = monotonic_ns()  # later than that the answer may be forgotten, on a busy machine
        endpoint.answer()
        await task
    found = gate.proxy.pools[0].queue.outlook(1, now + 200 * MILLISECOND, 0, now)
    assert found["wait_ns"] >= 300 * MILLISECOND
    assert found["refused"] == "queue-late"


async def test_an_overload_that_lasts_keeps_the_queue_short(site: Site) -> None:
    endpoint = Held()
    queue = replace(QUEUE, timeout_ns=2 * SECOND, overload_after_ns=50 * MILLISECOND, overload_share=0.2)
    gate = await capped(site, endpoint, queue)
    await warm(gate, endpoint)
    first = await hold(gate, endpoint)
    await asyncio.sleep(0.2)
    endpoint.answer()
    await first  # one request takes 200 ms
    tasks = [
        await hold(gate, endpoint, "/second"),
        await wait(gate, "/1"),
        await wait(gate, "/2"),
        await wait(gate, "/3"),
    ]
    await asyncio.sleep(0.1)
    answer = await ask(gate, "/4")  # it would wait for 800 ms; a fifth of two seconds is left for that
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"overloaded" in answer
    assert line(gate)["ended.shed"] == 1
    endpoint.answer(4)
    await asyncio.gather(*tasks)
    # The queue was empty for a moment: no overload any more.
    tasks = [await hold(gate, endpoint, "/again"), *[await wait(gate, f"/again/{i}") for i in range(3)]]
    endpoint.answer(4)
    assert all(a.startswith(b"HTTP/1.1 200 ") for a in await asyncio.gather(*tasks))


@pytest.mark.parametrize("protocol", ["http", "http2"])
async def test_a_body_that_comes_while_it_waits(site: Site, protocol: str) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    first = await hold(gate, endpoint)
    body = bytes(range(256)) * 150
    if protocol == "http":
        reader, writer = await gate.connect()
        writer.write(b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
        await settle(lambda: waiting(gate) == 1, "it does not wait")
        for start in range(0, len(body), 10_000):
            writer.write(body[start : start + 10_000])
            await asyncio.sleep(0.005)
        endpoint.answer(2)
        answer = await asyncio.wait_for(reader.read(-1), 20)
        writer.close()
        assert answer.endswith(b"/post")
    else:
        async with h2_client(gate.port) as client:
            fields = [("content-length", str(len(body)))]
            stream = client.request("/post", method="POST", fields=fields, end=False)
            await settle(lambda: waiting(gate) == 1, "it does not wait")
            await client.send(stream, body, end=True)
            endpoint.answer(2)
            found = await client.answer(stream)
            assert found.body == b"/post"
    await first
    assert endpoint.bodies[1] == body


async def test_one_that_keeps_its_place_for_long_says_little_of_the_others(site: Site) -> None:
    """As a stream may, or an upgraded connection: what it took must not have those refused that have a deadline."""

    def expected() -> int:
        now = monotonic_ns()
        return int(gate.proxy.pools[0].queue.outlook(1, now + SECOND, 0, now)["wait_ns"])

    endpoint = Held()
    gate = await capped(site, endpoint)
    endpoint.answer(3)
    for _ in range(3):
        await ask(gate, "/short")
    usual = expected()
    assert usual > 0
    long = await hold(gate, endpoint, "/long")
    await asyncio.sleep(100 * usual / SECOND)
    endpoint.answer()
    await long
    assert usual < expected() <= 2 * usual + 2


async def test_who_would_leave_before_its_turn_is_refused_at_once(site: Site) -> None:
    """Clients that have no deadline have left after a few milliseconds; one of 16 waits all the same."""
    endpoint = Held()
    gate = await capped(site, endpoint)
    await warm(gate, endpoint)
    first = await hold(gate, endpoint)
    await asyncio.sleep(0.2)
    endpoint.answer()
    await first  # one request takes 200 ms, as far as anybody knows
    tasks = [await hold(gate, endpoint, "/second"), await wait(gate, "/third")]
    worker = Segment.attach(os.dup(gate.segment.fd), 0)
    for word in ("wait", "left"):
        worker.add_series(QUEUE.series, words.QUEUE.place(word) + 5, 2000)  # up to 2 ms
    await asyncio.sleep(1.1)  # it is looked at once a second
    answers = await asyncio.gather(*(ask(gate, f"/{number}") for number in range(15)))
    assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
    assert all(b"too long to answer in time" in answer for answer in answers)
    assert line(gate)["ended.late"] == 15
    tasks.append(await wait(gate, "/tries"))
    endpoint.answer(3)
    assert [answer.split()[1] for answer in await asyncio.gather(*tasks)] == [b"200"] * 3
    worker.close()
