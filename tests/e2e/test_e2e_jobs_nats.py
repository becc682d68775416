"""Daemons that share their jobs in NATS JetStream: real daemons and a real server, which are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daemon import Daemon
from nats_server import NatsServer
from test_e2e_jobs import ASYNC, Echo, configuration, wait_until
from waiting import eventually

Start = Callable[..., Daemon]


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    await made.start()
    yield made
    made.gate.set()
    await made.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session:
        yield session


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path / "nats", 'authorization { user: tide, password: "gate gate" }\n')
    made.start()
    yield made
    made.kill()


def shared(echo: Echo, server: NatsServer, folder: Path, **jobs: Any) -> dict[str, Any]:
    config = configuration(echo, folder, **jobs)
    (folder / "password").write_text("gate gate\n")
    del config["jobs"]["path"]
    login = {"username": "tide", "password_file": str(folder / "password")}
    config["jobs"]["store"] = {"nats": {"urls": [server.url], **login}}
    return config


def base_of(daemon: Daemon) -> str:
    return f"http://127.0.0.1:{daemon.port()}"


async def test_any_daemon_answers_for_a_job(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession, server: NatsServer
) -> None:
    config = shared(echo, server, tmp_path, quota=3)
    one, other = (base_of(start(config)) for _ in range(2))
    echo.gate.clear()
    places = []
    for i, base in enumerate((one, other, one)):
        async with client.post(base, data=f"ab{i}", headers={**ASYNC, "Idempotency-Key": f"k{i}"}) as answer:
            assert answer.status == 202
            places.append(answer.headers["Location"])
    async with client.post(other, data="x", headers=ASYNC) as answer:
        assert answer.status == 429
    async with client.post(other, data="ab0", headers={**ASYNC, "Idempotency-Key": "k0"}) as answer:
        assert (answer.status, answer.headers["Location"]) == (202, places[0])
    for place in places:
        await wait_until(client, one + place, "running")
    waiting = [
        asyncio.create_task(client.get(f"{base}{places[0]}/result", headers={"Prefer": "wait=30"}))
        for base in (one, other)
    ]
    async with client.delete(other + places[1]) as answer:
        assert answer.status == 200
    echo.gate.set()
    for task in waiting:  # both are told, whichever has run it
        async with await task as answer:
            assert (answer.status, await answer.read()) == (200, b"0ba")
    assert (await wait_until(client, one + places[1], "cancelled"))["status"] is None
    await wait_until(client, one + places[2], "done")
    assert [echo.seen[f"ab{i}".encode()] for i in range(3)] == [1, 1, 1]


async def test_jobs_of_a_killed_daemon_run_at_the_other(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession, server: NatsServer
) -> None:
    config = shared(echo, server, tmp_path)
    first = start(config)
    echo.gate.clear()
    async with client.post(base_of(first), data=b"ab", headers=ASYNC) as answer:
        place = answer.headers["Location"]
    await wait_until(client, base_of(first) + place, "running")
    other = start(config)
    pid = first.status()["jobs"]["pid"]
    first.process.kill()
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(5)
    assert echo.seen[b"ab"] == 1  # its lease is not over
    echo.gate.set()
    async with client.get(f"{base_of(other)}{place}/result", headers={"Prefer": "wait=60"}) as answer:
        assert (answer.status, await answer.read()) == (200, b"ba")
    assert echo.seen[b"ab"] == 2


async def test_a_server_that_is_away_refuses_jobs_alone(
    start: Start, tmp_path: Path, echo: Echo, client: aiohttp.ClientSession, server: NatsServer
) -> None:
    daemon = start(shared(echo, server, tmp_path))
    base = base_of(daemon)
    echo.gate.clear()
    async with client.post(base, data=b"ab", headers=ASYNC) as answer:
        place = base + answer.headers["Location"]
    await wait_until(client, place, "running")
    server.kill()
    echo.gate.set()
    await asyncio.to_thread(eventually, lambda: daemon.status()["jobs"]["store_error"], "the error", 10)
    for ask in (client.post(base, data=b"x", headers=ASYNC), client.get(place)):
        async with ask as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    async with client.post(base, data=b"xy") as answer:
        assert (answer.status, await answer.read()) == (200, b"yx")
    await asyncio.sleep(2)
    server.start()
    async with client.get(f"{base}/ready") as answer:
        assert answer.status == 200
    await asyncio.to_thread(eventually, lambda: not daemon.status()["jobs"]["store_error"], "its return", 20)
    async with client.get(f"{place}/result", headers={"Prefer": "wait=30"}) as answer:
        assert (answer.status, await answer.read()) == (200, b"ba")
    assert echo.seen[b"ab"] == 1  # the answer waited
    assert daemon.status()["jobs"]["restarts"] == 0


async def test_a_wrong_password_is_told(start: Start, tmp_path: Path, echo: Echo, server: NatsServer) -> None:
    config = shared(echo, server, tmp_path)
    (tmp_path / "password").write_text("other")
    daemon = start(config)
    assert "uthorization" in daemon.status()["jobs"]["store_error"]
