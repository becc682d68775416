"""Ten thousand routes in the real daemon: they are taken, found, and reloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from daemon import Daemon, http_listener

Start = Callable[..., Daemon]
ROUTES = 10_000


def config(addresses: list[str], last: str) -> dict[str, Any]:
    routes: list[dict[str, Any]] = [
        {"pool": "many", "match": {"path": {"prefix": f"/v2/models/m{i:05}/"}}} for i in range(ROUTES - 1)
    ]
    routes.append({"respond": {"body": last}, "match": {"path": {"prefix": f"/v2/models/m{ROUTES - 1:05}/"}}})
    return {
        "workers": 2,
        "listeners": {"web": http_listener(*routes)},
        "pools": {"many": {"protocol": "http", "endpoints": addresses}},
    }


async def test_ten_thousand_routes_and_a_thousand_endpoints(start: Start, endpoint: Callable[..., Any]) -> None:
    real = await endpoint("a")
    # Endpoints that nobody asks: addresses of this host where nothing listens, without weight.
    idle = [{"address": f"127.1.{i // 250}.{i % 250 + 1}:9", "weight": 0} for i in range(999)]
    addresses: list[Any] = [real.address, *idle]
    daemon = start(config(addresses, "old"))
    base = f"http://127.0.0.1:{daemon.port()}/v2/models"
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        for number in (0, 1, 5_000, ROUTES - 2):
            assert (await client.get(f"{base}/m{number:05}/infer")).text == "a"
        assert (await client.get(f"{base}/m{ROUTES - 1:05}/infer")).text == "old"
        assert (await client.get(f"{base}/m{ROUTES:05}/infer")).status_code == 404
        outcome = daemon.reload(config(addresses, "new"))
        assert outcome["ok"], outcome
        assert (await client.get(f"{base}/m{ROUTES - 1:05}/infer")).text == "new"
        assert (await client.get(f"{base}/m00000/infer")).text == "a"


async def test_no_pool_is_needed_to_send_clients_elsewhere(start: Start, endpoint: Callable[..., Any]) -> None:
    """A file with redirects alone; pools may come with a reload, and go with the next."""
    real = await endpoint("a")
    redirect: dict[str, Any] = {
        "workers": 2,
        "listeners": {"web": http_listener({"redirect": {"scheme": "https", "host": "example.org"}})},
    }
    pools = {"many": {"protocol": "http", "endpoints": [real.address]}}
    daemon = start(redirect)
    url = f"http://127.0.0.1:{daemon.port()}/x?y"
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        assert (await client.get(url)).headers["location"] == "https://example.org/x?y"
        asking = {**redirect, "listeners": {"web": http_listener({"pool": "many"})}, "pools": pools}
        assert daemon.reload(asking)["ok"]
        assert (await client.get(url)).text == "a"
        assert daemon.reload(redirect)["ok"]
        assert (await client.get(url)).status_code == 302
    assert daemon.status()["pools"] == []
