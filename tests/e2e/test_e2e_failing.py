"""Endpoints that fail at once, behind a daemon with several workers and nothing in the file about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from daemon import Daemon, eventually, http_listener, route
from ports import free_port
from test_e2e_outlier import Moody
from traffic import ask_once, request

Start = Callable[..., Daemon]
GET = request("GET", "/x")
REQUESTS = 200


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Moody, Moody]]:
    made = await Moody("bad").start(), await Moody("good").start()
    yield made
    for one in made:
        one.server.close()
    await asyncio.sleep(0)


def config(addresses: list[str], policy: str) -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": {"web": http_listener(route("/", "app"))},
        "pools": {"app": {"protocol": "http", "policy": policy, "endpoints": addresses}},
    }


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("policy", ["least_request", "shortest_expected_delay", "least_time", "prequal", "round_robin"])
async def test_the_bad_one_of_two_gets_few_requests_and_heals(
    start: Start, pair: tuple[Moody, Moody], policy: str, status: int
) -> None:
    bad, good = pair
    bad.status, good.delay = status, 0.005
    daemon = start(config([bad.address, good.address], policy))
    port = daemon.port()
    for _ in range(REQUESTS):
        await ask_once(port, GET)
    assert bad.served[status] <= REQUESTS // 8
    row = daemon.pool("app")["endpoints"][0]
    assert row["health"] == "unchecked"
    # A hedge there that the other's answer came before is given up: its status is read no more.
    given_up = daemon.metrics("tidegate_route_hedge_results_total")[frozenset({("route", "app"), ("result", "lost")})]
    assert bad.served[status] - given_up <= row["errors"]["faults"] <= bad.served[status]
    assert row["failing"] > 0
    assert 0 < row["turns"] < 1
    assert row["steering"]["ejection_state"] in ("well", "ejected"), "if it had five failures by now"
    bad.status, bad.delay = 200, 0.005
    deadline = asyncio.get_running_loop().time() + 60  # prequal prefers the other until what it has learned fades
    # Its turns come back by its answers, and on a busy machine by the time that has passed without a word of it.
    while not bad.served[200] or daemon.pool("app")["endpoints"][0]["turns"] < 0.5:
        assert asyncio.get_running_loop().time() < deadline, "it was not found out that it is well again"
        for _ in range(20):
            await ask_once(port, GET)


async def test_an_endpoint_that_is_not_there(start: Start, pair: tuple[Moody, Moody]) -> None:
    _, good = pair
    dead = f"127.0.0.1:{free_port()}"
    daemon = start(config([dead, good.address], "least_request"))
    for _ in range(REQUESTS):
        await ask_once(daemon.port(), GET)
    assert good.served[200] == REQUESTS, "each was tried again"
    refused = daemon.metrics("tidegate_endpoint_connect_errors_total")
    assert refused[frozenset({("pool", "app"), ("endpoint", dead)})] <= REQUESTS // 8
    explained = daemon.admin("/api/v1/explain", "POST", json.dumps({"pool": "app"}))[1]
    assert b"failed of late" in explained or b"ejected" in explained


async def test_a_canary_that_fails_its_copies_raises_an_error_rate(start: Start, pair: tuple[Moody, Moody]) -> None:
    """And none of those that clients are counted in; one that has no endpoint is seen, too."""
    bad, good = pair
    bad.status = 503
    nobody = {"address": f"127.0.0.1:{free_port()}", "weight": 0}
    routes = [route("/x", "app", mirror={"pool": "canary"}), route("/none", "main", mirror={"pool": "nobody"})]
    endpoints: dict[str, list[Any]] = {
        "app": [good.address], "main": [good.address], "canary": [bad.address], "nobody": [nobody],
    }  # fmt: skip
    daemon = start({
        "workers": 2,
        "listeners": {"web": http_listener(*routes)},
        "pools": {name: {"protocol": "http", "endpoints": found} for name, found in endpoints.items()},
    })  # fmt: skip
    for path in ("/x", "/x", "/x", "/none"):
        assert (await ask_once(daemon.port(), request("GET", path))).status == 200

    def counted(name: str, label: str) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for labels, n in daemon.metrics(f"tidegate_{name}_total").items():
            if n:
                of = dict(labels)
                found.setdefault(of.get(label, ""), {})[of.get("code", "")] = n
        return found

    await asyncio.to_thread(eventually, lambda: counted("pool_errors", "pool") == {"canary": {"": 3}}, "three errors")
    assert counted("pool_requests", "pool") == {"app": {"2xx": 3}, "main": {"2xx": 1}, "canary": {"5xx": 3}}
    assert counted("endpoint_errors", "endpoint") == {bad.address: {"": 3}}
    assert counted("route_requests", "route") == {"app": {"2xx": 3}, "main": {"2xx": 1}}
    assert counted("route_errors", "route") == {}

    def totals() -> list[float]:
        """As workers report them, once in a while."""
        kinds = ("requests", "failures", "skipped")
        return [sum(daemon.metrics(f"tidegate_worker_mirror_{kind}_total").values()) for kind in kinds]

    await asyncio.to_thread(eventually, lambda: totals() == [4, 1, 0], "the copies by what became of them")
    assert daemon.pool("canary")["endpoints"][0]["errors"]["faults"] == 3
