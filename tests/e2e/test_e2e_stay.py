"""Clients that stay, by the pool's cookie or by the application's: ejections, full endpoints, the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from daemon import Daemon, http_listener, route
from test_e2e_learned import Application
from traffic import Answer, ask_once, request
from waiting import until_in_thread as until

Start = Callable[..., Daemon]
AFFINITY = {"cookie": {"cookie": {"name": "STAY"}}, "learn": {"learn": {"cookie": "JSESSIONID"}}}


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Any]]:
    """`await make(kind, count)` gives applications, which set cookies where it is theirs by which clients stay."""
    made: list[Application] = []

    async def make(kind: str, count: int) -> list[Application]:
        for i in range(count):
            made.append(Application(f"e{i}", kind == "learn"))
            await made[-1].start()
        return made

    yield make
    for one in made:
        one.server.close()


def config_of(kind: str, servers: list[Application], **pool: Any) -> dict[str, Any]:
    settings = {
        "protocol": "http",
        "policy": {"type": "round_robin"},
        "endpoints": [server.address for server in servers],
        "affinity": AFFINITY[kind],
        **pool,
    }
    return {"workers": 2, "listeners": {"web": http_listener(route("/", "app"))}, "pools": {"app": settings}}


async def get(port: int, cookie: str = "", path: str = "/") -> Answer:
    return await ask_once(port, request("GET", path, **({"Cookie": cookie} if cookie else {})))


def name_of(answer: Answer) -> str:
    assert answer.status == 200, answer
    return answer.body.decode().split()[0]


def cookie_of(answer: Answer) -> str:
    return answer.headers.get("set-cookie", "").partition(";")[0]


def ejection_state(daemon: Daemon, server: Application) -> str:
    row = next(row for row in daemon.pool("app")["endpoints"] if row["address"] == server.address)
    return str(row["steering"]["ejection_state"])


@pytest.mark.parametrize("kind", ["cookie", "learn"])
async def test_an_ejected_endpoints_clients_move_and_come_back(
    start: Start, make: Callable[..., Any], kind: str
) -> None:
    servers: list[Application] = await make(kind, 3)
    outlier = {"consecutive_5xx": 3, "base_ejection_time": "2s", "probation_requests": 1}
    daemon = start(config_of(kind, servers, outlier=outlier))
    port = daemon.port()
    first = await get(port)
    name, cookie = name_of(first), cookie_of(first)
    own = next(server for server in servers if server.name == name)

    own.status = 500
    for _ in range(3):
        answer = await get(port, cookie)
        assert (answer.status, answer.body.decode().split()[0]) == (500, name)
    await until(lambda: ejection_state(daemon, own) == "ejected", "the ejection")
    moved = await get(port, cookie)
    other, new = name_of(moved), cookie_of(moved)
    assert other != name
    assert new not in ("", cookie)
    for _ in range(6):
        assert name_of(await get(port, new)) == other

    own.status = 200
    await until(lambda: ejection_state(daemon, own) != "ejected", "the end of the ejection")
    for _ in range(6):
        assert name_of(await get(port, cookie)) == name  # who kept the old one is at home again
        assert name_of(await get(port, new)) == other


@pytest.mark.parametrize("kind", ["cookie", "learn"])
async def test_a_full_endpoints_clients_are_lent_and_wait_like_others(
    start: Start, make: Callable[..., Any], kind: str
) -> None:
    servers: list[Application] = await make(kind, 2)
    daemon = start(config_of(kind, servers, max_in_flight=1, queue={"timeout": "60s"}))
    port = daemon.port()
    first = await get(port)
    name, cookie = name_of(first), cookie_of(first)
    own, other = sorted(servers, key=lambda server: server.name != name)

    async def fill(server: Application, cookie: str) -> asyncio.Task[Answer]:
        server.hold.clear()
        task = asyncio.create_task(get(port, cookie, "/hold"))
        async with asyncio.timeout(60):
            while not server.held:
                await asyncio.sleep(0.01)
        return task

    def stays(answer: Answer) -> bool:
        """Whether the client keeps its cookie. An application that does not know the session gives another; who holds
        on to the old one, as this client does, is found by it."""
        return kind == "learn" or not cookie_of(answer)

    # Full: another endpoint has it at once, and it comes back.
    mine = await fill(own, cookie)
    for _ in range(3):
        lent = await get(port, cookie)
        assert name_of(lent) == other.name
        assert stays(lent)
    # All are full: it waits its turn, and does not insist on its own endpoint.
    theirs = await fill(other, "")
    waiting = asyncio.create_task(get(port, cookie))
    await until(lambda: daemon.pool("app")["queue"]["waiting"] == 1, "a wait")
    other.hold.set()
    assert name_of(await theirs) == other.name
    answer = await waiting
    assert name_of(answer) == other.name
    assert stays(answer)
    # Its own has room first: it goes there.
    theirs = await fill(other, "")
    waiting = asyncio.create_task(get(port, cookie))
    await until(lambda: daemon.pool("app")["queue"]["waiting"] == 1, "a wait")
    own.hold.set()
    assert name_of(await mine) == name
    answer = await waiting
    assert (name_of(answer), cookie_of(answer)) == (name, "")
    other.hold.set()
    await theirs
    for _ in range(4):
        assert name_of(await get(port, cookie)) == name
    assert daemon.in_flight() == 0
