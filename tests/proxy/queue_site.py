"""An endpoint that answers when it is told to, and requests that wait for it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from datapath import ROUTE, SECOND, Gate, Handler, Site, settle
from msgspec.structs import replace

from lb.config.plan.plan import QueuePlan
from lb.telemetry.series import Series

# Nobody leaves the line by its time where a test does not say so, however busy the machine is.
LONG = 600 * SECOND
QUEUE = QueuePlan(series=300, max=100, timeout_ns=LONG, overload_after_ns=LONG, overload_share=0.25)

MILLISECOND = 1_000_000


class Held:
    """An endpoint that answers a request with its path, one at a time and when told to; `seen` are their paths."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.bodies: list[bytes] = []
        self.active = 0
        self.peak = 0
        self.turns = asyncio.Semaphore(0)

    def answer(self, count: int = 1) -> None:
        for _ in range(count):
            self.turns.release()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            length = re.search(r"(?i)content-length: (\d+)", head)
            self.active += 1
            self.peak = max(self.peak, self.active)
            self.seen.append(path)
            self.bodies.append(await reader.readexactly(int(length[1])) if length else b"")
            await self.turns.acquire()
            self.active -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path.encode()))
            await writer.drain()


def line(gate: Gate, series: int = QUEUE.series) -> Series:
    return gate.total(series)


def waiting(gate: Gate) -> int:
    return line(gate).running


async def ask(gate: Gate, path: str) -> bytes:
    return await gate.exchange(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())


async def wait(gate: Gate, path: str) -> asyncio.Task[bytes]:
    """A request that has joined the queue."""
    before = waiting(gate)
    task = asyncio.create_task(ask(gate, path))
    await settle(lambda: waiting(gate) == before + 1, f"{path} does not wait")
    return task


async def hold(gate: Gate, endpoint: Held, path: str = "/first") -> asyncio.Task[bytes]:
    """A request that has the endpoint."""
    task = asyncio.create_task(ask(gate, path))
    await settle(lambda: path in endpoint.seen, f"{path} does not get there")
    return task


async def warm(gate: Gate, endpoint: Held, path: str = "/warm") -> None:
    """Its first answer, which tells nothing of how long requests take: from the next on they do."""
    first = await hold(gate, endpoint, path)
    endpoint.answer()
    await first
    endpoint.seen.remove(path)
    endpoint.bodies.pop()


def routes(*settings: dict[str, Any]) -> tuple[Any, ...]:
    """A route for each, by the prefix `name`."""
    return tuple(
        replace(ROUTE, series=2 + i, path_kind="prefix", path=f"/{one['name']}", **one)
        for i, one in enumerate(settings)
    )


async def capped(site: Site, endpoint: Handler, queue: QueuePlan | None = QUEUE, **settings: Any) -> Gate:
    pool = {"queue": queue, "response_timeout_ns": LONG, **settings.pop("pool", {})}
    return await site.gate([await site.endpoint(endpoint)], cap=1, pool=pool, **settings)
