"""Maglev through the daemon: a key keeps its endpoint."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from daemon import Daemon, http_listener, route
from traffic import Client, request

Start = Callable[..., Daemon]
KEYS = [f"user-{i}" for i in range(300)]


async def endpoints_of(port: int) -> dict[str, str]:
    """key -> the endpoint that answered, over several connections, so over all workers."""
    clients = [await Client(port).connect() for _ in range(8)]

    async def ask(client: Client, keys: list[str]) -> dict[str, str]:
        return {key: (await client.ask(request("GET", "/", X_Session=key))).body.decode() for key in keys}

    parts = await asyncio.gather(*(ask(client, KEYS[i::8]) for i, client in enumerate(clients)))
    for client in clients:
        client.close()
    return {key: name for part in parts for key, name in part.items()}


async def test_removing_one_of_ten_endpoints_moves_only_its_keys(start: Start, endpoint: Callable[..., Any]) -> None:
    servers = [await endpoint(f"e{i}") for i in range(10)]

    def config(chosen: list[Any]) -> dict[str, Any]:
        pool = {
            "protocol": "http",
            "policy": {"type": "maglev", "key": {"header": "x-session"}},
            "endpoints": [server.address for server in chosen],
        }
        return {"workers": 2, "listeners": {"web": http_listener(route("/", "all"))}, "pools": {"all": pool}}

    daemon = start(config(servers))
    port = daemon.port()
    before = await endpoints_of(port)
    assert len(Counter(before.values())) == 10
    assert await endpoints_of(port) == before  # by other connections, perhaps other workers

    removed = servers[3]
    rest = [server for server in servers if server is not removed]
    assert (await asyncio.to_thread(daemon.reload, config(rest)))["ok"]
    after = await endpoints_of(port)
    assert {key for key in KEYS if after[key] != before[key]} == {key for key in KEYS if before[key] == removed.name}
    assert len({after[key] for key in KEYS if before[key] == removed.name}) > 1  # spread over the rest

    assert (await asyncio.to_thread(daemon.reload, config(servers[::-1])))["ok"]
    assert await endpoints_of(port) == before  # it gets its keys back, whatever the order in the file
