"""Servers of other makers under the supervisor: real processes, which fork, linger and ignore signals."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop
from machine import machine
from test_supervisor import QUICK, Pool, running, supervised
from waiting import until

from lb.config.schema.file import ServeConfig
from lb.control.servers.launcher import Launcher, ServerProcess
from lb.control.servers.watcher import Specification

SERVER = str(Path(__file__).with_name("any_server.py"))
COMMAND = [sys.executable, SERVER, "{address}"]

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning")


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy()


def ask(address: str, path: str = "/") -> dict[str, Any]:
    """What the server at `address` says of itself."""
    unix = address.startswith("unix:")
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as sock:
        host, _, port = address.rpartition(":")
        sock.connect(address.removeprefix("unix:") if unix else (host, int(port)))
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while piece := sock.recv(65536):
            data += piece
    found: dict[str, Any] = json.loads(data.partition(b"\r\n\r\n")[2])
    return found


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_placeholders_are_what_the_server_gets(tmp_path: Path) -> None:
    said = '{port} {host} {index} {pool} {port:metrics} {port:metrics} {unknown} {"a": 1}'
    command = [*COMMAND, "--say", said]
    async with running(tmp_path, command=command, env={"GIVEN": "{port:metrics}"}, min=2) as pool:
        await pool.ready(2)
        for index, address in enumerate(pool.addresses()):
            got = await asyncio.to_thread(ask, address)
            port, metrics = address.rpartition(":")[2], got["GIVEN"]
            assert got["arguments"][0] == address == got["TIDEGATE_ADDRESS"]
            assert (got["PORT"], got["TIDEGATE_INDEX"]) == (port, str(index))
            expected = f"{port} 127.0.0.1 {index} digits {metrics} {metrics} {{unknown}} {{"
            assert got["arguments"][2] == expected + '"a": 1}'
            assert metrics not in ("", port)
            assert got["PYTHONPATH"] == os.environ.get("PYTHONPATH")  # ours is none of its business
        assert len(set(pool.addresses())) == 2


async def test_a_unix_socket(tmp_path: Path) -> None:
    async with running(tmp_path, command=[sys.executable, SERVER, "unix:{socket}"]) as pool:
        await pool.ready(1)
        assert pool.addresses()[0].startswith(f"unix:{pool.folder}/")
        said = await asyncio.to_thread(ask, pool.addresses()[0])
        assert said["PORT"] is None
        os.kill(said["pid"], signal.SIGKILL)
        await until(lambda: pool.addresses() not in ([], [said["TIDEGATE_ADDRESS"]]))


async def test_it_is_ready_when_its_check_says_so(tmp_path: Path) -> None:
    late = tmp_path / "late"
    async with running(
        tmp_path, command=[*COMMAND, "--mode", "late"], ready="/health", env={"LATE": str(late)}
    ) as pool:
        await until(lambda: any(pool.supervisor.replicas()) and pool.supervisor.replicas()[0].pid)
        await asyncio.sleep(0.5)
        assert pool.states() == ["starting"]
        late.touch()
        await pool.ready(1)


async def test_another_port_can_be_asked(tmp_path: Path) -> None:
    words = [sys.executable, SERVER, "{host}:{port:http}"]
    async with running(tmp_path, command=words, ready={"type": "http", "path": "/health", "port": "http"}) as pool:
        await pool.ready(1)
        with pytest.raises(ConnectionRefusedError):
            ask(pool.addresses()[0])


async def test_ports_of_a_range_are_given_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        first = taken.getsockname()[1]
        async with running(tmp_path, command=COMMAND, min=3, port=f"{first}-{first + 20}") as pool:
            await pool.ready(3)
            ports = [int(address.rpartition(":")[2]) for address in pool.addresses()]
            assert len(set(ports)) == 3
            assert all(first < port <= first + 20 for port in ports)


async def test_a_range_without_a_free_port_says_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with running(tmp_path, command=COMMAND, port=port) as pool:
            await until(lambda: pool.supervisor.replicas()[0].last_error)
            assert pool.supervisor.replicas()[0].last_error == f"no port of {port}-{port} is free"


@pytest.mark.parametrize("mode", ["forks", "daemon"])
async def test_nothing_of_a_server_outlives_it(tmp_path: Path, mode: str) -> None:
    """A child, and one in a session of its own whose parent has ended; both ignore SIGTERM."""
    children = tmp_path / "children"
    command = [*COMMAND, "--mode", mode]
    async with running(tmp_path, command=command, env={"CHILDREN": str(children)}) as pool:
        await until(children.exists)
        await until(children.read_text)
        await pool.ready(1)
        (first,) = map(int, children.read_text().split())
        (replica,) = pool.supervisor.replicas()
        assert is_running(first)
        assert replica.pid
        os.kill(replica.pid, signal.SIGKILL)
        await until(lambda: not is_running(first))
        await until(lambda: len(children.read_text().split()) == 2)
        await pool.ready(1)
        last = int(children.read_text().split()[1])
    assert not is_running(last)


async def test_a_stubborn_server_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, command=[*COMMAND, "--mode", "stubborn"], drain_timeout="100ms") as pool:
        await pool.ready(1)
    assert "does not stop, killed" in caplog.text


async def test_its_last_words_are_in_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate.supervisor")
    async with running(tmp_path, command=[*COMMAND, "--mode", "crash"], crash_loop={"restarts": 2}) as pool:
        await until(lambda: pool.states() == ["crash_loop"])
        (replica,) = pool.supervisor.replicas()
        assert replica.last_error == "exit code 3: RuntimeError: out of memory"
        assert sorted(replica.output) == ["RuntimeError: out of memory", "loading the model", "reading weights"]
        assert "digits/0: RuntimeError: out of memory" in caplog.text


async def test_a_server_that_goes_into_the_background_is_told_why_it_may_not(tmp_path: Path) -> None:
    background = ["sh", "-c", f"{' '.join(COMMAND)} & echo begun"]
    async with running(tmp_path, command=background) as pool:
        await until(lambda: pool.supervisor.replicas()[0].last_error)
        told = pool.supervisor.replicas()[0].last_error
        assert told == "exit code 0: begun; it ended before it was ready, and has to stay in the foreground"


@pytest.mark.parametrize("victim", ["watcher", "launcher"])
async def test_the_death_of_a_watcher_or_launcher_leaves_no_orphan(tmp_path: Path, victim: str) -> None:
    children = tmp_path / "children"
    command = [*COMMAND, "--mode", "daemon", "--mode", "stubborn"]
    given = {"CHILDREN": str(children)}
    async with running(tmp_path, command=command, env=given, drain_timeout="100ms") as pool:
        await pool.ready(1)
        await until(lambda: children.exists() and children.read_text())
        (replica,) = pool.supervisor.replicas()
        assert replica.pid
        watcher = psutil.Process(replica.pid).parent()
        assert watcher is not None
        launcher = watcher.parent()
        assert launcher is not None
        if victim == "watcher":
            watcher.kill()
            (child,) = map(int, children.read_text().split())
            await until(lambda: not is_running(replica.pid) and not is_running(child))
            await until(lambda: pool.supervisor.restarts == 1)
            await pool.ready(1)
        else:
            launcher.kill()
            launcher.wait(10)
            # Servers go on without it, and the next one is started by another.
            assert pool.states() == ["ready"]
            pool.supervisor.scale_to(2)
            await pool.ready(2)
            assert (await asyncio.to_thread(ask, pool.addresses()[0]))["pid"] == replica.pid


async def test_gpus_and_cores_are_given_once_and_shown(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    with machine(gpus=["GPU-a", "GPU-b"], cores=cores) as around:
        pool = Pool(tmp_path, around, command=COMMAND, min=3, gpus=1, cores=1)
        async with supervised(pool):
            await until(lambda: sorted(pool.states()) == ["ready", "ready", "waiting"])
            placed = [r for r in pool.supervisor.replicas() if r.state == "ready"]
            assert sorted(r.gpus for r in placed) == [("GPU-a",), ("GPU-b",)]
            for replica in placed:
                said = await asyncio.to_thread(ask, replica.address or "")
                assert said["CUDA_VISIBLE_DEVICES"] == replica.gpus[0]
                assert tuple(said["cores"]) == replica.cores
            (waiting,) = [r for r in pool.supervisor.replicas() if r.state == "waiting"]
            wanted = f"waits for 1 of 2 GPUs, of which 2 are taken and 1 of {len(cores)} cores, of which 2 are taken"
            assert waiting.last_error == wanted
            assert (waiting.pid, waiting.gpus) == (None, ())
            # Whoever waits gets the place of one that ends.
            assert placed[0].pid
            os.kill(placed[0].pid, signal.SIGKILL)
            await until(lambda: pool.supervisor.replicas()[waiting.index].state == "ready")
            assert pool.supervisor.replicas()[waiting.index].gpus == placed[0].gpus


async def test_a_crash_loop_takes_no_place_of_others(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with machine(gpus=["0"]) as around:
        broken = Pool(tmp_path / "a", around, command=[*COMMAND, "--mode", "crash"], gpus=1)
        well = Pool(tmp_path / "b", around, command=COMMAND, gpus=1)
        async with supervised(broken), supervised(well):
            await well.ready(1)
            await until(lambda: broken.states() == ["waiting"])
            (replica,) = broken.supervisor.replicas()
            assert replica.last_error.startswith("waits for 1 of 1 GPUs, of which 1 are taken")
            assert well.supervisor.restarts == 0


async def test_a_server_that_stands_by_takes_over_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, command=COMMAND, min=1, max=3, standby=1) as pool:
        await until(lambda: sorted(pool.states()) == ["ready", "standby"])
        assert len(pool.addresses()) == 1
        pool.log.clear()
        pool.supervisor.scale_to(2)
        # Without waiting: it was ready.
        assert len(pool.addresses()) == 2
        assert pool.log == [("change", pool.addresses())]
        await until(lambda: sorted(pool.states()) == ["ready", "ready", "standby"])
        failing = pool.supervisor.replicas()[0]
        assert failing.pid
        os.kill(failing.pid, signal.SIGKILL)
        await until(lambda: ("exit", failing.address, [pool.addresses()[0]]) in pool.log or pool.supervisor.restarts)
        assert len(pool.addresses()) == 2
        assert failing.address not in pool.addresses()
        await until(lambda: sorted(pool.states()) == ["ready", "ready", "standby"])
        before = pool.addresses()
        pool.supervisor.scale_to(1)
        assert len(pool.addresses()) == 1
        assert set(pool.addresses()) < set(before)
        await until(lambda: sorted(pool.states()) == ["ready", "standby"])
        pool.supervisor.scale_to(1, standby=0)
        await pool.ready(1)


async def test_new_settings_replace_servers_one_at_a_time_where_room_is_short(tmp_path: Path) -> None:
    with machine(gpus=["0", "1"]) as around:
        pool = Pool(tmp_path, around, command=COMMAND, min=2, gpus=1)
        async with supervised(pool):
            await pool.ready(2)
            before = pool.addresses()
            fewest, most = [2], [2]

            def rolled() -> bool:
                states = pool.states()
                fewest.append(len(pool.addresses()))
                most.append(sum(r.pid is not None for r in pool.supervisor.replicas()))
                return states == ["ready"] * 2 and not pool.supervisor.rolling

            pool.supervisor.roll_to(ServeConfig(command=COMMAND, min=2, gpus=1, env={"GIVEN": "new"}, **QUICK))
            await until(rolled)
            assert (min(fewest), max(most)) == (1, 2)
            assert not set(before) & set(pool.addresses())
            for address in pool.addresses():
                assert (await asyncio.to_thread(ask, address))["GIVEN"] == "new"


async def test_the_last_server_is_not_taken_away_for_new_settings(tmp_path: Path) -> None:
    with machine(gpus=["0"]) as around:
        pool = Pool(tmp_path, around, command=COMMAND, gpus=1)
        async with supervised(pool):
            await pool.ready(1)
            pool.supervisor.roll_to(ServeConfig(command=COMMAND, gpus=1, env={"GIVEN": "new"}, **QUICK))
            await until(lambda: pool.states() == ["ready", "waiting"])
            assert pool.supervisor.replicas()[1].last_error == "waits for 1 of 1 GPUs, of which 1 are taken"
            pool.supervisor.roll_to(ServeConfig(command=COMMAND, gpus=1, **QUICK))
            await until(lambda: pool.states() == ["ready"])
            assert pool.supervisor.restarts == 0


@pytest.mark.parametrize("threads", ["", "1"])
async def test_a_copy_of_the_launcher_is_made_only_while_it_has_one_thread(
    monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("WARM_THREAD", threads)
    launcher, lines, ends = Launcher("warm_module"), [], []
    command = [sys.executable, "-c", "print('the command'); raise SystemExit(5)"]
    wanted = Specification(command, {"OF_THE_COPY": "yes"}, [], ["serve", "x"])
    ServerProcess(launcher, wanted, lambda _: None, lines.append, lambda *end: ends.append(end))
    await until(lambda: ends)
    copied = (["a copy, ['serve', 'x'], yes, None"], [(7, "")])
    assert (lines, ends) == ((["the command"], [(5, "")]) if threads else copied)
    launcher.close()


async def test_a_module_that_cannot_be_loaded_is_not_needed() -> None:
    launcher, ends = Launcher("no.such.module"), []
    wanted = Specification([sys.executable, "-c", "raise SystemExit(5)"], {}, [], ["serve"])
    ServerProcess(launcher, wanted, lambda _: None, lambda _: None, lambda *end: ends.append(end))
    await until(lambda: ends)
    assert ends == [(5, "")]
    launcher.close()
