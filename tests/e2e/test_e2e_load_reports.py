"""Load reports out of band, from a real server by way of the master to every worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from daemon import Daemon, eventually, http_listener, route

from lb.wire import orca_load_report_pb2 as orca
from lb.wire.services import LOAD_REPORTS, serve

Start = Callable[..., Daemon]


class Reporting:
    def __init__(self) -> None:
        self.open = 0
        self.utilization = 0.5

    async def StreamCoreMetrics(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.open += 1
        try:
            while True:
                yield orca.OrcaLoadReport(application_utilization=self.utilization, rps_fractional=20, eps=1)
                await asyncio.sleep(0.05)
        finally:
            self.open -= 1


async def test_reports_reach_the_shared_record(start: Start) -> None:
    service = Reporting()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    serve(server, LOAD_REPORTS, service)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    policy: dict[str, Any] = {"type": "client_side_weighted_round_robin", "oob": {"period": "100ms"}}
    config: dict[str, Any] = {
        "listeners": {"web": http_listener(route("/", "g"))},
        "pools": {"g": {"protocol": "grpc", "endpoints": [address], "policy": policy}},
    }
    daemon = await asyncio.to_thread(start, config)

    def reported(utilization: float) -> bool:
        found = daemon.pool("g")["endpoints"][0]["report"]
        return found is not None and (found["utilization"], found["rps"], found["eps"]) == (utilization, 20, 1)

    await asyncio.to_thread(eventually, lambda: reported(0.5), "a report")
    service.utilization = 0.75
    await asyncio.to_thread(eventually, lambda: reported(0.75), "the next report")
    assert service.open == 1  # for all workers together
    assert (await asyncio.to_thread(daemon.reload))["ok"]
    assert service.open == 1
    del policy["oob"]
    daemon.write(config)
    assert (await asyncio.to_thread(daemon.reload))["ok"]
    for _ in range(500):
        if not service.open:
            break
        await asyncio.sleep(0.02)
    assert service.open == 0
    await server.stop(None)
