"""Operators change a running daemon: endpoints, limits, the log level, the number of servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from authority import Authority
from daemon import ROOT, Daemon, eventually, http_listener, route
from endpoints import Endpoint
from traffic import ask_once, load, request
from waiting import until

Start = Callable[..., Daemon]
GET = request("GET", "/x")
SERVER = str(ROOT / "tests" / "control" / "any_server.py")


def config(addresses: list[str], **pool: Any) -> dict[str, Any]:
    settings = {"protocol": "http", "endpoints": addresses, **pool}
    return {"listeners": {"web": http_listener(route("/", "http"))}, "pools": {"http": settings}}


def run(daemon: Daemon, *arguments: str, status: int = 0) -> str:
    done: subprocess.CompletedProcess[str] = daemon.command(*arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 or done.stdout else done.stderr


async def operate(daemon: Daemon, *arguments: str, status: int = 0) -> str:
    return await asyncio.to_thread(run, daemon, *arguments, status=status)


def changes(daemon: Daemon) -> dict[str, Any]:
    rows = json.loads(run(daemon, "config", "changes", "--json"))
    assert rows == daemon.status()["changes"]
    return {f"{row['endpoint']} {row['setting']}" if "pool" in row else row["setting"]: row["value"] for row in rows}


async def test_endpoints_are_drained_weighed_and_limited(start: Start, endpoint: Callable[..., Any]) -> None:
    first: Endpoint = await endpoint("a", 0.05)
    second: Endpoint = await endpoint("b", 0.05)
    daemon = start(config([first.address, second.address]))
    before = daemon.pool("http")
    dry = await operate(daemon, "endpoint", "drain", "http", first.address, "--dry-run")
    assert dry == f"would change: http {first.address}: admin from enabled to drain\n"
    for arguments in (("weight", "3"), ("limit", "2")):
        name, value = arguments
        assert "would change" in await operate(daemon, "endpoint", name, "http", first.address, value, "--dry-run")
    rows = lambda pool: [(e["admin"], e["weight"], e["max_in_flight"]) for e in pool["endpoints"]]  # noqa: E731
    assert rows(daemon.pool("http")) == rows(before), "a dry run changes nothing"
    assert changes(daemon) == {}

    async with load(daemon.port(), [GET], clients=12) as running:
        await operate(daemon, "endpoint", "limit", "http", first.address, "2")
        await operate(daemon, "endpoint", "weight", "http", first.address, "3")
        await operate(daemon, "endpoint", "drain", "http", second.address, "--wait", "20")
        second.peak = first.peak = 0
        served = second.served
        await running.until(60)
        assert second.served == served
        assert first.peak <= 2, "over its limit"
        assert not running.failures
    wanted = {f"{first.address} max_in_flight": 2, f"{first.address} weight": 3, f"{second.address} admin": "drain"}
    assert changes(daemon) == wanted
    assert daemon.reload()["ok"]
    assert changes(daemon) == wanted, "a reload keeps them"
    text = await operate(daemon, "status")
    assert f"changed at run time: http {second.address}: admin is drain instead of enabled, since 20" in text
    await operate(daemon, "endpoint", "ready", "http", second.address)
    await operate(daemon, "endpoint", "limit", "http", first.address, "default")
    await operate(daemon, "endpoint", "weight", "http", first.address, "default")
    assert changes(daemon) == {}
    assert rows(daemon.pool("http")) == rows(before)


async def test_a_limit_ends_when_the_file_says_another(start: Start, endpoint: Callable[..., Any]) -> None:
    only: Endpoint = await endpoint("a")
    daemon = start(config([only.address], max_in_flight=9))
    said = await operate(daemon, "endpoint", "limit", "http", only.address, "4")
    assert said.endswith("at most 4\n")
    row = lambda: daemon.pool("http")["endpoints"][0]["max_in_flight"]  # noqa: E731
    daemon.write(config([only.address], max_in_flight=9, retries=2))
    assert daemon.reload()["ok"]
    assert row() == 4
    daemon.write(config([only.address], max_in_flight=7))
    assert daemon.reload()["ok"]
    assert (row(), changes(daemon)) == (7, {})
    daemon.write(config([only.address], max_in_flight=9))
    assert daemon.reload()["ok"]
    assert row() == 9, "what has ended does not come back"


async def takes_one(daemon: Daemon, only: Endpoint) -> None:
    """While the endpoint has a request all others are refused."""
    only.gate.clear()
    first = asyncio.create_task(ask_once(daemon.port(), GET))
    await until(lambda: only.active == 1, "it is not with the endpoint")
    answers = await asyncio.gather(*(ask_once(daemon.port(), GET) for _ in range(3)))
    assert [answer.status for answer in answers] == [503] * 3
    only.gate.set()
    assert (await first).status == 200


async def test_settings_while_the_file_is_broken(start: Start, endpoint: Callable[..., Any]) -> None:
    only: Endpoint = await endpoint("a", 0.2)
    document = config([only.address])
    document["listeners"]["web"]["routes"][0]["name"] = "all"
    daemon = start(document)
    limit = "listeners.web.routes[all].max_in_flight"
    whole = daemon.path.read_text()
    daemon.path.write_text(whole.replace("protocol", "protocoll", 1) + "no_such_key: 1\n")
    generation = daemon.status()["generation"]
    dry = await operate(daemon, "config", "set", limit, "1", "--dry-run")
    assert dry == f"would change: {limit} from none to 1\n"
    assert daemon.status()["generation"] == generation
    assert await operate(daemon, "config", "set", limit, "1") == f"changed: {limit} from none to 1\n"
    await takes_one(daemon, only)
    assert await operate(daemon, "config", "set", "log.level", "debug") == "changed: log.level from info to debug\n"

    found = json.loads(await operate(daemon, "config", "diff", "--json", status=1))
    assert any("no_such_key" in problem for problem in found["problems"])
    assert {"setting": "no_such_key", "running": None, "file": 1} in found["differences"]
    assert [row["setting"] for row in found["changes"]] == [limit, "log.level"]
    shown = yaml.safe_load(await operate(daemon, "config", "show"))
    assert shown["listeners"]["web"]["routes"][0]["max_in_flight"] == 1
    assert shown["log"]["level"] == "debug"
    assert not (await asyncio.to_thread(daemon.reload))["ok"]
    assert set(changes(daemon)) == {limit, "log.level"}, "a reload that fails ends nothing"
    daemon.kill_worker()
    await asyncio.to_thread(eventually, lambda: all(w["state"] == "running" for w in daemon.status()["workers"]), "it")
    await takes_one(daemon, only)  # a new worker has them, too

    daemon.path.write_text(whole + "broken: {")
    text = await operate(daemon, "config", "diff", status=1)
    assert "cannot be loaded; the running configuration stays" in text
    # Which daemon is meant such a file does not say for certain.
    refused = await operate(daemon, "config", "unset", limit, "log.level", status=1)
    assert refused.startswith(f"{daemon.path}:")
    assert set(changes(daemon)) == {limit, "log.level"}
    assert await operate(daemon, "config", "unset", limit, "log.level", "--admin", f"unix:{daemon.socket}")
    assert changes(daemon) == {}
    answers = await asyncio.gather(*(ask_once(daemon.port(), GET) for _ in range(4)))
    assert [answer.status for answer in answers] == [200] * 4
    daemon.path.write_text(whole)
    assert "the daemon runs what" in await operate(daemon, "config", "diff")


async def test_a_reload_says_which_changes_stay(start: Start, endpoint: Callable[..., Any]) -> None:
    only: Endpoint = await endpoint("a")
    daemon = start(config([only.address]))
    await operate(daemon, "config", "set", "log.level", "warning")
    await operate(daemon, "config", "set", "pools.http.queue.max", "5")
    daemon.write(config([only.address], queue={"max": 9}))
    text = await operate(daemon, "config", "diff", status=1)
    assert 'pools.http.queue: running nothing, file {"max": 9}' in text
    text = await operate(daemon, "reload")
    assert "log.level: warning stays, as changed at run time" in text
    assert "pools.http.queue.max: 5 ends: the file says 9 now, None before" in text
    assert changes(daemon) == {"log.level": "warning"}


async def test_what_is_wrong_is_said(start: Start, endpoint: Callable[..., Any]) -> None:
    only: Endpoint = await endpoint("a")
    daemon = start(config([only.address]))
    for arguments, reason in (
        (("config", "set", "workers", "3"), "workers cannot be changed while the daemon runs"),
        (("config", "set", "log.level", "loud"), "log.level: 'loud' is not one of debug, info"),
        (("config", "set", "pools.http.queue.timeout", "0s"), "queue.timeout: must be at least 1ms; there is always"),
        (("config", "set", "pools.http.queue.max", "-5"), "pools.http.queue.max: must be at least 0\n"),
        (("scale", "http", "3"), "neither serve nor engine"),
        (("scale", "htp", "3"), "there is no pool 'htp'; did you mean http?"),
        (("endpoint", "limit", "http", "127.0.0.1:1", "3"), "has no endpoint '127.0.0.1:1'"),
        (
            ("config", "set", "lgo.level", "debug"),
            "lgo.level cannot be changed while the daemon runs; did you mean log",
        ),
        (("endpoint", "list", "nowhere"), "there is no pool 'nowhere'; there are http"),
        (("endpoint", "list", "htp"), "there is no pool 'htp'; did you mean http?"),
    ):
        assert reason in await operate(daemon, *arguments, status=1)
    ask = lambda path, body: daemon.admin(f"/api/v1/{path}", "POST", body)  # noqa: E731
    assert ask("settings", "{}")[0] == 400
    assert ask("settings", '{"values": {"log.level": "debug"}, "reset": ["log.level"]}')[0] == 400
    assert ask("settings", json.dumps({"values": {f"pools.{i}.queue.max": 1 for i in range(101)}}))[0] == 400
    assert ask("settings", '{"values": {"log.level": ["debug"]}}')[0] == 400
    assert ask("scale", '{"pool": "http"}')[0] == 400
    assert ask("scale", '{"pool": "http", "replicas": "many"}')[0] == 400
    assert ask("certificates/reload", '{"dryrun": true}')[0] == 400
    assert ask("endpoint", json.dumps({"pool": "http", "address": only.address, "max_in_flight": 0}))[0] == 400
    assert changes(daemon) == {}


async def test_a_pool_is_scaled_by_hand_and_back_under_load(start: Start) -> None:
    command = [sys.executable, SERVER, "{address}"]
    pool = {
        "protocol": "http", "serve": {"command": command, "min": 1, "max": 4, "drain_timeout": "5s"},
        "scaling": {"metrics": [{"type": "in_flight", "target": 100}], "interval": "200ms", "down": {"window": "0s"}},
    }  # fmt: skip
    daemon = await asyncio.to_thread(
        start, {"listeners": {"web": http_listener(route("/", "p"))}, "pools": {"p": pool}}
    )

    async def ready(number: int) -> set[int]:
        def found() -> set[int] | None:
            rows = [r for r in daemon.pool("p")["managed"]["replicas"] if r["state"] == "ready"]
            return {r["pid"] for r in rows} if len(rows) == number else None

        pids: set[int] = await asyncio.to_thread(eventually, found, f"{number} servers")
        return pids

    first = await ready(1)
    async with load(daemon.port(), [GET], clients=4) as running:
        dry = await operate(daemon, "scale", "p", "3", "--dry-run")
        assert dry == "would change: pools.p.replicas from 1..4 to 3\n"
        assert await operate(daemon, "scale", "p", "3") == "changed: pools.p.replicas from 1..4 to 3\n"
        three = await ready(3)
        assert first < three, "those that run go on"
        assert (await asyncio.to_thread(daemon.reload))["ok"]
        assert await ready(3) == three, "a reload keeps the number"
        assert changes(daemon) == {"pools.p.replicas": 3}
        await operate(daemon, "scale", "p", "automatic")
        await ready(1)
        await running.until(50)
        assert not running.failures
    assert changes(daemon) == {}
    assert await operate(daemon, "scale", "p", "automatic") == "nothing to change: it is so already\n"


async def test_certificates_are_listed_and_reloaded(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    only: Endpoint = await endpoint("a")
    authority = Authority()
    wanted = config([only.address])
    tls = {"certificates": [{"cert": f"{tmp_path}/server.pem", "key": f"{tmp_path}/server.key"}]}
    wanted["listeners"]["web"] |= {"protocol": "https", "tls": tls}
    authority.issue("one.test", days=30).write(tmp_path)
    daemon = start(wanted)
    assert "one.test" in await operate(daemon, "certificates", "list")
    authority.issue("two.test", days=30).write(tmp_path)
    said = await operate(daemon, "certificates", "reload", "--dry-run")
    assert said == f"would take the new certificate of {tmp_path}/server.pem\n"
    await operate(daemon, "certificates", "reload")
    assert "two.test" in await operate(daemon, "certificates", "list")
    (tmp_path / "server.key").write_text("no key")
    assert "not used: " in await operate(daemon, "certificates", "reload", status=1)


async def test_who_changed_it_is_told(start: Start, endpoint: Callable[..., Any]) -> None:
    only: Endpoint = await endpoint("a")
    daemon = start(config([only.address]))
    await operate(daemon, "config", "set", "log.level", "warning")
    (row,) = daemon.status()["changes"]
    assert "@" in row["by"]
    assert row["at"] > 0
    body = json.dumps({"values": {"log.level": "error"}})
    assert daemon.admin("/api/v1/settings", "POST", body)[0] == 200
    assert daemon.status()["changes"][0]["by"] == "the admin socket"


async def test_settings_beside_jobs_and_a_cache_that_needs_a_restart(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    only: Endpoint = await endpoint("a")
    document = config([only.address])
    daemon = start({**document, "jobs": {"path": f"{tmp_path}/jobs.db"}})
    assert await operate(daemon, "config", "set", "log.level", "debug")
    document["listeners"]["web"]["routes"][0]["http_cache"] = True
    daemon.write({**document, "cache": {}, "jobs": {"path": f"{tmp_path}/jobs.db"}})
    text = await operate(daemon, "reload")
    assert "needs a restart: cache" in text
    assert await operate(daemon, "config", "set", "limits.max_in_flight", "100")
    assert changes(daemon) == {"log.level": "debug", "limits.max_in_flight": 100}
    assert (await ask_once(daemon.port(), GET)).status == 200
