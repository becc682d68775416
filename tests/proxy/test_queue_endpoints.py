"""Those who wait while endpoints come, go and fail, and while the queue changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from datapath import Site, settle
from msgspec.structs import replace
from ports import free_port
from queue_site import QUEUE, Held, ask, capped, hold, line, wait, waiting


class Once:
    """An endpoint that closes its first connection without an answer, and answers at once from then on."""

    def __init__(self) -> None:
        self.failed = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            if not self.failed:
                self.failed = True
                writer.close()
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()


async def test_none_is_up(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    first = await hold(gate, endpoint)
    gate.segment.set_health(0, False, 0)
    answer = await ask(gate, "/2")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"no endpoint" in answer
    endpoint.answer()
    await first


async def test_the_last_endpoint_fails_while_requests_wait(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    first, second = await hold(gate, endpoint), await wait(gate, "/2")
    gate.segment.set_health(0, False, 0)
    assert b"no endpoint" in await second
    endpoint.answer()
    await first


async def test_an_endpoint_comes_up_while_requests_wait(site: Site) -> None:
    endpoint, other = Held(), Held()
    addresses = [await site.endpoint(endpoint), await site.endpoint(other)]
    gate = await site.gate(addresses, cap=1, pool={"queue": QUEUE})
    gate.segment.set_health(1, False, 0)
    first, second = await hold(gate, endpoint), await wait(gate, "/2")
    gate.segment.set_health(1, True, 0)
    other.answer()
    assert (await second).endswith(b"/2")
    endpoint.answer()
    await first


async def test_a_reload_takes_those_who_wait_along(site: Site) -> None:
    endpoint, other = Held(), Held()
    gate = await capped(site, endpoint)
    first, second, third = await hold(gate, endpoint), await wait(gate, "/2"), await wait(gate, "/3")
    (pool,) = gate.plan.pools
    (old,) = pool.endpoints
    new = replace(old, address=await site.endpoint(other), slot=1, series=20)
    gate.segment.set_weight(1, 1)
    gate.segment.set_health(1, True, 0)
    site.reload_pool(gate, endpoints=(new,))
    other.answer(2)
    assert (await second).endswith(b"/2")
    assert (await third).endswith(b"/3")
    endpoint.answer()
    await first
    assert other.peak == 1


async def test_a_reload_lifts_the_limit(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    tasks = [await hold(gate, endpoint), *[await wait(gate, f"/{i}") for i in range(3)]]
    (pool,) = gate.plan.pools
    free = tuple(replace(e, max_in_flight=0) for e in pool.endpoints)
    site.reload_pool(gate, queue=None, endpoints=free)
    await settle(lambda: endpoint.active == 4, "they still wait")
    endpoint.answer(4)
    await asyncio.gather(*tasks)


async def test_a_reload_keeps_a_queue_in_which_nobody_waits(site: Site) -> None:
    """It knows how long requests take, which tells who would come too late; and a new one would be one more to wake."""
    endpoint = Held()
    gate = await capped(site, endpoint)
    first = await hold(gate, endpoint)
    endpoint.answer()
    await first
    first = await hold(gate, endpoint, "/again")
    queue = gate.proxy.pools[0].queue
    site.reload_pool(gate, retries=0)
    assert gate.proxy.pools[0].queue is queue
    site.reload_pool(gate, retries=0, queue=replace(QUEUE, timeout_ns=1), generation=3)
    assert b"too long" in await ask(gate, "/2")
    endpoint.answer()
    await first


@pytest.mark.parametrize("protocol", ["http2", "grpc", "oip", "tcp"])
async def test_a_reload_changes_the_protocol(site: Site, protocol: str) -> None:
    """Those who wait have spoken the old one, and go on with it."""
    endpoint = Held()
    gate = await capped(site, endpoint)
    tasks = [await hold(gate, endpoint), *[await wait(gate, f"/{i}") for i in range(3)]]
    site.reload_pool(gate, protocol=protocol)
    endpoint.answer(4)
    answers = await asyncio.wait_for(asyncio.gather(*tasks), 20)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    assert endpoint.peak == 1
    assert waiting(gate) == 0
    assert gate.in_flight() == 0


async def test_a_further_try_waits_for_another_endpoint_than_the_one_that_failed(site: Site) -> None:
    """The one that refuses all has room, always."""
    endpoint = Held()
    gate = await site.gate(
        [await site.endpoint(endpoint), f"127.0.0.1:{free_port()}"], cap=1, pool={"queue": QUEUE, "retries": 1}
    )
    first = await hold(gate, endpoint)
    tasks = [asyncio.create_task(ask(gate, "/1"))]
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    endpoint.answer(2)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in await asyncio.gather(first, *tasks))
    assert gate.total(11)["connect_errors"] == 1, "one connection failed"
    assert gate.in_flight() == 0


async def test_a_further_try_does_not_wait_for_ever_for_another_endpoint(site: Site) -> None:
    """Nobody else is held up for it either."""
    stuck, once = Held(), Once()
    gate = await site.gate(
        [await site.endpoint(stuck), await site.endpoint(once)], cap=1, pool={"queue": QUEUE, "retries": 1}
    )
    first = await hold(gate, stuck)
    answers = await asyncio.wait_for(asyncio.gather(ask(gate, "/1"), ask(gate, "/2")), 60)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    stuck.answer()
    await first


async def test_a_further_try_goes_where_it_failed_rather_than_nowhere(site: Site) -> None:
    stuck, once = Held(), Once()
    gate = await site.gate(
        [await site.endpoint(stuck), await site.endpoint(once)],
        cap=1, pool={"queue": replace(QUEUE, max=0), "retries": 1},
    )  # fmt: skip
    first = await hold(gate, stuck)
    assert (await ask(gate, "/1")).startswith(b"HTTP/1.1 200 ")
    assert line(gate)["ended.full"] == 0, "it was refused nothing"
    stuck.answer()
    await first


async def test_tcp_sessions_wait(site: Site) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    gate = await site.gate([await site.endpoint(echo)], cap=1, pool={"queue": QUEUE}, listener={"protocol": "tcp"})
    reader, writer = await gate.connect()
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    other_reader, other_writer = await gate.connect()
    other_writer.write(b"two")
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    writer.close()
    assert await asyncio.wait_for(other_reader.readexactly(3), 20) == b"two"
    other_writer.close()
    await settle(lambda: gate.in_flight() == 0, "the session stays")


async def test_a_tcp_session_waits_rather_than_try_the_endpoint_again_that_failed(site: Site) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    addresses = [await site.endpoint(echo), f"127.0.0.1:{free_port()}"]
    gate = await site.gate(addresses, cap=1, pool={"queue": QUEUE, "retries": 1}, listener={"protocol": "tcp"})
    reader, writer = await gate.connect()
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    other_reader, other_writer = await gate.connect()
    other_writer.write(b"two")
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    writer.close()
    assert await asyncio.wait_for(other_reader.readexactly(3), 20) == b"two"
    other_writer.close()
    await settle(lambda: gate.in_flight() == 0, "the session stays")


async def test_a_tcp_session_keeps_what_was_sent_while_it_waits_behind_a_connect_that_failed_at_once(
    site: Site, tmp_path: Path
) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    addresses = [await site.endpoint(echo), f"unix:{tmp_path}/nobody.sock"]
    gate = await site.gate(addresses, cap=1, pool={"queue": QUEUE, "retries": 1}, listener={"protocol": "tcp"})
    reader, writer = await gate.connect()
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    other_reader, other_writer = await gate.connect()
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    other_writer.write(b"two")
    # By the next session's wait the worker has seen these bytes, too.
    _, third = await gate.connect()
    await settle(lambda: waiting(gate) == 2, "the session is lost while it waits")
    third.close()
    writer.close()
    assert await asyncio.wait_for(other_reader.readexactly(3), 20) == b"two"
    other_writer.close()
    await settle(lambda: gate.in_flight() == 0, "the session stays")
