"""Rate limits, ids, trusted proxies, process limits and body pace of a running daemon with two workers."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from daemon import Daemon, eventually, http_listener
from traffic import ask_once, request

Start = Callable[..., Daemon]


def config(address: str, route: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    listener = settings.pop("listener", {})
    return {
        "workers": 2,
        "listeners": {"web": http_listener({"name": "app", "pool": "app", **(route or {})}, **listener)},
        "pools": {"app": {"protocol": "http", "endpoints": [address]}},
        **settings,
    }


async def test_a_rate_limit_is_exact_over_workers_and_survives_a_reload(
    start: Start, endpoint: Callable[..., Any]
) -> None:
    one = await endpoint("a")
    made = config(one.address, {"rate_limit": {"rate": "1/d", "burst": 40, "key": {"header": "X-Tenant"}}})
    daemon = start(made)
    port = daemon.port()

    async def ask(tenant: str) -> int:
        return (await ask_once(port, request("GET", "/", X_Tenant=tenant))).status

    statuses = await asyncio.gather(*(ask(f"t{i % 3}") for i in range(180)))
    assert Counter(statuses) == {200: 120, 429: 60}
    outcome = await asyncio.to_thread(daemon.reload, made)
    assert outcome["ok"]
    assert set(await asyncio.gather(*(ask("t1") for _ in range(10)))) == {429}
    answer = await ask_once(port, request("GET", "/", X_Tenant="new"))
    assert answer.headers["ratelimit-policy"] == f'"app";q=40;w={40 * 86400}'
    assert answer.headers["ratelimit"] == '"app";r=39;t=86400'
    limited = daemon.metrics("tidegate_route_rejected_total")
    assert limited[frozenset({("route", "app")})] == 70


async def test_ids_and_the_client_behind_a_trusted_proxy_are_in_the_log(start: Start) -> None:
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    listener = {"trusted_proxies": ["127.0.0.0/8"], "request_id": True, "forwarded_header": True, "via": "gate"}
    daemon = start(config(address, listener=listener, log={"access": "access.log"}))
    fields = {"X_Forwarded_For": "203.0.113.5", "X_Request_Id": "from-the-proxy", "X_Forwarded_Proto": "https"}
    await ask_once(daemon.port(), request("GET", "/", **fields))
    await ask_once(daemon.port(), request("GET", "/"))
    path = daemon.folder / "access.log"
    await asyncio.to_thread(eventually, lambda: path.read_text().count("\n") == 2, "two lines")
    lines = {line["client"]: line for line in map(json.loads, path.read_text().splitlines())}
    first, second = lines["203.0.113.5"], lines["127.0.0.1"]
    assert first["request_id"] == "from-the-proxy"
    assert re.fullmatch("[0-9a-f]{32}", second["request_id"])
    assert "X-Forwarded-For: 203.0.113.5, 127.0.0.1\r\n" in heads[0]
    assert "X-Forwarded-Proto: https\r\n" in heads[0]
    assert 'Forwarded: for=127.0.0.1;host="test";proto=http\r\n' in heads[0]
    assert "Via: 1.1 gate\r\n" in heads[0]
    assert f"X-Request-Id: {second['request_id']}\r\n" in heads[1]
    assert first["protocol"] == "HTTP/1.1"
    server.close()


async def test_too_much_in_flight_is_refused_early(start: Start, endpoint: Callable[..., Any]) -> None:
    slow = await endpoint("a", 1.0)
    daemon = start(config(slow.address, limits={"max_in_flight": 5}, workers=1))
    port = daemon.port()
    answers = await asyncio.gather(*(ask_once(port, request("GET", "/")) for _ in range(30)))
    by_status = Counter(answer.status for answer in answers)
    assert by_status == {200: 5, 503: 25}
    refused = next(answer for answer in answers if answer.status == 503)
    assert refused.headers["retry-after"] == "1"
    assert (await ask_once(port, request("GET", "/"))).status == 200


async def test_too_much_memory_is_refused_and_taken_again(start: Start, endpoint: Callable[..., Any]) -> None:
    one = await endpoint("a")
    daemon = start(config(one.address, limits={"max_memory": "1MiB"}))
    port = daemon.port()
    assert (await ask_once(port, request("GET", "/"))).status == 503
    assert "new requests are refused" in daemon.log
    outcome = await asyncio.to_thread(daemon.reload, config(one.address, limits={"max_memory": "16GiB"}))
    assert outcome["ok"]
    assert (await ask_once(port, request("GET", "/"))).status == 200


async def test_a_trickled_body_is_ended(start: Start, endpoint: Callable[..., Any]) -> None:
    one = await endpoint("a")
    daemon = start(config(one.address, listener={"body_timeout": "1s", "min_body_rate": "1KiB"}))
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port())
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")

    async def trickle() -> None:
        while True:  # never silent for long
            writer.write(b"x")
            await asyncio.sleep(0.1)

    task = asyncio.ensure_future(trickle())
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert answer.startswith(b"HTTP/1.1 408 ")
    task.cancel()
    writer.close()


async def test_a_slow_body_above_the_rate_goes_through(start: Start, endpoint: Callable[..., Any]) -> None:
    one = await endpoint("a")
    daemon = start(config(one.address, listener={"body_timeout": "1s", "min_body_rate": "100B"}))
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port())
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(20):
        writer.write(b"x" * 50)
        await asyncio.sleep(0.1)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert answer.startswith(b"HTTP/1.1 200 ")
    writer.close()
