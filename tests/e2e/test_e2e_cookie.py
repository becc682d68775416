"""The cookie of a pool through the daemon: reloads, dying workers, drains, maintenance and dying endpoints."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon import Daemon, eventually, http_listener, route
from traffic import ask_once, request

Start = Callable[..., Daemon]


def config_of(servers: list[Any], **cookie: Any) -> dict[str, Any]:
    pool = {
        "protocol": "http",
        "policy": {"type": "round_robin"},
        "endpoints": [server.address for server in servers],
        "affinity": {"cookie": {"name": "STAY", **cookie}},
        "health": {"type": "tcp", "interval": "100ms", "timeout": "2s", "fall": 2, "rise": 1},
    }
    return {"workers": 2, "listeners": {"web": http_listener(route("/", "app"))}, "pools": {"app": pool}}


async def get(port: int, cookie: str = "") -> tuple[str, str]:
    """Who answered, and the cookie that came with it ("" for none); each time a new connection, so any worker."""
    answer = await ask_once(port, request("GET", "/", **({"Cookie": cookie} if cookie else {})))
    assert answer.status == 200, answer
    return answer.body.decode(), answer.headers.get("set-cookie", "").partition(";")[0]


async def stays(port: int, cookie: str, name: str) -> None:
    for _ in range(12):
        assert await get(port, cookie) == (name, "")


async def operate(daemon: Daemon, what: str, server: Any) -> None:
    """The command line, as an operator types it."""
    done = await asyncio.to_thread(daemon.command, what, "app", server.address)
    assert done.returncode == 0, done.stderr


async def test_a_cookie_outlives_reloads_and_workers(start: Start, endpoint: Callable[..., Any]) -> None:
    servers = [await endpoint(f"e{i}") for i in range(3)]
    daemon = start(config_of(servers))
    port = daemon.port()
    name, cookie = await get(port)
    assert cookie.startswith("STAY=")
    await stays(port, cookie, name)

    assert (await asyncio.to_thread(daemon.reload, config_of(servers[::-1])))["ok"]
    await stays(port, cookie, name)

    before = daemon.worker_pids()
    os.kill(before[0], signal.SIGKILL)
    await asyncio.to_thread(
        eventually, lambda: len(pids := daemon.worker_pids()) == 2 and before[0] not in pids, "a new worker"
    )
    os.kill(before[1], signal.SIGKILL)
    await asyncio.to_thread(
        eventually, lambda: len(pids := daemon.worker_pids()) == 2 and before[1] not in pids, "a new worker"
    )
    await stays(port, cookie, name)


async def test_drained_it_stays_and_in_maintenance_or_dead_it_moves(start: Start, endpoint: Callable[..., Any]) -> None:
    servers = [await endpoint(f"e{i}") for i in range(3)]
    daemon = start(config_of(servers))
    port = daemon.port()
    name, cookie = await get(port)
    own = next(server for server in servers if server.name == name)

    await operate(daemon, "drain", own)
    await stays(port, cookie, name)
    assert all([(await get(port))[0] != name for _ in range(6)])

    await operate(daemon, "maintenance", own)
    second, moved = await get(port, cookie)
    assert second != name
    assert moved
    await stays(port, moved, second)

    await operate(daemon, "enable", own)
    await asyncio.to_thread(
        eventually, lambda: all(e["health"] == "up" for e in daemon.pool("app")["endpoints"]), "three endpoints"
    )
    await stays(port, cookie, name)

    gone = next(server for server in servers if server.name == second)
    gone.server.close()
    await asyncio.to_thread(
        eventually, lambda: any(e["health"] == "down" for e in daemon.pool("app")["endpoints"]), "the end of one"
    )
    third, again = await get(port, moved)
    assert third != second
    assert again
    await stays(port, again, third)


async def test_balancers_with_one_key_and_a_key_that_changes(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    servers = [await endpoint(f"e{i}") for i in range(3)]
    key = tmp_path / "cookie.key"
    first = os.urandom(48)
    key.write_bytes(first)
    key.chmod(0o600)
    config = config_of(servers, key_file=str(key))
    # In threads, as the endpoints are in this loop: while it stands, checks fill their backlogs.
    one, two = [await asyncio.to_thread(start, config) for _ in range(2)]
    name, cookie = await get(one.port())
    await stays(two.port(), cookie, name)

    key.write_bytes(b"short")
    assert not (await asyncio.to_thread(one.reload))["ok"]
    assert "key_file" in one.log
    await stays(one.port(), cookie, name)

    # A list: the first signs, all are valid.
    new, short = tmp_path / "new.key", tmp_path / "short.key"
    new.write_bytes(os.urandom(48))
    short.write_bytes(b"short")
    for path in (new, short):
        path.chmod(0o600)
    key.write_bytes(first)
    assert not (await asyncio.to_thread(one.reload, config_of(servers, key_file=[str(new), str(short)])))["ok"]
    assert "key_file[1]" in one.log
    await stays(one.port(), cookie, name)
    assert (await asyncio.to_thread(one.reload, config_of(servers, key_file=[str(new), str(key)])))["ok"]
    same, fresh = await get(one.port(), cookie)
    assert same == name
    assert fresh
    await stays(one.port(), fresh, name)
    assert (await asyncio.to_thread(two.reload, config_of(servers, key_file=[str(key), str(new)])))["ok"]
    assert (await get(two.port(), fresh))[0] == name
    assert (await asyncio.to_thread(one.reload, config_of(servers, key_file=str(new))))["ok"]
    await stays(one.port(), fresh, name)
    assert (await get(one.port(), cookie))[1]

    new.write_bytes(os.urandom(48))
    assert (await asyncio.to_thread(one.reload))["ok"]
    assert (await get(one.port(), fresh))[1]
