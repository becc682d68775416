"""Workers that are killed under load, and a daemon that is stopped under load."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from daemon import Daemon, alive, eventually, http_listener, route, worker_of
from traffic import Client, ask_once, load, request

Start = Callable[..., Daemon]
GET = request("GET", "/http/x")
TENSOR = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
INFER = request("POST", "/v2/models/m/infer", {"inputs": [TENSOR]})


def config(http: list[str], oip: list[str] = []) -> dict[str, Any]:  # noqa: B006
    routes = [route("/http/", "http")]
    pools: dict[str, Any] = {"http": {"protocol": "http", "endpoints": http}}
    if oip:
        routes.append(route("/v2/", "oip"))
        pools["oip"] = {"protocol": "oip", "endpoints": oip}
    return {"workers": 2, "listeners": {"web": http_listener(*routes)}, "pools": pools}


async def test_a_killed_worker_costs_only_its_own_exchanges(
    start: Start, endpoint: Callable[..., Any], stub: Callable[[], str]
) -> None:
    web = [(await endpoint(name)).address for name in "ab"]
    daemon = start(config(web, [stub(), stub()]))
    port = daemon.port()
    for _ in range(3):
        workers = daemon.worker_pids()
        refused: list[str] = []
        stop = asyncio.Event()

        async def connect_all_the_time() -> int:
            """New connections: whatever becomes of their requests, they are taken."""
            connects = 0
            while not stop.is_set():
                client = Client(port)
                try:
                    await client.connect()
                    connects += 1
                    await asyncio.wait_for(client.ask(GET), 60)
                except ConnectionRefusedError as error:
                    refused.append(repr(error))
                except (OSError, EOFError):
                    pass  # its worker was the one
                client.close()
            return connects

        connecting = asyncio.create_task(connect_all_the_time())
        async with load(port, [GET, INFER], clients=24) as running:
            await running.until(300)
            owners = {client.local_port: worker_of(workers, client.local_port) for client in running.clients}
            victim = next(pid for pid in owners.values() if pid is not None)
            survivors = [c for c in running.clients if owners[c.local_port] not in (victim, None)]
            os.kill(victim, signal.SIGKILL)
            await running.until(300) if survivors else await asyncio.sleep(0)
            await asyncio.to_thread(
                eventually,
                lambda: all(w["state"] == "running" and w["pid"] != victim for w in daemon.status()["workers"]),
                "the worker was not replaced",
            )
            failed = {id(client) for client, _ in running.failures}
            assert not failed & {id(client) for client in survivors}, running.failures
            assert failed <= {id(c) for c in running.clients if owners[c.local_port] == victim}, running.failures
        stop.set()
        assert await connecting > 0
        assert refused == []
        await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0, "in-flight counts")
        await asyncio.to_thread(
            eventually,
            lambda: not any(daemon.metrics("tidegate_route_in_flight").values()),
            "in-flight gauges of the routes",
        )
        new = daemon.worker_pids()
        assert victim not in new
        assert len(set(new)) == 2
    assert sum(w["restarts"] for w in daemon.status()["workers"]) == 3
    assert (await ask_once(port, GET)).status == 200


async def test_all_workers_killed_at_once(start: Start, endpoint: Callable[..., Any]) -> None:
    daemon = start(config([(await endpoint("a", 0.2)).address]))
    port = daemon.port()
    waiting = [asyncio.create_task(ask_once(port, GET)) for _ in range(8)]
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() > 0, "requests in flight")
    workers = daemon.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    # The port is the master's: connections queue until there is a worker again.
    assert (await ask_once(port, GET)).status == 200
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0, "in-flight counts")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_lets_every_request_finish(
    start: Start, endpoint: Callable[..., Any], stub: Callable[[], str], number: signal.Signals
) -> None:
    slow = await endpoint("slow", 1.0)
    fast = await endpoint("fast")
    description = config([fast.address], [stub()])
    description["pools"]["slow"] = {"protocol": "http", "endpoints": [slow.address]}
    description["listeners"]["web"]["routes"].insert(0, route("/slow/", "slow"))
    daemon = start(description)
    port = daemon.port()
    family = [daemon.process.pid, *daemon.worker_pids()]
    under_way = [asyncio.create_task(ask_once(port, request("GET", "/slow/"))) for _ in range(20)]
    async with load(port, [GET, INFER], clients=12) as running:
        await running.until(100)
        while slow.active < 20:
            await asyncio.sleep(0.01)
        daemon.process.send_signal(number)
        code = await asyncio.to_thread(daemon.process.wait, 30)
    assert code == 0
    answers = await asyncio.gather(*under_way)
    assert [a.status for a in answers] == [200] * 20
    assert {a.headers.get("connection") for a in answers} == {"close"}
    # Between two requests a kept connection may end (RFC 9112 section 9.3.1); within an answer it may not.
    for _, reason in running.failures:
        assert "0 bytes read on a total of undefined" in reason or "Connection" in reason or "Broken" in reason, reason
    assert not any(alive(pid) for pid in family)
    with pytest.raises(ConnectionRefusedError):
        await Client(port).connect()


async def test_a_second_signal_stops_at_once(start: Start, endpoint: Callable[..., Any]) -> None:
    hanging = await endpoint("hanging", 3600)
    daemon = start(config([hanging.address]))
    pending = asyncio.create_task(ask_once(daemon.port(), GET))
    while not hanging.active:
        await asyncio.sleep(0.01)
    daemon.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(eventually, lambda: "stopping" in daemon.log, "the drain")
    assert daemon.process.poll() is None
    daemon.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(daemon.process.wait, 30) == 0
    with pytest.raises((OSError, EOFError)):
        await pending
