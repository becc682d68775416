"""Limits on connections hold over all workers, whatever becomes of them."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

from daemon import Daemon, eventually, http_listener, route, worker_of
from traffic import ask_once
from waiting import until

Start = Callable[..., Daemon]
WORKERS = 4
LIMIT = 10
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Connections:
    """Connections from one address; `served` are those that have got an answer and are open."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.port, self.source = port, source
        self.served: set[asyncio.StreamWriter] = set()
        self.refused = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def one(self, number: int) -> None:
        writer = None
        await asyncio.sleep(0.02 * number)  # so that workers share them: one alone could take a burst
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(self.source, 0))
            self.writers.append(writer)
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            self.served.add(writer)
            await reader.readexactly(1)  # the body
            await reader.read()  # until it is closed
        except (ConnectionError, asyncio.IncompleteReadError):
            self.refused += 1
        if writer is not None:
            self.served.discard(writer)
            writer.close()

    def come(self, n: int) -> None:
        self.tasks += [asyncio.create_task(self.one(number)) for number in range(n)]

    async def leave(self, n: int) -> None:
        for writer in list(self.served)[:n]:
            self.served.discard(writer)
            writer.close()
            await asyncio.sleep(0)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await until(condition, what)

    async def end(self) -> None:
        for writer in self.writers:
            writer.close()
        await asyncio.gather(*self.tasks)


def config(address: str, **listener: Any) -> dict[str, Any]:
    return {
        "workers": WORKERS,
        "listeners": {"web": http_listener(route("/", "app"), **listener)},
        "pools": {"app": {"protocol": "http", "endpoints": [address]}},
    }


def open_connections(daemon: Daemon) -> float:
    return sum(daemon.metrics("tidegate_listener_open_connections").values())


def owner(daemon: Daemon, connections: Connections) -> int:
    """A worker that has some of the connections's connections."""
    owners = {worker_of(daemon.worker_pids(), w.get_extra_info("sockname")[1]) for w in connections.served}
    assert len(owners) > 1, "all connections came to one worker"
    return next(pid for pid in owners if pid)


async def killed(daemon: Daemon, connections: Connections) -> None:
    pid = owner(daemon, connections)
    os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        pids = daemon.worker_pids()
        return len(pids) == WORKERS and pid not in pids

    await asyncio.to_thread(eventually, replaced, "a new worker")


async def test_a_listener_has_no_more_than_its_limit(start: Start, endpoint: Callable[..., Any]) -> None:
    daemon = start(config((await endpoint("a")).address, max_connections=LIMIT))
    connections = Connections(daemon.port())
    connections.come(4 * LIMIT)
    await connections.until(lambda: len(connections.served) == LIMIT, "as many as may")
    await asyncio.sleep(0.5)
    assert (len(connections.served), open_connections(daemon), connections.refused) == (LIMIT, LIMIT, 0)
    await connections.leave(3)  # others wait in the kernel's queue, and get in
    await connections.until(lambda: len(connections.served) == LIMIT, "the places are taken again")
    await killed(daemon, connections)
    await connections.until(lambda: len(connections.served) == LIMIT, "the dead worker's places, too")
    await asyncio.sleep(0.5)
    assert (len(connections.served), open_connections(daemon)) == (LIMIT, LIMIT)
    await connections.end()


async def test_a_source_has_no_more_than_its_limit(start: Start, endpoint: Callable[..., Any]) -> None:
    daemon = start(config((await endpoint("a")).address, max_connections_per_source=LIMIT))
    port = daemon.port()
    connections, other = Connections(port), Connections(port, "127.0.0.2")
    connections.come(4 * LIMIT)
    other.come(LIMIT)
    await connections.until(lambda: connections.refused == 3 * LIMIT, "those that are too many are closed")
    await other.until(lambda: len(other.served) == LIMIT, "others are not concerned")
    assert len(connections.served) == LIMIT
    await connections.leave(4)
    await asyncio.to_thread(eventually, lambda: open_connections(daemon) == 2 * LIMIT - 4, "their ends")
    connections.come(2 * LIMIT)
    await connections.until(lambda: len(connections.served) == LIMIT, "four get in")
    await connections.until(lambda: connections.refused == 5 * LIMIT - 4, "the rest do not")

    left = connections.refused
    await killed(daemon, connections)
    await connections.until(lambda: len(connections.served) < LIMIT, "its connections are cut")
    await asyncio.sleep(0.2)
    lost = LIMIT - len(connections.served)
    connections.refused = left
    connections.come(2 * LIMIT)
    await connections.until(lambda: len(connections.served) == LIMIT, "as many as were lost get in")
    await connections.until(lambda: connections.refused == left + 2 * LIMIT - lost, "and no more")
    await connections.end()
    await other.end()


async def test_a_limit_that_a_reload_brings_knows_who_is_there(start: Start, endpoint: Callable[..., Any]) -> None:
    address = (await endpoint("a")).address
    daemon = start(config(address))
    connections = Connections(daemon.port())
    connections.come(LIMIT)
    await connections.until(lambda: len(connections.served) == LIMIT, "all of them")
    assert (await asyncio.to_thread(daemon.reload, config(address, max_connections_per_source=LIMIT + 2)))["ok"]
    connections.come(LIMIT)
    await connections.until(lambda: connections.refused == LIMIT - 2, "all but two are closed")
    assert len(connections.served) == LIMIT + 2
    assert (await asyncio.to_thread(daemon.reload, config(address)))["ok"]
    connections.come(LIMIT)
    await connections.until(lambda: len(connections.served) == 2 * LIMIT + 2, "no limit, again")
    await connections.end()


FEW = 160  # open files


async def test_no_more_connections_are_accepted_than_the_endpoints_can_be_reached_for(
    start: Start, endpoint: Callable[..., Any]
) -> None:
    """Each connection needs a descriptor towards an endpoint as well. Those that do not fit wait; nobody gets a 502."""
    slow = await endpoint("slow", 0.3)
    description = {**config(slow.address), "workers": 1}
    daemon = start(description)
    for pid in (daemon.process.pid, *daemon.worker_pids()):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (FEW, FEW))
    assert (await asyncio.to_thread(daemon.reload, description))["ok"]
    port = daemon.port()
    answers = await asyncio.gather(*(ask_once(port, GET) for _ in range(2 * FEW)))
    assert {answer.status for answer in answers} == {200}
    assert "leaves room for no more connections" in daemon.log
    assert f"{FEW} open files a worker leave room for" in daemon.log
    told = daemon.status()["open_files"]
    assert told["limit"] == FEW
    assert 0 < told["connections_per_worker"] < FEW // 2
    assert "LimitNOFILE" in told["shortage"]
