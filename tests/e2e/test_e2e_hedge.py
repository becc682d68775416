"""Budgets of retries and hedges hold over all workers, and operators see what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon import Daemon, eventually, http_listener, route, worker_of
from endpoints import Endpoint
from traffic import load, request
from waiting import logged

Start = Callable[..., Daemon]
GET = request("GET", "/x")


def config(addresses: list[str], log: Path | None = None, **settings: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "workers": 4,
        "listeners": {"web": http_listener({**route("/", "http"), "name": "r", **settings})},
        "pools": {"http": {"protocol": "http", "endpoints": addresses, "policy": "round_robin"}},
    }
    if log is not None:
        made["log"] = {"access": str(log)}
    return made


def counted(daemon: Daemon, name: str) -> dict[Any, float]:
    return dict(daemon.metrics(name))


async def test_hedges_are_a_share_of_the_requests_of_all_workers(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    endpoints: list[Endpoint] = [await endpoint("slow", 0.2), await endpoint("fast", 0.002)]
    log = tmp_path / "access.log"
    hedge = {"after": "10ms", "budget": 10, "budget_min": 1}
    daemon = start(config([e.address for e in endpoints], log, hedge=hedge))
    port = daemon.port()
    started = time.monotonic()
    async with load(port, [GET], clients=48) as running:
        await running.until(2000)
        owners = {worker_of(daemon.worker_pids(), c.local_port) for c in running.clients}
        assert len(owners) > 1, "all connections came to one worker"
        assert not running.failures
    seconds = time.monotonic() - started
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0, "in-flight counts")
    asked = sum(counted(daemon, "tidegate_route_requests_total").values())
    begun = sum(counted(daemon, "tidegate_route_hedges_total").values())
    became = counted(daemon, "tidegate_route_hedge_results_total")
    by_result = {result: sum(n for key, n in became.items() if result in str(key)) for result in ("won", "lost")}
    refused = sum(n for key, n in became.items() if "refused" in str(key))
    # What is always allowed, and the claims of other workers that a second's beginning may miss.
    assert 0 < begun <= asked * 0.1 + (seconds + 1) + 3 * (seconds + 1)
    assert begun == sum(by_result.values())
    assert by_result["won"] > 0
    assert refused > 0
    records = await asyncio.to_thread(logged, log, lambda records: any(record["hedge"] == "won" for record in records))
    won = [record for record in records if record["hedge"] == "won"]
    assert len(won) <= by_result["won"]
    assert won
    assert all(record["attempts"] == 2 for record in won)
    assert {record["endpoint"] for record in won} == {endpoints[1].address}


async def test_retries_are_a_share_of_the_requests_of_all_workers(start: Start) -> None:
    # Every first attempt fails. An endpoint beside them that answers would get most: failures make others look busy.
    dead = ["127.0.0.1:9", "127.0.0.2:9"]
    retry = {"on": ["connect"], "attempts": 1, "budget": 10, "budget_min": 1, "backoff": {"base": "1ms"}}
    daemon = start(config(dead, retry=retry))
    started = time.monotonic()
    async with load(daemon.port(), [GET], clients=48) as running:
        await running.until(2000)
    seconds = time.monotonic() - started
    asked = sum(counted(daemon, "tidegate_route_requests_total").values())
    retried = sum(counted(daemon, "tidegate_route_retries_total").values())
    refused = sum(counted(daemon, "tidegate_route_retries_refused_total").values())
    assert 0 < retried <= asked * 0.1 + 4 * (seconds + 1)
    assert asked / 2 < refused <= asked - retried
