"""An operator drains, enables, re-weights endpoints, and takes them away, while clients go on."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from typing import Any

from daemon import Daemon, eventually, http_listener, route
from endpoints import Endpoint
from traffic import ask_once, load, request

Start = Callable[..., Daemon]
GET = request("GET", "/x")


def config(addresses: list[str], **pool: Any) -> dict[str, Any]:
    settings = {"protocol": "http", "endpoints": addresses, **pool}
    return {"listeners": {"web": http_listener(route("/", "http"))}, "pools": {"http": settings}}


def tidegate(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, as an operator types it."""
    return daemon.command(*arguments)


async def operate(daemon: Daemon, *arguments: str) -> str:
    done = await asyncio.to_thread(tidegate, daemon, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_drained_endpoint_finishes_and_gets_nothing_more(start: Start, endpoint: Callable[..., Any]) -> None:
    first: Endpoint = await endpoint("a", 0.02)
    second: Endpoint = await endpoint("b", 0.02)
    daemon = start(config([first.address, second.address]))
    port = daemon.port()
    async with load(port, [GET], clients=16) as running:
        await running.until(100)
        said = await operate(daemon, "drain", "http", first.address, "--wait", "20")
        assert said == f"http {first.address}: drain, weight 1, 0 in flight\n"
        assert first.active == 0
        served = first.served
        await running.until(100)
        assert (await asyncio.to_thread(daemon.reload))["ok"]
        await running.until(100)
        assert first.served == served, "it got requests, drained"
        await operate(daemon, "enable", "http", first.address)
        await asyncio.to_thread(eventually, lambda: first.served > served, "it gets none, enabled")
        assert not running.failures


async def test_drain_says_when_something_is_left(start: Start, endpoint: Callable[..., Any]) -> None:
    slow: Endpoint = await endpoint("a", 3)
    daemon = start(config([slow.address]))
    task = asyncio.create_task(ask_once(daemon.port(), GET))
    await asyncio.to_thread(eventually, lambda: slow.active == 1, "the request")
    done = await asyncio.to_thread(tidegate, daemon, "drain", "http", slow.address, "--wait", "0.3")
    assert done.returncode == 1
    assert "1 requests are still there after 0.3 s" in done.stderr
    assert (await ask_once(daemon.port(), GET)).status == 503
    assert (await task).status == 200


async def test_drain_waits_for_an_endpoint_that_is_removed_meanwhile(
    start: Start, endpoint: Callable[..., Any]
) -> None:
    slow: Endpoint = await endpoint("a", 4)
    other: Endpoint = await endpoint("b")
    daemon = start(config([slow.address]))
    task = asyncio.create_task(ask_once(daemon.port(), GET))
    await asyncio.to_thread(eventually, lambda: slow.active == 1, "the request")
    waiting = asyncio.create_task(
        asyncio.to_thread(tidegate, daemon, "drain", "http", slow.address, "--wait", "50"),
    )

    def row() -> dict[str, Any] | None:
        code, body = daemon.admin(f"/api/v1/endpoint?pool=http&address={slow.address}")
        assert code in (200, 404)
        found: dict[str, Any] | None = json.loads(body).get("endpoint")
        return found

    await asyncio.to_thread(eventually, lambda: (row() or {})["admin"] == "drain", "the drain")
    assert (await asyncio.to_thread(daemon.reload, config([other.address])))["ok"]
    assert [e["address"] for e in daemon.pool("http")["endpoints"]] == [other.address]
    done = await waiting
    assert (slow.active, slow.served) == (0, 1), "it said that all was done"
    assert (done.returncode, done.stdout) == (0, f"http {slow.address}: drain, weight 1, 0 in flight\n")
    assert (await task).status == 200
    await asyncio.to_thread(eventually, lambda: row() is None, "the end of what is known of it")


async def test_what_was_removed_is_shown_until_it_is_done(start: Start, endpoint: Callable[..., Any]) -> None:
    """Of a pool that stays, and of one that is removed as well; nobody can have it back but the configuration."""
    removed, other, old = await endpoint("a"), await endpoint("b"), await endpoint("c")
    for one in (removed, old):
        one.gate.clear()
    first = config([removed.address])
    first["pools"]["old"] = {"protocol": "http", "endpoints": [old.address]}
    first["listeners"]["other"] = http_listener(route("/", "old"))
    daemon, rest = start(first), config([other.address])
    tasks = [asyncio.create_task(ask_once(daemon.port(name), GET)) for name in ("web", "web", "other")]
    await asyncio.to_thread(eventually, lambda: (removed.active, old.active) == (2, 1), "the requests")
    assert (daemon.pool("http")["leaving"], daemon.status()["removed_pools"]) == ([], [])
    assert (await asyncio.to_thread(daemon.reload, rest))["ok"]

    (row,) = daemon.pool("http")["leaving"]
    assert (row["address"], row["in_flight"], row["sequences"], row["admin"]) == (removed.address, 2, 0, "drain")
    assert row["leaving_for_s"] >= 0
    (gone,) = daemon.status()["removed_pools"]
    assert (gone["name"], [(e["address"], e["in_flight"]) for e in gone["leaving"]]) == ("old", [(old.address, 1)])
    shown = await operate(daemon, "status")
    leaving = shown[shown.index("leaving ") :].splitlines()
    assert [line.split()[:5] for line in leaving[1:3]] == [
        ["http", removed.address, "up", "2", "0"],
        ["old", old.address, "up", "1", "0"],
    ]
    for command, pool, address, left in (
        (("drain", "--wait", "1"), "http", removed.address, "2 requests in flight"),
        (("enable",), "http", removed.address, "2 requests in flight"),
        (("maintenance",), "old", old.address, "1 request in flight"),
        (("weight",), "http", removed.address, "2 requests in flight"),
    ):
        value = ["3"] if command == ("weight",) else []
        done = await asyncio.to_thread(tidegate, daemon, command[0], pool, address, *value, *command[1:])
        assert done.returncode == 1
        assert f"endpoint '{address}' of pool '{pool}' is leaving" in done.stderr
        assert f"still has {left}" in done.stderr
    wish = json.dumps({"pool": "http", "address": removed.address, "admin": "enabled"})
    assert daemon.admin("/api/v1/endpoint", "POST", wish)[0] == 409
    assert daemon.admin(f"/api/v1/transitions?pool=http&endpoint={removed.address}")[0] == 200

    for one in (removed, old):
        one.gate.set()
    assert [(await task).status for task in tasks] == [200] * 3
    # What is done is not shown, although its record is not free yet.
    await asyncio.to_thread(
        eventually,
        lambda: not daemon.pool("http")["leaving"] and not daemon.status()["removed_pools"],
        "the end of what was removed",
    )


async def test_weights(start: Start, endpoint: Callable[..., Any]) -> None:
    first: Endpoint = await endpoint("a")
    second: Endpoint = await endpoint("b")
    daemon = start(config([first.address, second.address], policy="round_robin"))
    port = daemon.port()

    async def shares() -> tuple[int, int]:
        before = first.served, second.served
        for _ in range(40):
            assert (await ask_once(port, GET)).status == 200
        return first.served - before[0], second.served - before[1]

    await operate(daemon, "weight", "http", first.address, "3")
    one, other = await shares()
    assert abs(one - 30) <= 3, (one, other)
    await operate(daemon, "weight", "http", first.address, "0")
    assert await shares() == (0, 40)
    assert (await asyncio.to_thread(daemon.reload))["ok"]
    assert await shares() == (0, 40), "a reload that changes nothing took it back"
    assert "weight 1," in await operate(daemon, "weight", "http", first.address, "default")
    one, other = await shares()
    assert abs(one - 20) <= 3, (one, other)


async def test_nobody_asks_an_endpoint_in_maintenance(start: Start, endpoint: Callable[..., Any]) -> None:
    first: Endpoint = await endpoint("a")
    second: Endpoint = await endpoint("b")
    health = {"type": "tcp", "interval": "50ms", "timeout": "1s", "fall": 1, "rise": 1}
    daemon = start(config([first.address, second.address], health=health))
    port = daemon.port()

    def row(address: str) -> dict[str, Any]:
        found: dict[str, Any] = next(e for e in daemon.pool("http")["endpoints"] if e["address"] == address)
        return found

    await operate(daemon, "maintenance", "http", first.address)
    first.server.close()
    await first.server.wait_closed()
    await asyncio.sleep(0.3)
    assert row(first.address)["check"] is None
    assert row(first.address)["health"] == "unchecked"
    assert {(await ask_once(port, GET)).body for _ in range(10)} == {b"b"}
    assert (await asyncio.to_thread(daemon.reload))["ok"]
    assert row(first.address)["admin"] == "maintenance"
    assert row(first.address)["check"] is None
    # It is not back yet: checks find that out, as with a new endpoint.
    await operate(daemon, "enable", "http", first.address)
    await asyncio.to_thread(eventually, lambda: row(first.address)["health"] == "down", "it counts as up")
    assert (await ask_once(port, GET)).status == 200


async def test_mistakes(start: Start, endpoint: Callable[..., Any]) -> None:
    only: Endpoint = await endpoint("a")
    daemon = start(config([only.address]))
    for arguments, complaint in (
        (("drain", "htp", only.address), "there is no pool 'htp'; did you mean http?"),
        (("enable", "http", "127.0.0.1:1"), f"pool 'http' has no endpoint '127.0.0.1:1'; it has {only.address}"),
        (("weight", "http", only.address, "1001"), "a whole number from 0 to 1000"),
        (("weight", "http", only.address, "-1"), ""),
        (("maintenance", "htp", only.address), "there is no pool 'htp'; did you mean http?"),
        (("transitions", "htp"), "there is no pool 'htp'; did you mean http?"),
        (("transitions", "http", "127.0.0.1:1"), f"pool 'http' has no endpoint '127.0.0.1:1'; it has {only.address}"),
        (("explain", "wb"), "there is no listener and no pool 'wb'; did you mean web?"),
        (("explain", "web", "--pool", "htp"), "there is no pool 'htp'"),
        (("explain", "web", "--worker", "7"), "worker 7 is not running"),
    ):
        done = await asyncio.to_thread(tidegate, daemon, *arguments)
        assert done.returncode != 0
        assert complaint in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr
    assert json.loads(daemon.admin("/api/v1/endpoint", "POST")[1])["error"]
    assert daemon.admin("/api/v1/endpoint", "POST")[0] == 400
    for weight in (1001, True, "all"):
        code, said = daemon.admin(
            "/api/v1/endpoint", "POST", json.dumps({"pool": "http", "address": only.address, "weight": weight})
        )
        assert (code, json.loads(said)["error"]) == (400, 'weight: is a whole number from 0 to 1000, or "default"')
    for query in ("endpoint=127.0.0.1:1", "pool=htp&endpoint=127.0.0.1:1"):
        assert daemon.admin(f"/api/v1/transitions?{query}")[0] == 404
    for query in ("", "pool=http", f"endpoint={only.address}", f"pool=http&endpoint={only.address}"):
        assert daemon.admin(f"/api/v1/transitions?{query}")[0] == 200
    assert (await ask_once(daemon.port(), GET)).status == 200


async def test_what_was_removed_keeps_its_transitions(start: Start, endpoint: Callable[..., Any]) -> None:
    first, second = await endpoint("a"), await endpoint("b")
    daemon = start(config([first.address, second.address]))
    await operate(daemon, "drain", "http", second.address)
    daemon.write(config([first.address]))
    assert (await asyncio.to_thread(daemon.reload))["ok"]
    done = await asyncio.to_thread(tidegate, daemon, "transitions", "http", second.address)
    assert (done.returncode, "drain" in done.stdout) == (0, True)
