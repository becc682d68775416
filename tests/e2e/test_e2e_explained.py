"""Requests that come are explained as they are balanced: in the access log, and to clients that may know."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon import Daemon, eventually, http_listener
from traffic import Client, ask_once, request

Start = Callable[..., Daemon]
ASKS = {"x_tidegate_explain": "1"}


def config(addresses: list[str], explain: dict[str, Any] | None, **pool: Any) -> dict[str, Any]:
    listener = http_listener({"name": "all", "pool": "app", "expose_endpoint": True})
    if explain is not None:
        listener["explain"] = explain
    return {
        "workers": 1,
        "listeners": {"web": listener},
        "pools": {"app": {"protocol": "http", "policy": "least_request", "endpoints": addresses, **pool}},
        "log": {"access": "access.log"},
    }


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "access.log").read_text().splitlines()]


async def test_sampled_lines_say_who_answered_and_why(start: Start, endpoint: Callable[..., Any]) -> None:
    endpoints = [await endpoint(name) for name in "abc"]
    daemon = await asyncio.to_thread(start, config([e.address for e in endpoints], {"sample": 1}))
    port = await asyncio.to_thread(daemon.port)
    answers = [await ask_once(port, request("GET", f"/{i}")) for i in range(20)]
    assert not any("x-tidegate-explain" in answer.headers for answer in answers)
    await asyncio.to_thread(eventually, lambda: len(lines(daemon.folder)) == 20, "the log")
    for answer, line in zip(answers, lines(daemon.folder), strict=True):
        explain = line["explain"]
        assert (explain["by"], explain["pool"], explain["policy"]) == ("sample", "app", "least_request")
        (choice,) = explain["choices"]
        assert choice["endpoint"] == explain["endpoint"] == line["endpoint"] == answer.headers["x-tidegate-endpoint"]
        assert (choice["for"], choice["steps"], choice["of"]) == ("first attempt", [], 3)
        for row in choice["candidates"]:
            assert row["score"] == (row["in_flight"] + 1) / row["weight"]  # the policy's formula
        assert choice["candidates"][0]["address"] == choice["endpoint"]


async def test_about_as_many_as_were_asked_for(start: Start, endpoint: Callable[..., Any]) -> None:
    daemon = await asyncio.to_thread(start, config([(await endpoint("a")).address], {"sample": 0.5}))
    client = Client(await asyncio.to_thread(daemon.port))
    for _ in range(400):
        await client.ask(request("GET", "/"))
    await asyncio.to_thread(eventually, lambda: len(lines(daemon.folder)) == 400, "the log")
    assert 130 < sum("explain" in line for line in lines(daemon.folder)) < 270  # seven standard deviations


async def test_what_is_taken_and_what_not(start: Start, endpoint: Callable[..., Any]) -> None:
    busy, idle, drained = endpoints = [await endpoint(name, 60) for name in "abc"]
    site = config([e.address for e in endpoints], {"trusted": ["127.0.0.1"]}, max_in_flight=1, queue={"max": 0})
    daemon = await asyncio.to_thread(start, site)
    port = await asyncio.to_thread(daemon.port)
    await asyncio.to_thread(daemon.command, "drain", "app", drained.address, check=True)
    waiting = [asyncio.create_task(ask_once(port, request("GET", f"/{i}"))) for i in range(2)]
    await asyncio.to_thread(eventually, lambda: busy.active + idle.active == 2, "two requests under way")
    answer = await ask_once(port, request("GET", "/", **ASKS))
    assert answer.status == 503
    explain = json.loads(answer.headers["x-tidegate-explain"])
    (choice,) = explain["choices"]
    assert (explain["endpoint"], choice["endpoint"]) == (None, None)
    assert choice["why"] == "all that take requests have as many as they may, and so has the queue"
    reasons = {row["address"]: row["not"] for row in choice["candidates"]}
    full = "it has its 1 requests in flight"
    assert reasons == {busy.address: full, idle.address: full, drained.address: "draining"}
    assert answer.headers["retry-after"] == "1"
    for task in waiting:
        task.cancel()


async def test_others_of_another_priority_are_not_said_to_take_none(start: Start, endpoint: Callable[..., Any]) -> None:
    first, backup = [(await endpoint(name)).address for name in "ab"]
    site = config([first], {"trusted": ["127.0.0.1"]}, priorities={"spill": "none"})
    site["pools"]["app"]["endpoints"].append({"address": backup, "priority": 1})
    daemon = await asyncio.to_thread(start, site)
    answer = await ask_once(await asyncio.to_thread(daemon.port), request("GET", "/", **ASKS))
    (choice,) = json.loads(answer.headers["x-tidegate-explain"])["choices"]
    assert choice["endpoint"] == first
    assert choice["why"] == "no other endpoint of its priority and zone takes requests now"


async def test_only_trusted_clients_are_told_and_endpoints_never(start: Start) -> None:
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    site = config([address], {"trusted": ["192.0.2.0/24"]})
    site["listeners"]["behind"] = {**site["listeners"]["web"], "trusted_proxies": ["127.0.0.0/8"]}
    site["listeners"]["behind"]["routes"] = [{"name": "behind", "pool": "app"}]
    site["listeners"]["plain"] = http_listener({"name": "plain", "pool": "app"})
    daemon = await asyncio.to_thread(start, site)
    web, behind = await asyncio.to_thread(daemon.port, "web"), await asyncio.to_thread(daemon.port, "behind")
    plain = await asyncio.to_thread(daemon.port, "plain")

    def told(port: int, *fields: str) -> bool:
        """With curl, as an operator would ask."""
        arguments = [part for field in fields for part in ("-H", field)]
        done = subprocess.run(
            ["curl", "-sS", "-D", "-", f"http://127.0.0.1:{port}/", *arguments],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert " 200 " in done.stdout
        return "x-tidegate-explain:" in done.stdout.lower()

    asks = "X-Tidegate-Explain: 1"
    assert not await asyncio.to_thread(told, web, asks)
    assert not await asyncio.to_thread(told, web, asks, "X-Forwarded-For: 192.0.2.1")
    assert not await asyncio.to_thread(told, behind, asks)
    assert not await asyncio.to_thread(told, behind, asks, "X-Forwarded-For: 198.51.100.1")
    assert not await asyncio.to_thread(told, behind, "X-Tidegate-Explain: 0", "X-Forwarded-For: 192.0.2.1")
    assert await asyncio.to_thread(told, behind, asks, "X-Forwarded-For: 192.0.2.1")
    assert not any("x-tidegate-explain" in head for head in heads)
    assert not await asyncio.to_thread(told, plain, asks)
    assert "x-tidegate-explain: 1" in heads[-1]  # where it means nothing it is a header as any other
    server.close()
