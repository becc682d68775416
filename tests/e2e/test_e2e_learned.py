"""Learned sessions through the daemon: curl's cookie jar, workers, reloads, drains, endpoints that go, metrics."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from daemon import Daemon, eventually, http_listener, route
from traffic import ask_once, request

Start = Callable[..., Daemon]


class Application:
    """Keeps sessions in its memory, as a servlet container does: who comes without a session of its own gets one. The
    body is its name and how many requests the session had. Requests of /hold wait for `hold`; all are answered with
    `status`."""

    def __init__(self, name: str, cookies: bool = True) -> None:
        self.name = name
        self.cookies = cookies
        self.status = 200
        self.hold = asyncio.Event()
        self.held = 0
        self.sessions: dict[str, int] = {}

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                found = re.search(r"(?im)^cookie: .*JSESSIONID=([^;\r]+)", head)
                session, line = found[1] if found else "", ""
                if " /hold " in head:
                    self.held += 1
                    await self.hold.wait()
                    self.held -= 1
                if session not in self.sessions:
                    session = f"{os.urandom(8).hex()}.{self.name}"
                    self.sessions[session] = 0
                    line = f"Set-Cookie: JSESSIONID={session}; Path=/; HttpOnly\r\n"
                self.sessions[session] += 1
                if " /logout " in head:
                    del self.sessions[session]
                    line = "Set-Cookie: JSESSIONID=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT\r\n"
                body = f"{self.name} {self.sessions.get(session, 0)}"
                line = line if self.cookies else ""
                writer.write(f"HTTP/1.1 {self.status} X\r\n{line}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()


@pytest.fixture
async def applications() -> AsyncIterator[list[Application]]:
    made = [Application(f"e{i}") for i in range(3)]
    for one in made:
        await one.start()
    yield made
    for one in made:
        one.server.close()


def config_of(servers: list[Application], **pool: Any) -> dict[str, Any]:
    settings = {
        "protocol": "http",
        "policy": {"type": "round_robin"},
        "endpoints": [server.address for server in servers],
        "affinity": {"learn": {"cookie": "JSESSIONID"}},
        "health": {"type": "tcp", "interval": "100ms", "timeout": "2s", "fall": 2, "rise": 1},
        **pool,
    }
    return {"workers": 2, "listeners": {"web": http_listener(route("/", "app"))}, "pools": {"app": settings}}


class Browser:
    """curl with a cookie jar: each request over a connection of its own, so to any worker."""

    def __init__(self, jar: Path, port: int) -> None:
        self.jar = jar
        self.port = port

    async def get(self, path: str = "/", *options: str) -> tuple[str, int]:
        """The name of the endpoint that answered, and the requests of the session so far."""
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", "-m", "30", "-b", str(self.jar), "-c", str(self.jar), *options,
            f"http://127.0.0.1:{self.port}{path}", stdout=subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode == 0
        name, count = out.decode().split()
        return name, int(count)


async def operate(daemon: Daemon, what: str, server: Application) -> None:
    """The command line, as an operator types it."""
    done = await asyncio.to_thread(daemon.command, what, "app", server.address)
    assert done.returncode == 0, done.stderr


def metric(daemon: Daemon, name: str, **labels: str) -> float:
    return daemon.metrics(name)[frozenset(labels.items())]


async def test_a_session_outlives_reloads_and_workers(
    start: Start, applications: list[Application], tmp_path: Path
) -> None:
    daemon = start(config_of(applications))
    port = daemon.port()
    browsers = [Browser(tmp_path / f"jar{i}", port) for i in range(6)]
    homes = [(await browser.get())[0] for browser in browsers]
    assert set(homes) == {"e0", "e1", "e2"}
    step = 1

    async def stay() -> None:
        nonlocal step
        for _ in range(3):
            step += 1
            for browser, home in zip(browsers, homes, strict=True):
                assert await browser.get() == (home, step)

    await stay()
    assert (await asyncio.to_thread(daemon.reload, config_of(applications[::-1])))["ok"]
    await stay()
    for index in range(2):
        victim = daemon.worker_pids()[index]
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(
            eventually, lambda victim=victim: len(p := daemon.worker_pids()) == 2 and victim not in p, "a new worker"
        )
        await asyncio.to_thread(eventually, lambda: daemon.admin("/readyz")[0] == 200, "readiness")
        await stay()

    assert metric(daemon, "tidegate_pool_sessions_learned_total", pool="app") == 6
    assert metric(daemon, "tidegate_pool_session_requests_total", pool="app", result="fallback") == 0
    assert sum(daemon.metrics("tidegate_endpoint_sessions").values()) == 6
    assert {row["address"]: row["sessions"] for row in daemon.pool("app")["endpoints"]} == {
        server.address: len(server.sessions) for server in applications
    }
    await browsers[0].get("/logout")
    assert sum(daemon.metrics("tidegate_endpoint_sessions").values()) == 5
    assert metric(daemon, "tidegate_pool_sessions_ended_total", pool="app") == 1
    assert daemon.metrics("tidegate_sessions_evicted_total") == {frozenset(): 0}
    assert set(daemon.metrics("tidegate_sessions_capacity").values()) == {262_144}


async def test_drained_it_stays_and_when_its_endpoint_goes_a_new_one_is_learned(
    start: Start, applications: list[Application], tmp_path: Path
) -> None:
    daemon = start(config_of(applications))
    browser = Browser(tmp_path / "jar", daemon.port())
    name, _ = await browser.get()
    own = next(server for server in applications if server.name == name)

    await operate(daemon, "drain", own)
    for step in range(2, 8):
        assert await browser.get() == (name, step)
    for i in range(4):
        assert (await Browser(tmp_path / f"new{i}", browser.port).get())[0] != name

    await operate(daemon, "maintenance", own)
    second, count = await browser.get()
    assert (second != name, count) == (True, 1)  # begun anew
    for step in range(2, 6):
        assert await browser.get() == (second, step)

    gone = next(server for server in applications if server.name == second)
    gone.server.close()
    await asyncio.to_thread(
        eventually, lambda: any(e["health"] == "down" for e in daemon.pool("app")["endpoints"]), "the end of one"
    )
    third, count = await browser.get()
    assert (third not in (name, second), count) == (True, 1)
    for step in range(2, 6):
        assert await browser.get() == (third, step)

    left = [server for server in applications if server.name != third]
    await operate(daemon, "enable", own)
    await asyncio.to_thread(
        eventually, lambda: sum(e["health"] == "up" for e in daemon.pool("app")["endpoints"]) == 2, "two endpoints"
    )
    assert (await asyncio.to_thread(daemon.reload, config_of(left)))["ok"]
    fourth, count = await browser.get()
    assert (fourth, count) == (name, 1)
    assert await browser.get() == (name, 2)


async def test_http2_and_room_for_more(start: Start, applications: list[Application], tmp_path: Path) -> None:
    daemon = start(config_of(applications))
    browser = Browser(tmp_path / "jar", daemon.port())
    name, _ = await browser.get("/", "--http2-prior-knowledge")
    for step in range(2, 8):
        assert await browser.get("/", *["--http2-prior-knowledge"] * (step % 2)) == (name, step)

    more = config_of(applications, affinity={"learn": {"cookie": "JSESSIONID", "max": 1_000_000}})
    outcome = await asyncio.to_thread(daemon.reload, more)
    assert outcome["ok"]
    assert [note.partition(":")[0] for note in outcome["notes"]] == ["affinity.learn.max"]
    assert await browser.get() == (name, 8)


async def test_a_mcp_session(start: Start) -> None:
    """The id is in a header, as the streamable HTTP transport of MCP has it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = str(writer.get_extra_info("sockname")[1])
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                found = re.search(r"(?im)^mcp-session-id: (\S+)", head)
                session = found[1] if found else f"{os.urandom(8).hex()}-{name}"
                status = "200 OK" if session.endswith(name) else "404 Not Found"
                writer.write(f"HTTP/1.1 {status}\r\nMcp-Session-Id: {session}\r\nContent-Length: 0\r\n\r\n".encode())
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for _ in range(3)]
    pool = {
        "protocol": "http",
        "policy": "round_robin",
        "endpoints": [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers],
        "affinity": {"learn": {"header": "Mcp-Session-Id"}},
    }
    daemon = start({"listeners": {"web": http_listener(route("/", "mcp"))}, "pools": {"mcp": pool}})
    port = daemon.port()
    for _ in range(6):
        session = (await ask_once(port, request("GET", "/"))).headers["mcp-session-id"]
        for _ in range(5):
            assert (await ask_once(port, request("GET", "/", Mcp_Session_Id=session))).status == 200
    for server in servers:
        server.close()
