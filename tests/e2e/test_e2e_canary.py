"""Canaries over a real daemon under load: those that become worse are taken back by themselves, the good one is
promoted; kills of workers, a restart, reloads and operators."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from daemon import Daemon, http_listener

Start = Callable[..., Daemon]
ROUTES = ("good", "failing", "slow")


class Pools:
    """An endpoint for each pool. After so many answers those of `failing` are errors, one of three, and those of `slow`
    take forty times as long."""

    GOOD = 60

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.addresses: dict[str, str] = {}

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        for name in ("base", *ROUTES):
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._handler(name))
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.addresses[name] = f"127.0.0.1:{runner.addresses[0][1]}"

    def _handler(self, name: str) -> Callable[[web.Request], Any]:
        async def answer(request: web.Request) -> web.Response:
            self.asked[name] += 1
            worse = self.asked[name] > self.GOOD
            await asyncio.sleep(0.08 if worse and name == "slow" else 0.002)
            if worse and name == "failing" and self.asked[name] % 3 == 0:
                return web.Response(status=500, text=name)
            return web.Response(text=name)

        return answer


class Load:
    """Requests to every route, all the time; `answers` counts (route, pool that answered, status)."""

    def __init__(self) -> None:
        self.port = 0
        self.answers: Counter[tuple[str, str, int]] = Counter()
        self.failed = 0  # requests without an answer, while a daemon runs

    async def run(self, route: str) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
            while True:
                try:
                    async with client.get(f"http://127.0.0.1:{self.port}/{route}") as answer:
                        self.answers[route, await answer.text(), answer.status] += 1
                except (aiohttp.ClientError, OSError):
                    self.failed += 1
                await asyncio.sleep(0.008)


@pytest.fixture
async def pools() -> AsyncIterator[Pools]:
    async with contextlib.AsyncExitStack() as stack:
        made = Pools()
        await made.start(stack)
        yield made


def config(pools: Pools, mirror: bool = False, **canary: Any) -> dict[str, Any]:
    section = {"steps": [20, 50, 80], "interval": "1s", "min_requests": 30, **canary}
    routes = [
        {"name": name, "match": {"path": {"prefix": f"/{name}"}}, "pool": "base", "canary": {"pool": name, **section}}
        for name in ROUTES
    ]
    for route in routes if mirror else ():
        route["mirror"] = {"pool": route["name"]}
    return {
        "listeners": {"web": http_listener(*routes)},
        "pools": {name: {"protocol": "http", "endpoints": [address]} for name, address in pools.addresses.items()},
    }


async def rows(daemon: Daemon) -> dict[str, Any]:
    status, body = await asyncio.to_thread(daemon.admin, "/api/v1/canaries")
    assert status == 200
    return {row["route"]: row for row in json.loads(body)["canaries"]}


async def until(daemon: Daemon, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(300):
        found = await rows(daemon)
        if holds(found):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{what}: {found}")


async def test_worse_canaries_are_taken_back_under_load_and_a_good_one_is_promoted(
    start: Start, pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    daemon = await asyncio.to_thread(start, config(pools))
    load = Load()
    load.port = await asyncio.to_thread(daemon.port)
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(load.run(route)) for route in ROUTES for _ in range(2)]
        await until(daemon, lambda now: all(row["percent"] == 20 for row in now.values()), "the first step")
        await asyncio.to_thread(daemon.kill_worker)
        now = await until(
            daemon, lambda now: {now[r]["phase"] for r in ("failing", "slow")} == {"aborted"}, "the worse ones go back"
        )
        assert "of its answers failed" in now["failing"]["reason"], now["failing"]
        assert "times the baseline's p95" in now["slow"]["reason"], now["slow"]
        await until(daemon, lambda now: now["good"]["phase"] == "promoted", "the good one stays")
        await asyncio.sleep(0.3)
        before, base = dict(pools.asked), load.answers["good", "base", 200]
        await asyncio.sleep(0.5)
        assert all(pools.asked[name] == before[name] for name in ("failing", "slow"))
        assert load.answers["good", "base", 200] == base
        for client in clients:
            client.cancel()
    assert load.failed <= 2 * len(clients)  # those that the killed worker had
    assert not load.answers["good", "good", 500]

    # Told by status, metrics and the command.
    assert daemon.metrics("tidegate_canary_percent")[frozenset({("route", "good"), ("pool", "good")})] == 100
    aborted = frozenset({("route", "slow"), ("pool", "slow"), ("phase", "aborted")})
    assert daemon.metrics("tidegate_canary_phase")[aborted] == 1
    problems = json.loads(daemon.admin("/api/v1/overview?fresh=yes")[1])["problems"]
    assert {p["subject"]["route"] for p in problems if p["name"] == "canary_aborted"} == {"failing", "slow"}
    shown = await asyncio.to_thread(daemon.command, "canary", "show", "failing", check=True)
    assert "a new canary" in shown.stdout
    assert "failing" in (await asyncio.to_thread(daemon.command, "status", check=True)).stdout

    # All of it outlives the daemon, also one that is killed; a reload changes nothing either.
    await asyncio.to_thread(daemon.kill)
    daemon = await asyncio.to_thread(start, config(pools, mirror=True))
    now = await rows(daemon)
    assert [now[name]["phase"] for name in ROUTES] == ["promoted", "aborted", "aborted"]
    assert len(now["good"]["history"]) == 5
    async with aiohttp.ClientSession() as client:
        before = dict(pools.asked)
        base_url = f"http://127.0.0.1:{daemon.port()}"
        for _ in range(10):
            answers = [await (await client.get(f"{base_url}/{name}")).text() for name in ROUTES]
            assert answers == ["good", "base", "base"]
    for _ in range(100):  # copies of what the baseline answers, and none of what the canary answers itself
        if all(pools.asked[name] >= before[name] + 10 for name in ROUTES):
            break
        await asyncio.sleep(0.05)
    assert {name: pools.asked[name] - before[name] for name in ROUTES} == dict.fromkeys(ROUTES, 10)
    assert daemon.reload(config(pools, steps=[1, 2, 50]))["ok"]
    assert [row["phase"] for row in (await rows(daemon)).values()] == ["promoted", "aborted", "aborted"]

    # Operators: a dry run changes nothing, a retry begins anew.
    assert (await asyncio.to_thread(daemon.command, "canary", "promote", "nothing")).returncode == 1
    for how in ((), ("--json",)):
        wrong = await asyncio.to_thread(daemon.command, "canary", "show", "god", *how)
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "there is no route 'god' with a canary; did you mean good?" in wrong.stderr
    await asyncio.to_thread(daemon.command, "canary", "promote", "slow", "--dry-run", check=True)
    assert (await rows(daemon))["slow"]["phase"] == "aborted"
    await asyncio.to_thread(daemon.command, "canary", "promote", "slow", check=True)
    await asyncio.to_thread(daemon.command, "canary", "retry", "failing", check=True)
    now = await until(daemon, lambda now: now["failing"]["percent"] == 1, "the first step again")
    assert (now["slow"]["phase"], now["slow"]["percent"]) == ("promoted", 100)
    assert now["slow"]["reason"].startswith("promote by ")
    # A daemon that is killed in the middle goes on there.
    await asyncio.to_thread(daemon.kill)
    daemon = await asyncio.to_thread(start, config(pools, steps=[1, 2, 50]))
    now = await until(daemon, lambda now: now["failing"]["percent"] == 1, "the step of before")
    assert [(entry["phase"], entry["percent"]) for entry in now["failing"]["history"][:2]] == [
        ("progressing", 1),
        ("progressing", 1),
    ]
    assert now["slow"]["phase"] == "promoted"

    # Another pool: a new canary, which gets nothing while none of its endpoints takes requests.
    changed = config(pools)
    health = {"type": "tcp", "interval": "100ms", "timeout": "100ms", "fall": 1}
    changed["pools"]["absent"] = {"protocol": "http", "endpoints": ["127.0.0.1:1"], "health": health}
    changed["listeners"]["web"]["routes"][0]["canary"]["pool"] = "absent"
    outcome = daemon.reload(changed)
    assert outcome["ok"], outcome
    row = (await rows(daemon))["good"]
    assert (row["pool"], row["phase"], row["percent"]) == ("absent", "waiting", 0)
