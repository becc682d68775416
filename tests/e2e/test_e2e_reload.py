"""SIGHUP under load: endpoints come, go and change, and nobody notices."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import psutil
from daemon import Daemon, eventually, http_listener, open_files, route
from traffic import ask_once, load, request

Start = Callable[..., Daemon]
GET = request("GET", "/http/x")
TENSOR = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
INFER = request("POST", "/v2/models/m/infer", {"inputs": [TENSOR]})
RELOADS = 100


def config(http: list[Any], oip: list[Any], policy: str = "least_request") -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": {"web": http_listener(route("/http/", "http"), route("/v2/", "oip"))},
        "pools": {
            "http": {"protocol": "http", "policy": policy, "endpoints": http, "idle_timeout": "500ms"},
            "oip": {"protocol": "oip", "policy": policy, "endpoints": oip},
        },
    }


async def test_a_hundred_reloads_under_load(
    start: Start, endpoint: Callable[..., Any], stub: Callable[[], str]
) -> None:
    dice = random.Random(4)
    web = [await endpoint(name) for name in "abcde"]
    models = [stub() for _ in range(3)]
    names = {one.address: one.name.encode() for one in web}
    everything = config(list(names), models)
    daemon = start(everything)
    port = daemon.port()
    processes = [daemon.process.pid, *daemon.worker_pids()]

    def weighted(addresses: list[str]) -> list[dict[str, Any]]:
        chosen = dice.sample(addresses, dice.randint(1, len(addresses)))
        return [{"address": address, "weight": dice.randint(1, 5)} for address in chosen]

    model_ports = {int(address.rpartition(":")[2]) for address in models}

    def descriptors(pid: int) -> int:
        """Without the connections to model servers: one for each is kept, once it was needed."""
        connections = psutil.Process(pid).net_connections("tcp4")
        kept = [c.raddr.port for c in connections if c.raddr and c.raddr.port in model_ports]
        return open_files(pid) - len(set(kept))

    async def settled() -> dict[int, int]:
        """Descriptors of each process, once it is the same for a while: idle connections close after a time."""
        last: dict[int, int] = {}
        since = 0
        for _ in range(600):
            now = {pid: descriptors(pid) for pid in processes}
            since = since + 1 if now == last else 0
            if since >= 20:
                return now
            last = now
            await asyncio.sleep(0.1)
        raise AssertionError("the number of descriptors never settles")

    async with load(port, [GET, INFER], clients=16) as running:
        await running.until(200)
    assert running.reasons == []
    before = await settled()

    async with load(port, [GET, INFER], clients=16, bodies=True) as running:
        await running.until(100)
        for i in range(RELOADS):
            policy = dice.choice(["least_request", "round_robin", "power_of_two"])
            outcome = await asyncio.to_thread(daemon.reload, config(weighted(list(names)), weighted(models), policy))
            assert outcome["ok"], (i, outcome)
            await running.until(10)
        last = config([web[0].address], [models[0]])
        assert (await asyncio.to_thread(daemon.reload, last))["ok"]
        seen = dict(running.seen)
        await running.until(200)
        late = {body: n - seen.get(body, 0) for body, n in running.seen.items() if body in names.values()}
        # Only what was under way during the last reload may still come from the others.
        assert sum(n for body, n in late.items() if body != b"a") <= 16
        assert late[b"a"] > 50
    # Every client used one connection from the beginning to the end.
    assert running.reasons == []
    assert all(client.answers > RELOADS / 2 for client in running.clients)
    assert set(names.values()) <= running.seen.keys()

    assert (await asyncio.to_thread(daemon.reload, everything))["ok"]
    async with load(port, [GET, INFER], clients=16) as again:
        await again.until(200)
    assert again.reasons == []
    after = await settled()
    assert after.keys() == before.keys()
    assert all(after[pid] <= before[pid] for pid in after), (before, after)
    assert [daemon.process.pid, *daemon.worker_pids()] == processes
    assert daemon.status()["reloads"] == {"ok": RELOADS + 2, "failed": 0}
    eventually(lambda: daemon.in_flight() == 0, "in-flight counts")


async def test_an_invalid_file_changes_nothing_and_says_why(start: Start, endpoint: Callable[..., Any]) -> None:
    one = await endpoint("a")
    good = config([one.address], ["127.0.0.1:9"])
    daemon = start(good)
    port, generation = daemon.port(), daemon.status()["generation"]
    processes = daemon.worker_pids()
    bad = config([one.address], ["127.0.0.1:9"])
    bad["pools"]["http"]["polcy"] = "maglev"
    bad["pools"]["oip"]["retries"] = -1
    async with load(port, [GET], clients=4) as running:
        await running.until(50)
        outcome = await asyncio.to_thread(daemon.reload, bad)
        await running.until(50)
        assert outcome["ok"] is False
        assert any("polcy" in problem for problem in outcome["problems"])
        assert any("retries" in problem for problem in outcome["problems"])
        assert all(str(daemon.path) in problem for problem in outcome["problems"])
        os.unlink(daemon.path)
        daemon.path.mkdir()
        outcome = await asyncio.to_thread(daemon.reload)
        await running.until(50)
        assert outcome["ok"] is False
        assert str(daemon.path) in outcome["error"]
        daemon.path.rmdir()
    assert running.reasons == []
    status = daemon.status()
    assert status["generation"] == generation
    assert status["reloads"] == {"ok": 0, "failed": 2}
    assert status["last_reload"]["ok"] is False
    assert daemon.worker_pids() == processes
    assert (await asyncio.to_thread(daemon.reload, good))["ok"]
    assert (await ask_once(port, GET)).body == b"a"


async def test_a_port_that_is_taken_changes_nothing(start: Start, endpoint: Callable[..., Any]) -> None:
    one, taken = await endpoint("a"), await endpoint("b")
    good = config([one.address], ["127.0.0.1:9"])
    daemon = start(good)
    bad = config([taken.address], ["127.0.0.1:9"])
    bad["listeners"]["second"] = http_listener({**route("/", "http"), "name": "second"}, bind=taken.address)
    outcome = await asyncio.to_thread(daemon.reload, bad)
    assert outcome["ok"] is False
    assert taken.address in outcome["error"]
    assert (await ask_once(daemon.port(), GET)).body == b"a"


async def test_listeners_come_and_go(start: Start, endpoint: Callable[..., Any]) -> None:
    one = await endpoint("a")
    description = config([one.address], ["127.0.0.1:9"])
    daemon = start(description)
    port = daemon.port()
    description["listeners"]["second"] = http_listener({**route("/", "http"), "name": "second"})
    assert (await asyncio.to_thread(daemon.reload, description))["ok"]
    second = daemon.port("second")
    assert daemon.port() == port
    assert (await ask_once(second, GET)).body == b"a"
    async with load(port, [GET], clients=2) as running:
        del description["listeners"]["second"]
        assert (await asyncio.to_thread(daemon.reload, description))["ok"]
        await running.until(20)
        assert (await ask_once(port, GET)).body == b"a"
    assert running.reasons == []

    async def refused() -> bool:
        try:
            await ask_once(second, GET)
        except OSError:
            return True
        return False

    assert await refused()
