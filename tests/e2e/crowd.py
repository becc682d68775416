"""Clients that ask the same at once, over all workers of a daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psutil
from daemon import Daemon
from traffic import Answer, Client
from waiting import until_in_thread


def peers(pid: int) -> set[int]:
    """Ports of the peers that a process is connected with."""
    return {each.raddr.port for each in psutil.Process(pid).net_connections("tcp4") if each.raddr}


class Crowd:
    """One connection each; `owners` has the worker of each."""

    def __init__(self, daemon: Daemon, count: int) -> None:
        self.daemon = daemon
        self.clients = [Client(daemon.port()) for _ in range(count)]
        self.owners: list[int | None] = []  # None: not yet accepted

    async def connect(self) -> None:
        """Each worker has some: on a busy machine a single one may accept all that come at a moment."""
        for _ in range(50):
            for client in self.clients:
                if not client.local_port:
                    await client.connect()
            await until_in_thread(self._all_accepted, "the connections are not accepted")
            if set(self.daemon.worker_pids()) <= set(self.owners):
                return
            busiest = max(set(self.owners), key=self.owners.count)
            for i in self.of(busiest)[1::2]:
                self.clients[i].close()
                self.clients[i] = Client(self.daemon.port())
        raise AssertionError("a worker accepts no connections")

    def _all_accepted(self) -> bool:
        owners = {port: pid for pid in self.daemon.worker_pids() for port in peers(pid)}
        self.owners = [owners.get(client.local_port) for client in self.clients]
        return None not in self.owners

    def ask(self, message: Callable[[int], bytes], but: int = -1) -> list[asyncio.Task[Answer]]:
        """All of them, except one, send the message for their number."""
        return [asyncio.create_task(client.ask(message(i))) for i, client in enumerate(self.clients) if i != but]

    def of(self, worker: int | None) -> list[int]:
        return [i for i, owner in enumerate(self.owners) if owner == worker]

    def close(self) -> None:
        for client in self.clients:
            client.close()


async def all_wait(daemon: Daemon, count: int) -> None:
    await until_in_thread(lambda: in_routes(daemon) == count, "the requests did not arrive")


def in_routes(daemon: Daemon) -> float:
    return sum(daemon.metrics("tidegate_route_in_flight").values())
