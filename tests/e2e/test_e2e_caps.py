"""No endpoint has more than its `max_in_flight`, whatever the workers do and whatever becomes of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

from daemon import Daemon, eventually, http_listener, route, worker_of
from endpoints import Endpoint
from http2_endpoint import Http2Endpoint
from traffic import Client, ask_once, load, request

Start = Callable[..., Daemon]
GET = request("GET", "/x")
CAP = 2


def config(addresses: list[str], **pool: Any) -> dict[str, Any]:
    settings = {"protocol": "http", "endpoints": addresses, "max_in_flight": CAP, **pool}
    return {"workers": 4, "listeners": {"web": http_listener(route("/", "http"))}, "pools": {"http": settings}}


async def test_four_workers_and_a_cap_of_two(start: Start, endpoint: Callable[..., Any]) -> None:
    endpoints: list[Endpoint] = [await endpoint(name, 0.01) for name in "abc"]
    daemon = start(config([e.address for e in endpoints]))
    port = daemon.port()
    async with load(port, [GET], clients=48) as running:
        await running.until(1500)
        owners = {c.local_port: worker_of(daemon.worker_pids(), c.local_port) for c in running.clients}
        assert len(set(owners.values())) > 1, "all connections came to one worker"
        assert not running.failures
    assert [e.peak for e in endpoints] == [CAP] * 3
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0, "in-flight counts")


async def test_a_learned_limit_is_one_limit_over_four_workers(start: Start, endpoint: Callable[..., Any]) -> None:
    """The file has endpoints and nothing else. They do one request at a time, so that two keep each of them busy. A
    limit for each worker would be four times that, and without one 53 would stand at each."""
    endpoints: list[Endpoint] = [await endpoint(name, 0.01, at_once=1) for name in "abc"]
    pool = {"protocol": "http", "endpoints": [e.address for e in endpoints]}
    daemon = start({"workers": 4, "listeners": {"web": http_listener(route("/", "http"))}, "pools": {"http": pool}})
    limits: set[float] = set()

    def owners(clients: list[Client]) -> set[int]:
        return {worker_of(daemon.worker_pids(), client.local_port) for client in clients}

    async with load(daemon.port(), [GET], clients=160) as running:
        await running.until(300)
        # In a thread: endpoints that stand still would get more.
        assert len(await asyncio.to_thread(owners, running.clients[:16])) > 1, "all connections came to one worker"
        while max(one.active for one in endpoints) > 2:
            await running.until(20)
        for one in endpoints:
            one.peak = one.active
        for _ in range(20):
            await running.until(30)
            limits |= set((await asyncio.to_thread(daemon.metrics, "tidegate_endpoint_max_in_flight")).values())
        assert not running.failures
        assert 0 < max(limits) <= 4
        assert max(one.peak for one in endpoints) <= max(limits) + 1  # which may change between two looks


async def test_a_cap_holds_across_the_death_of_workers(start: Start, endpoint: Callable[..., Any]) -> None:
    endpoints: list[Endpoint] = [await endpoint(name, 0.05) for name in "ab"]
    daemon = start(config([e.address for e in endpoints]))
    port = daemon.port()
    statuses: Counter[int] = Counter()
    cut = 0
    stop = asyncio.Event()

    async def client() -> None:
        nonlocal cut
        while not stop.is_set():
            try:
                statuses[(await ask_once(port, GET)).status] += 1
            except (OSError, EOFError):
                cut += 1  # its worker was the one

    clients = [asyncio.create_task(client()) for _ in range(24)]
    for index in range(4):
        await asyncio.to_thread(eventually, lambda index=index: statuses[200] > 60 * (index + 1), "answers")
        victim = daemon.worker_pids()[index]
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(
            eventually, lambda victim=victim: victim not in daemon.worker_pids(), "the worker was not replaced"
        )
    stop.set()
    await asyncio.gather(*clients)
    assert set(statuses) == {200}
    assert cut <= 24 * 4
    assert [e.peak for e in endpoints] == [CAP] * 2
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0, "in-flight counts")
    waiting = await asyncio.to_thread(daemon.metrics, "tidegate_pool_queue_length")
    assert list(waiting.values()) == [0]


async def test_a_cap_holds_where_tries_are_given_up(start: Start) -> None:
    """Over HTTP/2 a try that is given up ends with a frame, not with its connection. That frame has left before the
    place goes to another request, which another worker may send at once."""
    endpoints = [Http2Endpoint(0.005, 5.0, 0.3, seed) for seed in (1, 2)]
    for one in endpoints:
        await one.start()
    settings = config([one.address for one in endpoints], protocol="http2")
    retry = {"attempts": 10, "on": ["timeout"], "per_attempt_timeout": "60ms", "budget": 100}
    retry["backoff"] = {"base": "1ms"}
    settings["listeners"]["web"] = http_listener(route("/", "http", retry=retry))
    daemon = start(settings)
    async with load(daemon.port(), [GET], clients=24) as running:
        await running.until(600)
        assert not running.failures
    assert sum(one.resets for one in endpoints) > 30
    assert [one.peak for one in endpoints] == [CAP] * 2
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0, "in-flight counts")
    for one in endpoints:
        one.close()


async def test_who_waits_for_a_pool_is_served_when_it_is_removed(start: Start, endpoint: Callable[..., Any]) -> None:
    """A pool is renamed while requests wait in its queue."""
    only: Endpoint = await endpoint("a", 0.1)
    before = config([only.address])
    daemon = start(before)
    port = daemon.port()
    tasks = [asyncio.create_task(ask_once(port, GET)) for _ in range(12)]
    await asyncio.to_thread(eventually, lambda: daemon.pool("http")["queue"]["waiting"] >= 8, "the queue", 10)
    after = {
        **before,
        "listeners": {"web": http_listener(route("/", "renamed"))},
        "pools": {"renamed": before["pools"]["http"]},
    }
    outcome = await asyncio.to_thread(daemon.reload, after)
    assert outcome["ok"], outcome
    assert (await ask_once(port, GET)).status == 200
    assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * 12
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0, "in-flight counts")
