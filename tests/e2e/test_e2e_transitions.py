"""All kinds of traffic through all that happens to a daemon under systemd: what is promised not to fail does not
(docs/reliability.md, "What a transition costs")."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from booted import Systemd
from daemon import digits_pool, eventually, http_listener, route
from ports import free_port
from test_e2e_upgrade import Echo, echo_tcp, echo_websocket
from traffic import DIGITS_INFER, Wrk, ask_once, digit_request, digit_samples
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from lb.cli.admin import AdminClient, AdminError
from lb.cli.doctor.service import stored
from lb.config.load import load

SESSIONS = 3  # of each long-lived kind, each on a connection of its own
CALLERS = 2  # of unary calls
CONNECTIONS = 4  # of wrk
DRAIN = 2  # seconds
LONG = ("stream", "websocket", "tcp")
_PATIENCE = 40.0  # seconds for one message to come back: a worker that hangs is replaced after 20
_PAUSE = 0.02
_LOCAL = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel

Session = Callable[[], contextlib.AbstractAsyncContextManager[Callable[[], Awaitable[None]]]]


class Promise(NamedTuple):
    """The most that fails of each kind: requests of HTTP/1 and unary calls, and sessions that end. `ends`: every
    session does, once."""

    http: int = 0
    unary: int = 0
    session: int = 0
    ends: bool = False


NOTHING = Promise()
# What the process had in hand.
IN_HAND = Promise(http=CONNECTIONS, unary=CALLERS, session=SESSIONS)
# What all processes had in hand.
ALL = IN_HAND._replace(ends=True)
# Requests on their way are answered. One that comes on an idle connection as that is closed is lost (RFC 9112 section
# 9.5: its client repeats it), and sessions go on until the end of the drain.
DRAINED = Promise(http=CONNECTIONS, session=SESSIONS, ends=True)


class Traffic:
    """Long-lived sessions of each kind and unary calls, all the time. `answered` and `failed` count messages and calls
    that came back, and sessions and calls that failed; `refused` are connections that could not be made."""

    def __init__(self, port: int, raw_port: int) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.refused: list[str] = []
        self.reasons: list[str] = []
        kinds: dict[str, Session] = {
            "stream": lambda: stream(port), "websocket": lambda: websocket(port), "tcp": lambda: tcp(raw_port),
        }  # fmt: skip
        self._going = True
        self._rounds = 0
        self._tasks = [
            asyncio.create_task(self._hold(kind, session)) for kind, session in kinds.items() for _ in range(SESSIONS)
        ]
        self._tasks += [asyncio.create_task(self._call(port)) for _ in range(CALLERS)]

    async def _hold(self, kind: str, session: Session) -> None:
        """A session, and another one as soon as it ends."""
        while self._going:
            begun, rounds = False, self._rounds
            try:
                async with session() as ask:
                    while self._going and self._rounds == rounds:
                        await asyncio.wait_for(ask(), _PATIENCE)
                        begun = True
                        self.answered[kind] += 1
                        await asyncio.sleep(_PAUSE)
            except Exception as error:
                if begun:
                    self.failed[kind] += 1
                    self.reasons.append(f"{kind}: {error!r}")
                else:
                    self.refused.append(f"{kind}: {error!r}")
                    await asyncio.sleep(_PAUSE)

    async def _call(self, port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_LOCAL) as channel:
            call = channel.stream_stream("/any.Service/Echo")
            while self._going:
                try:
                    answer = [reply async for reply in call(iter([b"message"]), timeout=_PATIENCE)]
                    assert answer == [b"message"]
                    self.answered["unary"] += 1
                except grpc.aio.AioRpcError as error:
                    self.failed["unary"] += 1
                    self.reasons.append(f"unary: {error.code()} {error.details()}")
                await asyncio.sleep(_PAUSE)

    def renew(self) -> None:
        """Sessions end, and others begin."""
        self._rounds += 1

    async def stop(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)


@contextlib.asynccontextmanager
async def stream(port: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_LOCAL) as channel:
        call = channel.stream_stream("/any.Service/Echo")()

        async def ask() -> None:
            await call.write(b"message")
            assert await call.read() == b"message", await call.code()

        yield ask


@contextlib.asynccontextmanager
async def websocket(port: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with connect(f"ws://127.0.0.1:{port}/ws", open_timeout=_PATIENCE, ping_interval=None) as connection:

        async def ask() -> None:
            await connection.send("text")
            assert await connection.recv() == "text"

        yield ask


@contextlib.asynccontextmanager
async def tcp(port: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask() -> None:
        writer.write(b"0123456789")
        assert await reader.readexactly(10) == b"0123456789"

    try:
        yield ask
    finally:
        writer.close()


class World:
    """The daemon under systemd, its traffic, and what each transition was found to cost."""

    def __init__(self, systemd: Systemd, port: int, traffic: Traffic) -> None:
        self.systemd = systemd
        self.traffic = traffic
        self.broken: list[str] = []  # promises
        self._port = port
        self._bodies = [
            {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": sample["image"]}]}
            for sample in digit_samples()
        ]

    async def through(self, name: str, promise: Promise, act: Callable[[], Any], over: Callable[[], bool]) -> None:
        """Has `act` make a transition, which is at its end when `over`, and holds its cost against the promise."""
        traffic, call = self.traffic, asyncio.to_thread
        failed, refused = traffic.failed.copy(), len(traffic.refused)
        reasons = len(traffic.reasons)
        wrk = Wrk(self.systemd.folder, self._port, DIGITS_INFER, self._bodies, 600, CONNECTIONS)
        began = time.monotonic()
        try:
            await asyncio.sleep(0.3)
            await call(act)
            await call(eventually, over, f"the end of: {name}", 60)
            # Each kind goes on afterwards.
            answered = traffic.answered.copy()
            await call(
                eventually,
                lambda: all(traffic.answered[kind] > answered[kind] + 10 * SESSIONS for kind in (*LONG, "unary")),
                f"traffic after: {name}", 60,
            )  # fmt: skip
            wrk.process.send_signal(signal.SIGINT)
            requests, errors = await call(wrk.finish)
        finally:
            wrk.kill()
        lost = {kind: traffic.failed[kind] - failed[kind] for kind in (*LONG, "unary")}
        print(f"{name}, {time.monotonic() - began:.1f} s: {requests} answers to wrk, errors {errors}, lost {lost}")
        self._hold(name, requests > 0 and not errors.keys() - {"read", "write"}, f"wrk: {requests} answers, {errors}")
        self._hold(name, sum(errors.values()) <= promise.http, f"wrk: {errors}")
        self._hold(name, lost["unary"] <= promise.unary, f"unary: {lost}, {traffic.reasons[reasons:]}")
        for kind in LONG:
            fine = lost[kind] == SESSIONS if promise.ends else lost[kind] <= promise.session
            self._hold(name, fine, f"{kind}: {lost}, {traffic.reasons[reasons:]}")
        self._hold(name, len(traffic.refused) == refused, f"refused: {traffic.refused[refused:]}")

    def _hold(self, name: str, kept: bool, found: str) -> None:
        if not kept:
            self.broken.append(f"{name}: {found}")

    def status(self) -> dict[str, Any]:
        return AdminClient(f"unix:{self.systemd.root}/run/tidegate/admin.sock").status()

    def kill(self, process: str, how: str = "KILL") -> None:
        self.systemd.inside("kill", f"-{how}", str(self.processes()[process]))

    def processes(self) -> dict[str, int]:
        """Of a daemon, those that are whole."""
        status = self.status()
        found = {f"worker {row['index']}": row["pid"] for row in status["workers"] if row["state"] == "running"}
        (pool,) = (pool for pool in status["pools"] if pool["name"] == "digits")
        found.update(("model server", row["pid"]) for row in pool["managed"]["replicas"] if row["state"] == "ready")
        if status["jobs"] is not None and status["jobs"]["state"] == "running":
            found["jobs"] = status["jobs"]["pid"]
        lines = self.systemd.inside("ps", "-eo", "pid,args").splitlines()
        found.update(("fork server", int(line.split()[0])) for line in lines if "tidegate: fork server" in line)
        return found

    def whole(self) -> bool:
        with contextlib.suppress(AdminError):  # the admin server begins anew
            return self.processes().keys() == {"worker 0", "worker 1", "model server", "jobs", "fork server"}
        return False

    def replaced(self, process: str) -> Callable[[], bool]:
        before = self.processes()[process]
        return lambda: self.whole() and self.processes()[process] != before

    def another_daemon(self) -> Callable[[], bool]:
        before = self.systemd.show("MainPID")
        return lambda: (
            self.systemd.show("MainPID") not in ("0", before)
            and self.systemd.show("SubState") == "running"
            and self.whole()
        )


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], Systemd]]:
    booted: list[Systemd] = []

    def boot(config: dict[str, Any]) -> Systemd:
        booted.append(Systemd(tmp_path, config))
        return booted[-1]

    yield boot
    for systemd in booted:
        print(systemd.log[-20_000:])
        systemd.close()


@pytest.mark.timeout(180)
async def test_what_is_promised_not_to_fail_does_not(boot: Callable[[dict[str, Any]], Systemd], tmp_path: Path) -> None:
    echoes = await asyncio.start_server(echo_tcp, "127.0.0.1", 0)
    web = await serve(echo_websocket, "127.0.0.1", 0, ping_interval=None)
    calls = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    calls.add_generic_rpc_handlers((Echo(),))
    calls_port = calls.add_insecure_port("127.0.0.1:0")
    await calls.start()
    port, raw_port = free_port(), free_port()
    routes = [{**route("/v2", "digits"), "jobs": True}, route("/ws", "web"), {"name": "calls", "pool": "calls"}]
    config = {
        "jobs": {"path": str(tmp_path / "jobs.db")},
        "shutdown": {"drain_timeout": f"{DRAIN}s"},
        "listeners": {
            "web": {**http_listener(*routes), "bind": f"127.0.0.1:{port}"},
            "raw": {"bind": f"127.0.0.1:{raw_port}", "protocol": "tcp", "pool": "raw"},
        },
        "pools": {
            "digits": digits_pool(min=1),
            "web": {"protocol": "http", "endpoints": [f"127.0.0.1:{next(iter(web.sockets)).getsockname()[1]}"]},
            "calls": {"protocol": "grpc", "endpoints": [f"127.0.0.1:{calls_port}"]},
            "raw": {"protocol": "tcp", "endpoints": [f"127.0.0.1:{echoes.sockets[0].getsockname()[1]}"]},
        },
    }
    call = asyncio.to_thread
    systemd = await call(boot, config)
    await call(systemd.activate, f"127.0.0.1:{port}")
    # Clients start it, and wait for the model server, too. The other listener is its own, and stored.
    first = await asyncio.gather(*(ask_once(port, digit_request(each["image"])) for each in digit_samples()[:8]))
    assert [answer.status for answer in first] == [200] * 8
    traffic = Traffic(port, raw_port)
    world = World(systemd, port, traffic)

    def reloaded() -> bool:
        return world.whole() and sum(world.status()["reloads"].values()) == 1

    def upgraded() -> bool:
        return world.whole() and world.status()["program"]["upgrades"] == 1

    await call(eventually, world.whole, "all processes", 30)
    through = world.through
    await through("reload", NOTHING, lambda: systemd.systemctl("reload", "tidegate.service"), reloaded)
    await through("upgrade", NOTHING, lambda: systemd.tidegate("upgrade"), upgraded)
    assert world.status()["program"]["old_workers"], "they have the sessions"
    traffic.renew()
    await call(eventually, lambda: not world.status()["program"]["old_workers"], "the end of the old workers", 30)
    for process, promise in (
        ("fork server", NOTHING),
        ("jobs", NOTHING),
        ("model server", NOTHING),
        ("worker 0", IN_HAND),
    ):
        replaced = await call(world.replaced, process)
        await through(f"kill of: {process}", promise, lambda: world.kill(process), replaced)  # noqa: B023
    replaced = await call(world.replaced, "worker 1")
    await through("a worker that hangs", IN_HAND, lambda: world.kill("worker 1", "STOP"), replaced)

    # From the next start on, the watchdog is impatient.
    assert len(await call(systemd.stored)) <= stored(load(systemd.path))
    await call(systemd.set, "WatchdogSec=2s")
    restarted = await call(world.another_daemon)
    await through("restart", DRAINED, lambda: systemd.systemctl("restart", "tidegate.service"), restarted)
    found = json.loads(await call(lambda: systemd.tidegate("doctor", "--json", check=False)))
    doubts = [one["text"].partition(":")[0] for one in found if one["area"] == "service" and one["state"] != "ok"]
    assert [text for text in doubts if "boot" not in text] == ["WatchdogSec=2s"], "all else is as it is shipped"
    restarted = await call(world.another_daemon)
    await through("kill of: master", ALL, systemd.kill_master, restarted)
    restarted, main = await call(world.another_daemon), await call(systemd.show, "MainPID")
    await through("a master that hangs", ALL, lambda: systemd.inside("kill", "-STOP", main), restarted)
    await traffic.stop()
    assert not world.broken, "\n".join(world.broken)
    assert await call(systemd.show, "NRestarts") == "2"
    echoes.close()
    web.close()
    await calls.stop(None)
