"""`tidegate upgrade` and SIGUSR2: another version takes over in the same process, and nothing is dropped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import websockets
from daemon import ROOT, Daemon, alive, digits_pool, eventually, http_listener, route
from datagrams import LISTENER, UdpClient, echoes
from ports import free_port
from traffic import Client, ask_once, digit_request, digit_samples, request
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

Start = Callable[..., Daemon]
NEXT = "9.9.9"
# What a version does that passes its trial, and does not serve.
FAILING = """

import os as _os

if "TIDEGATE_HANDOVER" in _os.environ:
    import time as _time
    from lb.cli import run as _run
    from lb.control.upgrade import handover as _handover, upgrader as _upgrader
    from lb.errors import StartError as _StartError

    async def _fail(*given):
        raise _StartError("it was made to fail")

    async def _block(*given):
        _time.sleep(100)

    WHAT
"""
FAILURES = {  # what it does, and why it does not serve
    "at the beginning": ("_run.Master._start = _fail", "it was made to fail"),
    "when its workers serve": ("_run.Admin.start = _fail", "it was made to fail"),
    "its loop is blocked": (
        "_run.Master._start = _block; _upgrader.START = _upgrader._BLOCKED = 0.5",
        "it did not serve within 0 s, and its event loop was blocked",
    ),
    "by another format": (
        "_handover.FORMAT += 1", "the program before hands over by format 1, this one by 2",
    ),
}  # fmt: skip


class Installed:
    """Two versions beside each other, and a link to the one that is installed, as administrators keep them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._link = folder / "installed"
        self._link.symlink_to(ROOT)

    @property
    def shell(self) -> str:
        return f'export PYTHONPATH="{self._link}"'

    def install(self, version: str = NEXT) -> Path:
        """Another version; the folder of its package."""
        root = self._folder / version
        shutil.copytree(ROOT / "lb", root / "lb", copy_function=_link, ignore=shutil.ignore_patterns("*.c", "*.pyx"))
        shutil.copytree(ROOT / "backend", root / "backend", copy_function=_link)
        for name in ("__init__.py", "cli/app.py"):
            file = root / "lb" / name
            text = file.read_text().replace('__version__ = "0.1.0"', f'__version__ = "{version}"')
            file.unlink()  # not in the tree, to which it is linked
            file.write_text(text)
        fresh = self._folder / "fresh"
        fresh.symlink_to(root)
        fresh.rename(self._link)
        return root / "lb"


class Manager:
    """Hears what a daemon tells a service manager."""

    def __init__(self, folder: Path) -> None:
        self.told: list[str] = []
        self.variables = f'NOTIFY_SOCKET="{folder}/notify" WATCHDOG_USEC=30000000'
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"{folder}/notify")
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        while True:
            self.told.append(self._socket.recv(10_000).decode().partition("\n")[0])


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


async def echo_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def echo_websocket(connection: ServerConnection) -> None:
    with contextlib.suppress(websockets.ConnectionClosed):
        async for message in connection:
            await connection.send(message)


class Echo(grpc.GenericRpcHandler):
    def service(self, call: Any) -> Any:
        async def echo(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for message in messages:
                yield message

        return grpc.stream_stream_rpc_method_handler(echo)


class Going:
    """What is under way all the time, and what has failed of it."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.done = 0
        self.going = True
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, what: Callable[[], Any], name: str) -> None:
        async def again() -> None:
            while self.going:
                try:
                    await asyncio.wait_for(what(), 20)
                    self.done += 1
                except Exception as error:
                    self.failed.append(f"{name}: {error!r}")
                    return
                await asyncio.sleep(0.005)

        self._tasks.append(asyncio.create_task(again()))

    async def stop(self) -> None:
        self.going = False
        await asyncio.gather(*self._tasks)


def upgraded(daemon: Daemon, number: int = 1) -> dict[str, Any]:
    """The status, once the upgrade is done and no worker of the version before is left."""

    def done() -> dict[str, Any] | None:
        status = daemon.status()
        program = status["program"]
        return status if program["upgrades"] == number and not program["old_workers"] else None

    return eventually(done, "the upgrade", 60)


async def test_another_version_takes_over_and_nothing_is_dropped(start: Start, tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    tcp = await asyncio.start_server(echo_tcp, "127.0.0.1", 0)
    web = await serve(echo_websocket, "127.0.0.1", 0)
    calls = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    calls.add_generic_rpc_handlers((Echo(),))
    calls_port = calls.add_insecure_port("127.0.0.1:0")
    await calls.start()
    config = {
        "cache": {"ttl": "1h"},
        "listeners": {
            "web": http_listener(route("/v2", "digits"), route("/ws", "web"), {"name": "calls", "pool": "calls"}),
            "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "raw"},
        },
        "pools": {
            "digits": digits_pool(min=2, cores=1),
            "web": {"protocol": "http", "endpoints": [f"127.0.0.1:{next(iter(web.sockets)).getsockname()[1]}"]},
            "calls": {"protocol": "grpc", "endpoints": [f"127.0.0.1:{calls_port}"]},
            "raw": {
                "protocol": "tcp",
                "endpoints": [f"127.0.0.1:{tcp.sockets[0].getsockname()[1]}", "127.0.0.1:9"],
                "health": {"type": "tcp", "interval": "1s"},
            },
        },
    }
    call = asyncio.to_thread
    daemon = await call(start, config, shell=installed.shell)
    port, raw_port = await call(daemon.port), await call(daemon.port, "raw")
    for words in (
        ("drain", "raw", "127.0.0.1:9"),
        ("config", "set", "log.level", "debug"),
        ("config", "set", "pools.calls.max_in_flight", "500"),
        ("endpoint", "limit", "calls", f"127.0.0.1:{calls_port}", "40"),
    ):
        done = await call(daemon.command, *words)
        assert done.returncode == 0, done.stderr
    changes = (await call(daemon.status))["changes"]
    assert len(changes) == 4
    samples = [digit_request(sample["image"]) for sample in digit_samples()]
    going, kept = Going(), Client(port)

    async def ask_new() -> None:
        assert (await ask_once(port, samples[going.done % len(samples)])).status == 200

    async def ask_kept() -> None:
        """On a connection that the daemon may end with an answer alone."""
        nonlocal kept
        answer = await kept.ask(samples[going.done % len(samples)])
        assert answer.status == 200
        if answer.headers.get("connection") == "close":
            kept.close()
            kept = Client(port)

    reader, writer = await asyncio.open_connection("127.0.0.1", raw_port)
    socket = await connect(f"ws://127.0.0.1:{port}/ws")
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    stream = channel.stream_stream("/any.Service/Echo")()

    async def ask_tcp() -> None:
        writer.write(b"0123456789")
        assert await reader.readexactly(10) == b"0123456789"

    async def ask_websocket() -> None:
        await socket.send("text")
        assert await socket.recv() == "text"

    async def ask_stream() -> None:
        await stream.write(b"message")
        assert await stream.read() == b"message"

    for what in (ask_new, ask_new, ask_kept, ask_tcp, ask_websocket, ask_stream):
        going.start(what, what.__name__)
    await call(eventually, lambda: all(row[2] == "ready" for row in servers(daemon.status())), "the model servers")
    before = await call(daemon.status)
    # The models have been looked at, and what is known of them noted.
    await asyncio.sleep(7)
    path = installed.install()
    done = await call(daemon.command, "upgrade")
    assert done.stdout == f"upgraded from version 0.1.0 to version {NEXT}, in {path}\n", (done, daemon.log)
    await asyncio.sleep(1)
    after = await call(daemon.status)
    assert len(after["program"]["old_workers"]) in (1, 2), "they have the streams"
    assert (after["version"], after["program"]["pid"]) == (NEXT, daemon.process.pid)
    await going.stop()
    assert not going.failed
    assert going.done > 500
    # The model servers are those of before, and so is what an operator has said.
    assert servers(after) == servers(before)
    assert [len(cores) for *_, cores in servers(after)] == [1, 1]
    assert [row["admin"] for row in pool(after, "raw")["endpoints"]] == ["enabled", "drain"]
    assert after["changes"] == changes
    await call(eventually, lambda: "answers from before are in the cache" in daemon.log, "the cache")
    assert (await ask_once(port, samples[0])).cache == "tidegate; hit"
    stream.cancel()
    await channel.close()
    await socket.close()
    writer.close()
    kept.close()
    assert (await call(upgraded, daemon))["program"]["old_workers"] == []
    assert all(worker["state"] == "running" for worker in (await call(daemon.status))["workers"])

    # And once more, by the signal, within the version.
    os.kill(daemon.process.pid, signal.SIGUSR2)
    again = await call(upgraded, daemon, 2)
    assert servers(again) == servers(before)
    assert await call(daemon.stop) == 0
    assert not [line for line in daemon.log.splitlines() if "Traceback" in line]
    tcp.close()
    web.close()
    await calls.stop(None)


def pool(status: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in status["pools"] if row["name"] == name)


def servers(status: dict[str, Any]) -> list[tuple[Any, ...]]:
    rows = pool(status, "digits")["managed"]["replicas"]
    return [(row["pid"], row["address"], row["state"], tuple(row["cores"])) for row in rows]


@pytest.mark.parametrize("what", FAILURES)
def test_a_version_that_does_not_serve_gives_way_to_the_one_before(start: Start, tmp_path: Path, what: str) -> None:
    installed = Installed(tmp_path)
    tables = {"clients": {"key": "${client.address}", "store": ["requests"]}}
    config = {
        "tables": tables,
        "listeners": {"web": http_listener(route("/v2", "digits"), track="clients")},
        "pools": {"digits": digits_pool(min=1)},
    }
    manager = Manager(tmp_path)
    daemon = start(config, shell=f"{installed.shell} {manager.variables}")
    port, before = daemon.port(), daemon.status()
    assert asyncio.run(ask_once(port, digit_request(digit_samples()[0]["image"]))).status == 200
    path = installed.install()
    app = path / "cli" / "app.py"
    # In `run`, which the trial does not call.
    app.write_text(
        app.read_text().replace(
            "            return run_daemon(",
            f"{_indented(FAILING.replace('WHAT', FAILURES[what][0]))}            return run_daemon(",
        )
    )
    # The file has changed, too: what goes on is what ran.
    changed = {**config, "listeners": {"other": config["listeners"]["web"]}}
    daemon.write({**changed, "admin": {"bind": f"unix:{tmp_path}/other.sock"}})
    done = daemon.command("upgrade", "--admin", f"unix:{daemon.socket}")
    assert done.returncode == 1
    assert done.stderr == f"no upgrade, version 0.1.0 goes on: {FAILURES[what][1]}\n", daemon.log
    told = manager.told
    between = told[told.index("RELOADING=1") : len(told) - told[::-1].index("READY=1")]
    begun = 1 if what == "by another format" else 2  # which goes back before it speaks to the manager
    assert between.count("WATCHDOG=1") >= begun, "each program has the watchdog's whole time to begin"
    after = daemon.status()
    assert [row["name"] for row in after["listeners"]] == ["web"]
    assert daemon.port() == port
    assert (after["version"], after["program"]["path"]) == ("0.1.0", str(ROOT / "lb"))
    assert servers(after) == servers(before)
    assert asyncio.run(ask_once(port, digit_request(digit_samples()[0]["image"]))).status == 200
    (counted,) = json.loads(daemon.admin("/api/v1/tables?table=clients")[1])["entries"]
    assert counted["requests"] == 2
    if what == "by another format":  # the next upgrade is to what is installed by then
        daemon.write(config)
        installed.install("9.9.10")
        done = daemon.command("upgrade")
        assert done.returncode == 0, done.stderr
        assert daemon.status()["version"] == "9.9.10"
    assert daemon.stop() == 0


def _indented(text: str) -> str:
    return "".join(f"            {line}\n" if line else "\n" for line in text.splitlines())


def test_what_would_not_start_is_not_tried(start: Start, tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    daemon = start({"listeners": {"web": http_listener({"respond": {"status": 200}})}}, shell=installed.shell)
    before = daemon.status()
    right = daemon.path.read_text()
    daemon.path.write_text(right + "nonsense: 1\n")
    done = daemon.command("upgrade", "--admin", f"unix:{daemon.socket}")
    assert done.returncode == 1
    assert "nonsense" in done.stderr
    assert "warning" not in done.stderr, "that it has its own addresses is no reason"
    daemon.path.write_text(right)
    process = psutil.Process(daemon.process.pid)
    limits = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (60, limits[1]))
    done = daemon.command("upgrade")
    assert done.returncode == 1
    assert "descriptors, of 60: raise the limit" in done.stderr
    process.rlimit(psutil.RLIMIT_NOFILE, limits)
    path = installed.install()
    master = path / "control" / "master.py"
    source = master.read_text()
    master.write_text(f"{source}\nimport signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    done = daemon.command("upgrade")
    assert done.returncode == 1
    assert "would not start: signal SIGKILL, and it said no reason" in done.stderr
    master.write_text(source)
    (path / "proxy" / "routing" / "checks.py").unlink(missing_ok=True)
    for module in (path / "proxy").glob("proxy.*.so"):
        module.unlink()
    done = daemon.command("upgrade")
    assert done.returncode == 1
    assert "the installed program would not start" in done.stderr
    after = daemon.status()
    pids = [[worker["pid"] for worker in status["workers"]] for status in (before, after)]
    assert pids[0] == pids[1]
    assert after["program"]["last_upgrade"]["ok"] is False
    assert asyncio.run(ask_once(daemon.port(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
    assert daemon.reload()["ok"]
    assert daemon.stop() == 0


def test_signals_during_an_upgrade_end_nothing(start: Start, tmp_path: Path) -> None:
    """As of a reload by the service manager, of the rotation of logs, and of a second upgrade, at every moment."""
    installed = Installed(tmp_path)
    daemon = start({"listeners": {"web": http_listener({"respond": {"status": 200}})}}, shell=installed.shell)
    installed.install()
    master = daemon.process.pid
    os.kill(master, signal.SIGUSR2)
    end = time.monotonic() + 60
    while time.monotonic() < end and "upgraded from" not in daemon.log:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            assert alive(master), daemon.log
            os.kill(master, number)
        time.sleep(0.005)
    eventually(lambda: alive(master) and daemon.status()["version"] == NEXT, "the upgrade", 60)
    assert asyncio.run(ask_once(daemon.port(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
    assert daemon.stop() == 0


def test_each_signal_for_an_upgrade_is_told_what_became_of_it(start: Start, tmp_path: Path) -> None:
    """One during the trial is part of that upgrade; one that the new program finds waiting is done after."""
    installed = Installed(tmp_path)
    daemon = start({"listeners": {"web": http_listener({"respond": {"status": 200}})}}, shell=installed.shell)
    app = installed.install() / "cli" / "app.py"
    once = f"""
import os as _os
if "TIDEGATE_HANDOVER" in _os.environ and not _os.path.exists({str(tmp_path / "sent")!r}):
    open({str(tmp_path / "sent")!r}, "w").close()
    _os.kill(_os.getpid(), {int(signal.SIGUSR2)})
"""
    call = "            return run_daemon("
    app.write_text(app.read_text().replace(call, f"{_indented(once)}{call}"))
    master = psutil.Process(daemon.process.pid)
    master.send_signal(signal.SIGUSR2)

    def trial() -> bool:
        return any("--trial" in each.cmdline() for each in master.children())

    eventually(trial, "the trial", 30)
    master.send_signal(signal.SIGUSR2)
    upgraded(daemon, 2)
    lines = [line for line in daemon.log.splitlines() if "asked for by" in line]
    assert ["is part of" in line for line in lines] == [False, True, False], daemon.log
    assert daemon.log.count("and takes over") == daemon.log.count("upgraded from version") == 2, daemon.log
    assert daemon.stop() == 0


@pytest.mark.parametrize("when", ["before it takes over", "while it starts"])
async def test_a_stop_during_an_upgrade_ends_old_and_new(start: Start, tmp_path: Path, when: str) -> None:
    tcp = await asyncio.start_server(echo_tcp, "127.0.0.1", 0)
    config = {
        "jobs": {"path": str(tmp_path / "jobs.db")},
        "listeners": {
            "web": http_listener({**route("/", "web"), "jobs": True}),
            "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "raw"},
        },
        "pools": {
            "web": {"protocol": "http", "endpoints": ["127.0.0.1:9"]},
            "raw": {"protocol": "tcp", "endpoints": [f"127.0.0.1:{tcp.sockets[0].getsockname()[1]}"]},
        },
        "shutdown": {"drain_timeout": "1s"},
    }
    daemon = await asyncio.to_thread(start, config, shell=Installed(tmp_path).shell)
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port("raw"))
    writer.write(b"a")
    assert await reader.read(1) == b"a"
    workers, jobs = daemon.worker_pids(), daemon.status()["jobs"]["pid"]
    if when == "before it takes over":
        os.kill(jobs, signal.SIGSTOP)  # the master waits for its end
    os.kill(daemon.process.pid, signal.SIGUSR2)
    await asyncio.to_thread(eventually, lambda: "and takes over" in daemon.log, "the trial", 60)
    if when == "before it takes over":
        await asyncio.sleep(0.5)
        os.kill(daemon.process.pid, signal.SIGTERM)
        os.kill(jobs, signal.SIGCONT)
    else:
        process = psutil.Process(daemon.process.pid)
        await asyncio.to_thread(
            eventually, lambda: not process.cmdline()[0].startswith("tidegate: master"), "the new program", 30
        )
        os.kill(daemon.process.pid, signal.SIGTERM)
    assert await asyncio.to_thread(daemon.process.wait, 30) == 0, daemon.log
    assert not [pid for pid in workers if alive(pid)]
    assert "upgraded from" not in daemon.log
    writer.close()
    tcp.close()


def test_a_stop_during_a_trial_ends_the_trial(start: Start, tmp_path: Path) -> None:
    config = {"listeners": {"web": http_listener({"respond": {"status": 200}})}}
    daemon = start(config, shell=Installed(tmp_path).shell)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(daemon.command, "upgrade")
        master = psutil.Process(daemon.process.pid)

        def trial() -> psutil.Process | None:
            return next((each for each in master.children() if "--trial" in each.cmdline()), None)

        process = eventually(trial, "the trial", 30)
        process.suspend()
        began = time.monotonic()
        master.terminate()
        done = asked.result(30)
        assert daemon.process.wait(30) == 0, daemon.log
    assert time.monotonic() - began < 4, "the admin server waits for its answers"
    assert (done.returncode, done.stderr) == (1, "no upgrade, version 0.1.0 goes on: the daemon is stopping\n")
    assert not alive(process.pid)
    assert "takes over" not in daemon.log


async def test_sessions_of_old_workers_end_with_their_endpoint(start: Start, tmp_path: Path) -> None:
    """Those of two programs before: `on_marked_down` holds for as long as they last. One at a backup stays until
    an endpoint of the first priority is found up."""
    silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
    first = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    servers = [await asyncio.start_server(echo_tcp, "127.0.0.1", 0) for _ in range(2)]
    dying, staying = (f"127.0.0.1:{each.sockets[0].getsockname()[1]}" for each in servers)
    health = {"type": "tcp", "interval": "100ms", "fall": 1}
    pool: dict[str, Any] = {"protocol": "tcp", "health": health, "on_marked_down": "shutdown_sessions"}
    config = {
        "listeners": {
            name: {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": name}
            for name in ("ends", "maintained", "stays", "backup")
        },
        "pools": {
            "ends": {**pool, "endpoints": [dying]},
            "maintained": {**pool, "endpoints": [staying]},
            "stays": {**pool, "endpoints": [dying], "on_marked_down": "keep"},
            "backup": {
                **pool,
                "endpoints": [first, {"address": staying, "priority": 1}],
                "priorities": {"spill": "none"},
                "on_marked_up": "shutdown_backup_sessions",
                # Of a longer time than the new program waits for first checks.
                "health": {"type": "tcp", "steps": [{"send": "a"}, {"expect": "a"}], "timeout": "2500ms", "fall": 1},
            },
        },
    }
    call = asyncio.to_thread
    daemon = await call(start, config, shell=Installed(tmp_path).shell)
    ports = {name: daemon.port(name) for name in config["listeners"]}
    sessions: dict[str, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {name: [] for name in ports}

    def failed_over() -> bool:
        rows = {
            row["address"]: row
            for row in next(row for row in daemon.status()["pools"] if row["name"] == "backup")["endpoints"]
        }
        return bool(rows[first]["health"] == "down" and rows[staying]["health"] == "up")

    async def still_echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"a")
        assert await asyncio.wait_for(reader.read(1), 20) == b"a"

    for number in (1, 2):
        await call(eventually, failed_over, "the silent endpoint is down", 20)
        for name, port in ports.items():
            sessions[name].append(await asyncio.open_connection("127.0.0.1", port))
            await still_echoes(*sessions[name][-1])
        os.kill(daemon.process.pid, signal.SIGUSR2)

        def done(number: int = number) -> bool:
            return bool(daemon.status()["program"]["upgrades"] == number)

        await call(eventually, done, "the upgrade", 60)
    await call(eventually, failed_over, "the silent endpoint is down", 20)
    for name in ports:
        for each in sessions[name]:
            await still_echoes(*each)
    servers[0].close()
    await call(daemon.command, "maintenance", "maintained", staying)
    for name in ("ends", "maintained"):
        for reader, _ in sessions[name]:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), 20)
    for each in [*sessions["stays"], *sessions["backup"]]:
        await still_echoes(*each)
        each[1].close()
    servers[1].close()
    silent.close()
    assert await call(daemon.stop) == 0


@pytest.mark.parametrize("what", ["listener", "admin"])
def test_an_address_that_is_taken_refuses_the_upgrade(start: Start, tmp_path: Path, what: str) -> None:
    config: dict[str, Any] = {"listeners": {"web": http_listener({"respond": {"status": 200}})}}
    daemon = start(config, shell=Installed(tmp_path).shell)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        if what == "listener":
            daemon.write({"listeners": {**config["listeners"], "more": {**config["listeners"]["web"], "bind": taken}}})
        else:
            daemon.write({**config, "admin": {"bind": taken}})
        done = daemon.command("upgrade", "--admin", f"unix:{daemon.socket}")
    assert done.returncode == 1
    assert f"cannot listen on {taken}" in done.stderr
    status, workers = daemon.status(), daemon.worker_pids()
    assert status["program"]["upgrades"] == 0
    assert all(alive(pid) for pid in workers)
    assert asyncio.run(ask_once(daemon.port(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
    assert daemon.stop() == 0


async def test_an_upgrade_is_followed_to_another_admin_address_and_old_workers_have_their_time(
    start: Start, tmp_path: Path
) -> None:
    tcp = await asyncio.start_server(echo_tcp, "127.0.0.1", 0)
    config: dict[str, Any] = {
        "listeners": {"raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "raw"}},
        "pools": {"raw": {"protocol": "tcp", "endpoints": [f"127.0.0.1:{tcp.sockets[0].getsockname()[1]}"]}},
        "shutdown": {"old_workers_timeout": "1s"},
    }
    call = asyncio.to_thread
    daemon = await call(start, config, shell=Installed(tmp_path).shell)
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port("raw"))
    writer.write(b"a")
    assert await reader.read(1) == b"a"
    before, after = f"unix:{daemon.socket}", f"127.0.0.1:{free_port()}"
    daemon.write({**config, "admin": {"bind": after}})
    done = await call(daemon.command, "upgrade", "--admin", before)
    assert done.stdout.startswith("upgraded from version"), (done, daemon.log)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(1), 20) == b"", "the session is cut off"
    writer.close()
    tcp.close()
    # One that asks for a token from now on.
    token = tmp_path / "token"
    token.write_text("a" * 32)
    token.chmod(0o600)
    daemon.write({**config, "admin": {"bind": before, "token_file": str(token)}})
    done = await call(daemon.command, "upgrade", "--admin", after)
    assert done.returncode == 1
    assert "asks for a token, and none was sent" in done.stderr
    upgraded = await call(daemon.command, "status", "--json")
    assert json.loads(upgraded.stdout)["program"]["upgrades"] == 2
    assert await call(daemon.stop) == 0


async def test_datagrams_of_old_and_new_clients_are_answered(start: Start, tmp_path: Path) -> None:
    """Old workers have a session of another listener, and leave the datagrams to the new ones all the same."""
    tcp = await asyncio.start_server(echo_tcp, "127.0.0.1", 0)
    with echoes(b"a") as endpoints:
        config = {
            "listeners": {"echo": LISTENER, "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "raw"}},
            "pools": {
                "echo": {"protocol": "udp", "endpoints": [endpoints[0].address]},
                "raw": {"protocol": "tcp", "endpoints": [f"127.0.0.1:{tcp.sockets[0].getsockname()[1]}"]},
            },
        }
        call = asyncio.to_thread
        daemon = await call(start, config, shell=Installed(tmp_path).shell)
        port = await call(daemon.port, "echo")
        reader, writer = await asyncio.open_connection("127.0.0.1", await call(daemon.port, "raw"))
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        going, kept = Going(), [UdpClient(port) for _ in range(8)]

        async def ask_new() -> None:
            client = UdpClient(port)
            assert await client.ask(b"x", 5) == b"ax"
            client.close()

        for client in kept:

            async def ask_kept(client: UdpClient = client) -> None:
                assert await client.ask(b"x", 5) == b"ax"

            going.start(ask_kept, "a client of before")
        going.start(ask_new, "a new client")
        assert (await call(daemon.command, "upgrade")).returncode == 0
        await asyncio.sleep(2)  # longer than a session may be silent in a drain
        assert (await call(daemon.status))["program"]["old_workers"]
        await going.stop()
        assert going.failed == []
        writer.write(b"b")
        assert await reader.read(1) == b"b"
        writer.close()
        await call(upgraded, daemon)
        assert await call(daemon.stop) == 0
        for client in kept:
            client.close()
    tcp.close()


async def test_an_upgrade_loses_no_count_of_quotas_and_tables_and_no_canary(start: Start, tmp_path: Path) -> None:
    """Workers of before count on while they drain."""
    installed = Installed(tmp_path)
    counted = {"respond": {"body": "ok"}, "quota": "all"}
    table = {"key": "${client.address}", "size": 1000, "store": ["requests", "request_rate(1h)", "concurrent", "gpt0"]}
    last = {**table, "store": ["requests"]}
    canary = {**route("/canary", "old"), "name": "chat", "canary": {"pool": "new"}}
    config: dict[str, Any] = {
        "quotas": {"all": {"requests": 10_000_000, "per": "month", "key": {"all": True}}},
        "limits": {"quota_file": str(tmp_path / "quotas.sqlite")},
        "tables": {"kept": table, "another": table, "last": last},
        "listeners": {"web": http_listener(canary, counted, track=["kept", "another", "last"])},
        "pools": {name: {"protocol": "http", "endpoints": ["127.0.0.1:1"]} for name in ("old", "new")},
    }
    call = asyncio.to_thread
    daemon = await call(start, config, shell=installed.shell)
    port = await call(daemon.port)
    going = Going()

    async def ask() -> None:
        assert (await ask_once(port, request("GET", "/"))).status == 200

    for _ in range(4):
        going.start(ask, "a request")

    def counted_in(name: str) -> dict[str, Any]:
        (entry,) = json.loads(daemon.admin(f"/api/v1/tables?table={name}")[1])["entries"]
        return {key: entry[key] for key in ("requests", "request_rate", "concurrent", "gpt0") if key in entry}

    await call(daemon.command, "table", "set", "kept", "127.0.0.1", "gpt0=7")
    assert (await call(daemon.command, "canary", "abort", "chat")).returncode == 0
    history = json.loads(daemon.admin("/api/v1/canaries")[1])["canaries"][0]["history"]
    assert history[0]["reason"].startswith("abort by ")
    before = going.done
    await call(installed.install)
    # A table in front of it goes, and one is another: the others are elsewhere then.
    tables = {"kept": table, "another": {**table, "size": 2000, "store": ["requests"]}, "last": last}
    daemon.write({**config, "tables": {name: tables[name] for name in ("another", "last", "kept")}})
    assert (await call(daemon.command, "upgrade")).returncode == 0
    await call(upgraded, daemon)
    assert going.done > before
    await going.stop()
    assert going.failed == []

    def all_of_it() -> dict[str, Any]:
        return {"requests": going.done, "request_rate": going.done, "concurrent": 0, "gpt0": 7}

    await call(eventually, lambda: counted_in("kept") == all_of_it(), f"{all_of_it()}, not {counted_in('kept')}")
    assert counted_in("last") == {"requests": going.done}
    # A canary that was taken back stays so, without a folder for what lasts.
    (row,) = json.loads(daemon.admin("/api/v1/canaries")[1])["canaries"]
    assert (row["phase"], row["history"]) == ("aborted", history)
    assert 0 < counted_in("another")["requests"] < going.done - before / 2
    assert "tables.another: counts begin anew: its size was 1000, and is 2000" in daemon.log

    def used() -> int:
        (row,) = daemon.status()["quotas"]["quotas"]
        return int(row["used"])

    await call(eventually, lambda: used() == going.done, f"{going.done} requests in the count, not {used()}")
    assert await call(daemon.stop) == 0
