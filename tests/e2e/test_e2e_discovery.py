"""A daemon follows a name and a file, under load, and keeps what it knew when they fail."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import dns.rcode
import pytest
from daemon import Daemon, eventually, http_listener, route
from endpoints import Endpoint
from name_server import NameServer, name_server
from traffic import ask_once, load, request

Start = Callable[..., Daemon]
GET = request("GET", "/x")
NAME = "models.test."


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as running:
        yield running


def config(discover: dict[str, Any], **pool: Any) -> dict[str, Any]:
    settings = {"protocol": "http", "discover": discover, **pool}
    return {"listeners": {"web": http_listener(route("/", "http"))}, "pools": {"http": settings}}


def by_service(server: NameServer, **settings: Any) -> dict[str, Any]:
    """Endpoints of a test have one host and many ports: SRV records say both."""
    return {"dns": {"name": "_x._tcp.test", "type": "SRV", "resolvers": [server.address], **settings}}


def offer(server: NameServer, *endpoints: Endpoint, ttl: int = 1) -> None:
    server.set("host.test.", "A", "127.0.0.1", ttl=ttl)
    records = [f"0 1 {endpoint.address.rpartition(':')[2]} host.test." for endpoint in endpoints]
    server.set("_x._tcp.test.", "SRV", *records, ttl=ttl)


async def started(start: Start, *arguments: Any) -> Daemon:
    """The name server answers meanwhile."""
    return await asyncio.to_thread(start, *arguments)


async def later(probe: Callable[[], Any], what: str) -> Any:
    return await asyncio.to_thread(eventually, probe, what)


def shown(daemon: Daemon) -> list[str]:
    return [row["address"] for row in daemon.pool("http")["endpoints"]]


def discovery(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.pool("http")["discovery"]
    return found


async def test_a_name_is_followed_under_load_and_no_request_fails(
    start: Start, endpoint: Callable[..., Any], server: NameServer
) -> None:
    first, second, third = [await endpoint(name, 0.005) for name in "abc"]
    offer(server, first, second)
    daemon = await started(start, config(by_service(server)))
    assert sorted(shown(daemon)) == sorted([first.address, second.address])
    before = (await asyncio.to_thread(daemon.status))["generation"]
    async with load(await asyncio.to_thread(daemon.port), [GET], clients=16) as running:
        await running.until(200)
        offer(server, second, third)
        await later(lambda: third.served > 20, "requests to the new endpoint")
        await later(lambda: first.address not in shown(daemon), "the old endpoint's end")
        served = first.served
        await running.until(300)
        assert (first.served, first.active) == (served, 0), "it is gone, and got something"
        assert second.served > 20
        assert not running.failures
    assert sorted(shown(daemon)) == sorted([second.address, third.address])
    assert (await asyncio.to_thread(daemon.status))["generation"] > before
    row = discovery(daemon)
    assert (row["state"], row["changes"], row["endpoints"], row["error"]) == ("current", 1, 2, None)
    assert "gone: " + first.address in daemon.log


async def test_ttl_is_honoured(start: Start, endpoint: Callable[..., Any], server: NameServer) -> None:
    only = await endpoint("a")
    offer(server, only, ttl=3600)
    daemon = await started(start, config(by_service(server, max_ttl="1h")))
    assert 3500 < discovery(daemon)["next_look_s"] < 4000
    asked = server.asked("_x._tcp.test.", "SRV")
    assert (await asyncio.to_thread(daemon.reload))["ok"], "a reload that leaves the section as it is asks nothing"
    assert server.asked("_x._tcp.test.", "SRV") == asked == 1


async def test_failing_name_servers_change_nothing_and_are_shown(
    start: Start, endpoint: Callable[..., Any], server: NameServer
) -> None:
    only = await endpoint("a", 0.002)
    offer(server, only)
    daemon = await started(start, config(by_service(server, timeout="50ms", negative_ttl="100ms", min_ttl="100ms")))
    labels = frozenset({("pool", "http"), ("source", "dns")})
    assert (await asyncio.to_thread(daemon.metrics, "tidegate_discovery_current"))[labels] == 1
    async with load(await asyncio.to_thread(daemon.port), [GET], clients=4) as running:
        for fault, text in ((dns.rcode.SERVFAIL, "SERVFAIL"), ("silence", "no answer in time"), (None, "NXDOMAIN")):
            server.fault = fault
            if fault is None:
                server.records.clear()
            await later(lambda text=text: text in (discovery(daemon)["error"] or ""), f"an error about {text}")
            await running.until(50)
        row = await asyncio.to_thread(discovery, daemon)
        assert (row["state"], row["endpoints"]) == ("stale", 1)
        assert shown(daemon) == [only.address]
        assert not running.failures
    metrics = {
        name: await asyncio.to_thread(daemon.metrics, f"tidegate_discovery_{name}")
        for name in ("current", "endpoints", "age_seconds", "looks_total")
    }
    assert (metrics["current"][labels], metrics["endpoints"][labels]) == (0, 1)
    assert metrics["age_seconds"][labels] > 0
    assert metrics["looks_total"][labels | {("result", "failed")}] >= 3
    offer(server, only)
    await later(lambda: discovery(daemon)["state"] == "current", "an answer")
    assert "dns SRV _x._tcp.test answers again" in daemon.log


async def test_a_file_is_followed_under_load_and_no_request_fails(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    first, second, third = [await endpoint(name, 0.005) for name in "abc"]
    path = tmp_path / "endpoints.json"

    def replace(*endpoints: Endpoint) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(json.dumps([e.address for e in endpoints]))
        fresh.rename(path)

    replace(first, second)
    daemon = await started(start, config({"file": {"path": str(path), "interval": "50ms"}}))
    async with load(await asyncio.to_thread(daemon.port), [GET], clients=16) as running:
        await running.until(200)
        replace(second, third)
        await later(lambda: third.served > 20, "requests to the new endpoint")
        await later(lambda: first.address not in shown(daemon), "the old endpoint's end")
        path.write_text(f"- {second.address}\n- 127.0.0.1\n")
        message = f"{path}:2: endpoints[1]: '127.0.0.1' has no port; write HOST:PORT, [IPV6]:PORT or unix:/PATH"
        await later(lambda: discovery(daemon)["error"] == message, "the error")
        path.unlink()
        await later(lambda: "No such file" in discovery(daemon)["error"], "the other error")
        await running.until(200)
        assert shown(daemon) == [second.address, third.address]
        replace(third)
        await later(lambda: shown(daemon) == [third.address], "the file's return")
        await running.until(200)
        assert not running.failures
    assert message in daemon.log


async def test_what_stays_keeps_its_state_and_what_is_new_begins_anew(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    first, second = [await endpoint(name) for name in "ab"]
    path = tmp_path / "endpoints.yaml"
    path.write_text(f"- {first.address}\n")
    health = {"type": "http", "path": "/", "initial": "down", "rise": 1, "interval": "30s", "jitter": 0}
    daemon = await started(start, config({"file": {"path": str(path), "interval": "50ms"}}, health=health))
    await later(lambda: daemon.pool("http")["endpoints"][0]["health"] == "up", "the first check")
    code, _ = await asyncio.to_thread(daemon.admin, "/api/v1/status")
    assert code == 200
    checks = daemon.pool("http")["endpoints"][0]["check"]["checks"]
    path.write_text(f"- {{address: '{first.address}', weight: 5}}\n- {second.address}\n")
    await later(lambda: len(shown(daemon)) == 2, "the new endpoint")
    one, other = (await asyncio.to_thread(daemon.pool, "http"))["endpoints"]
    assert (one["weight"], one["health"], one["check"]["checks"]) == (5, "up", checks)
    assert other["address"] == second.address
    await later(lambda: daemon.pool("http")["endpoints"][1]["health"] == "up", "its first check")


async def test_a_start_without_an_answer(start: Start, endpoint: Callable[..., Any], server: NameServer) -> None:
    server.fault = "silence"
    settings = by_service(server, timeout="100ms")
    begun = time.monotonic()
    daemon = await started(start, config({**settings, "initial_timeout": "700ms"}))
    assert time.monotonic() - begun >= 0.7
    assert shown(daemon) == []
    assert discovery(daemon)["state"] == "waiting"
    port = await asyncio.to_thread(daemon.port)
    assert (await ask_once(port, GET)).status == 503
    assert "no endpoints within 0.7 s" in daemon.log

    empty = await started(start, config({**settings, "initial": "empty", "initial_timeout": "5m"}))
    assert shown(empty) == []

    required = {**settings, "initial": "required", "initial_timeout": "300ms"}
    refused = await asyncio.to_thread(start, config(required), False)
    assert await asyncio.to_thread(refused.process.wait, 60) != 0
    assert "pool http: no endpoints within 0.3 s" in refused.log
    outcome = await asyncio.to_thread(empty.reload, config(required))
    assert (outcome["ok"], "no endpoints within 0.3 s" in outcome["error"]) == (False, True)
    assert discovery(empty)["state"] == "waiting", "the source of before goes on"

    only = await endpoint("a")
    server.fault = None
    offer(server, only)
    await later(lambda: shown(daemon) == [only.address], "the first answer")
    assert (await ask_once(port, GET)).status == 200


async def test_reloads_between_a_list_and_a_source_leave_no_gap(
    start: Start, endpoint: Callable[..., Any], server: NameServer
) -> None:
    first, second = [await endpoint(name, 0.005) for name in "ab"]
    static = config({})
    static["pools"]["http"] = {"protocol": "http", "endpoints": [first.address]}
    daemon = await started(start, static)
    async with load(await asyncio.to_thread(daemon.port), [GET], clients=8) as running:
        await running.until(50)
        server.fault = "silence"
        assert (await asyncio.to_thread(daemon.reload, config(by_service(server, timeout="100ms"))))["ok"]
        assert shown(daemon) == [first.address], "the list is kept until there is an answer"
        await running.until(50)
        server.fault = None
        offer(server, second)
        await later(lambda: shown(daemon) == [second.address], "the name's endpoints")
        await running.until(50)
        changed = config(by_service(server, timeout="150ms"))
        assert (await asyncio.to_thread(daemon.reload, changed))["ok"]
        assert shown(daemon) == [second.address]
        assert (await asyncio.to_thread(daemon.reload, static))["ok"]
        assert shown(daemon) == [first.address]
        assert (await asyncio.to_thread(daemon.pool, "http"))["discovery"] is None
        asked = len(server.questions)
        await running.until(100)
        await asyncio.sleep(1.5)
        assert len(server.questions) <= asked, "a source that is no longer there asks on"
        assert not running.failures
