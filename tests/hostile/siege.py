"""What holds while an attack goes on, and afterwards, whatever the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from daemon import Daemon, eventually, http_listener, open_files, route
from hostile_site import Attack, Memory, Server, besieged
from traffic import ask_once, load, request

ROUNDS = 3
ROUND = 0.4  # seconds
GET = request("GET", "/")


def config(address: str, listener: dict[str, Any]) -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": {"web": http_listener(route("/", "app"), **listener)},
        "pools": {"app": {"protocol": "http", "endpoints": [address], "idle_timeout": "500ms"}},
        "log": {"access": "/dev/null"},
    }


def gauges(daemon: Daemon) -> list[float]:
    """Everything that has to be zero when nobody is there."""
    names = ("tidegate_listener_open_connections", "tidegate_route_in_flight", "tidegate_endpoint_in_flight")
    return [value for name in names for value in daemon.metrics(name).values()]


async def others_are_served(attack: Attack, start: Callable[..., Daemon], server: Server) -> None:
    """While hostile clients do their worst, others lose no request; nothing is left of the attack."""
    daemon = start(config(server.address, attack.listener))
    port, pids = daemon.port(), daemon.worker_pids()
    async with load(port, [GET], clients=8) as running:
        await running.until(200)
        memory, answered = Memory(pids), running.answers
        async with besieged(attack, port) as siege:
            for _ in range(ROUNDS):
                await asyncio.sleep(ROUND)
                await running.until(20)
                memory.look()
            assert (await ask_once(port, GET)).status == 200  # newcomers get in, too
            async with asyncio.timeout(60):
                while siege.cut < attack.cut:
                    await asyncio.sleep(0.05)
                    memory.look()
        answered = running.answers - answered
    growth = memory.growth / (1 << 20)
    # A line of the table in docs/reliability.md; pytest shows it with -rP.
    print(f"| {attack.name} | {siege.attempts:,} | {siege.cut:,} | {answered:,} | {growth:.1f} |")
    assert running.reasons == []
    assert siege.attempts >= attack.connections
    assert memory.growth < attack.memory, f"{growth:.1f} MiB"
    await asyncio.to_thread(eventually, lambda: not any(gauges(daemon)), "something is left open", 30)
    assert daemon.in_flight() == 0
    assert daemon.worker_pids() == pids
    assert all(worker["restarts"] == 0 for worker in daemon.status()["workers"])


async def descriptors_come_back(
    attacks: list[Attack], listener: dict[str, Any], start: Callable[..., Daemon], server: Server
) -> None:
    """One attack after the other, and then no descriptor, connection or request more than before."""
    daemon = start(config(server.address, listener))
    port = daemon.port()
    assert (await ask_once(port, GET)).status == 200
    await asyncio.to_thread(eventually, lambda: not any(gauges(daemon)), "the first connection")
    await asyncio.sleep(1)  # the idle upstream connection has gone by then
    before = [open_files(pid) for pid in daemon.worker_pids()]
    for attack in attacks:
        async with besieged(attack, port):
            await asyncio.sleep(0.3)

    def back() -> bool:
        now = [open_files(pid) for pid in daemon.worker_pids()]
        return not any(gauges(daemon)) and all(n <= b for n, b in zip(now, before, strict=True))

    await asyncio.to_thread(eventually, back, "descriptors or connections are left", 30)
    assert (await ask_once(port, GET)).status == 200
