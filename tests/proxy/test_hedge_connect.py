"""Hedges and retries of requests that have no connection yet: the endpoint's host drops what is sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from datapath import Gate, Site, settle
from hedge_site import HEDGE, Plain, get, idle, results, series
from routing_site import routing_gate

BACKLOG = 4  # connections that fill a queue of length 0, with some to spare


class Deaf:
    """A TCP listener whose queue is full: further SYNs are dropped, until it is told to `listen`."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(0)
        self.socket.setblocking(False)
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.fillers = [socket.socket() for _ in range(BACKLOG)]
        self.server: asyncio.Server | None = None
        for filler in self.fillers:
            filler.setblocking(False)
            filler.connect_ex(self.socket.getsockname())

    async def listen(self, endpoint: Plain) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await endpoint(reader, writer)
            writer.close()

        self.socket.listen(16)
        self.server = await asyncio.start_server(serve, sock=self.socket)

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
        for each in (self.socket, *self.fillers):
            each.close()


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    made = Deaf()
    yield made
    made.close()


async def deaf_and(site: Site, deaf: Deaf, other: Plain, connect: str = "20s", **route: object) -> Gate:
    addresses = [deaf.address, await site.endpoint(other)]
    pool = {"protocol": "http", "endpoints": addresses, "policy": "round_robin", "connect_timeout": connect}
    return await routing_gate(site, [{"pool": "both", "hedge": HEDGE, **route}], {"both": pool})


async def test_a_connect_that_hangs_has_a_hedge(site: Site, deaf: Deaf) -> None:
    other = Plain("b", ["answer"])
    gate = await deaf_and(site, deaf, other)
    assert await get(gate) == (200, b"b")
    assert results(gate) == (1, 1, 0, 0)
    await idle(gate)
    words = [series(gate, endpoint.series) for endpoint in gate.plan.pools[0].endpoints]
    assert [tuple(word.values("requests").values()) for word in words] == [(0, 0, 0, 0, 0, 0, 1), (0, 1, 0, 0, 0, 0, 0)]


async def test_a_connect_that_hangs_is_given_up_when_the_hedge_wins(site: Site, deaf: Deaf) -> None:
    gate = await deaf_and(site, deaf, Plain("b", ["answer"]))
    reader, writer = await gate.connect()
    for _ in range(3):
        writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(1) == b"b"
    await idle(gate)
    assert gate.proxy.stats()["sources"] == 4  # the listener, the timers, the client, and the endpoint's connection
    writer.close()


async def test_what_may_not_be_repeated_waits_for_its_connection(site: Site, deaf: Deaf) -> None:
    gate = await deaf_and(site, deaf, Plain("b", ["answer"]), connect="400ms")
    status, body = await get(gate, "POST", b"once")
    assert (status, body) == (200, b"b")  # by a retry: nothing was sent
    assert results(gate) == (0, 0, 0, 0)
    await idle(gate)


async def test_a_body_that_ends_during_the_connect(site: Site, deaf: Deaf) -> None:
    other = Plain("b", ["answer"])
    gate = await deaf_and(site, deaf, other)
    reader, writer = await gate.connect()
    writer.write(b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    await settle(lambda: gate.in_flight() == 1, "the request did not arrive")
    await asyncio.sleep(0.1)
    assert results(gate) == (0, 0, 0, 0)  # it cannot be sent whole yet
    writer.write(b"def")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert other.seen[0].endswith(b"\r\n\r\nabcdef")
    assert results(gate) == (1, 1, 0, 0)
    await idle(gate)
    writer.close()


async def test_a_connect_that_fails_leaves_it_to_the_hedge(site: Site, deaf: Deaf) -> None:
    other = Plain("b", ["hang"])
    gate = await deaf_and(site, deaf, other, connect="200ms")
    task = asyncio.create_task(get(gate))
    await settle(lambda: len(other.seen) == 1, "no hedge")
    await settle(lambda: gate.in_flight() == 1, "the connect has not failed")
    other.go.set()
    assert await task == (200, b"b")
    assert results(gate) == (1, 1, 0, 0)
    assert series(gate)["retries"] == 0
    assert series(gate, gate.plan.pools[0].endpoints[0].series)["connect_errors"] == 1
    await idle(gate)


async def test_a_connect_that_comes_about_during_the_hedge(site: Site, deaf: Deaf) -> None:
    """The kernel repeats its SYN after a second: the first attempt is sent then, and may still be the first to
    answer."""
    first, other = Plain("a", ["answer"]), Plain("b", ["hang"])
    gate = await deaf_and(site, deaf, other)
    task = asyncio.create_task(get(gate))
    await settle(lambda: len(other.seen) == 1, "no hedge")
    await deaf.listen(first)
    assert await asyncio.wait_for(task, 20) == (200, b"a")
    await settle(lambda: other.resets == 1, "the hedge's endpoint was not told")
    assert results(gate) == (1, 0, 1, 0)
    await idle(gate)


async def test_a_hedge_that_fails_leaves_the_connect_alone(site: Site, deaf: Deaf) -> None:
    first, other = Plain("a", ["answer"]), Plain("b", ["break"])
    gate = await deaf_and(site, deaf, other)
    task = asyncio.create_task(get(gate))
    await settle(lambda: results(gate) == (1, 0, 1, 0), "no hedge was lost")
    await deaf.listen(first)
    assert await asyncio.wait_for(task, 20) == (200, b"a")
    await idle(gate)


async def test_the_client_leaves_while_both_are_under_way(site: Site, deaf: Deaf) -> None:
    other = Plain("b", ["hang"])
    gate = await deaf_and(site, deaf, other)
    _, writer = await gate.connect()
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    await settle(lambda: len(other.seen) == 1, "no hedge")
    writer.close()
    await settle(lambda: other.resets == 1, "the hedge's endpoint was not told")
    await idle(gate)
    assert results(gate) == (1, 0, 1, 0)
    assert gate.proxy.stats()["sources"] == 2  # the listener and the timers


async def test_the_deadline_passes_while_both_are_under_way(site: Site, deaf: Deaf) -> None:
    other = Plain("b", ["hang"])
    gate = await deaf_and(site, deaf, other, timeout="300ms")
    status, _ = await get(gate)
    assert status == 504
    await idle(gate)
    assert results(gate)[:3] == (1, 0, 1)


async def test_a_retry_that_connects_has_the_time_of_connects(site: Site, deaf: Deaf) -> None:
    """Not what the first attempt had left to answer in."""
    first, other = Plain("a", ["snap"]), Plain("b", ["answer"])
    pool = {"protocol": "http", "endpoints": [await site.endpoint(first), deaf.address], "policy": "round_robin"}
    times = {"connect_timeout": "20s", "response_timeout": "1s"}
    gate = await routing_gate(site, [{"pool": "both"}], {"both": {**pool, **times}})
    started = time.monotonic()
    asking = asyncio.create_task(get(gate))
    await settle(lambda: bool(first.seen), "the first attempt has begun")
    first.go.set()
    await settle(lambda: gate.in_flight() == 1 and time.monotonic() > started + 1.2, "the retry was given up")
    await deaf.listen(other)
    assert await asking == (200, b"b")
    await idle(gate)


async def test_a_session_whose_connect_failed_goes_to_what_the_pool_has_now(site: Site, deaf: Deaf) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    addresses = [deaf.address, await site.endpoint(echo)]
    gate = await site.gate(addresses, pool={"retries": 1, "protocol": "tcp"}, listener={"protocol": "tcp"})
    old, new = gate.plan.pools[0].endpoints
    site.reload_pool(gate, endpoints=(old,))
    reader, writer = await gate.connect()
    writer.write(b"one")
    await settle(lambda: gate.in_flight() == 1, "the session has not begun")
    site.reload_pool(gate, generation=3, endpoints=(new,))
    assert await reader.readexactly(3) == b"one"
    assert series(gate, new.series)["retries"] == 1
    writer.close()
    await settle(lambda: gate.in_flight() == 0, "the session stays")
