"""A start that cannot succeed: one clear line, status 1, and whoever runs already goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from daemon import COMMAND, ROOT, Daemon, digits_pool, environment, eventually, http_listener, route
from traffic import ask_once, request

Start = Callable[..., Daemon]
GET = request("GET", "/")


def config(address: str, bind: str = "127.0.0.1:0") -> dict[str, Any]:
    return {
        "workers": 1,
        "listeners": {"web": http_listener(route("/", "all"), bind=bind)},
        "pools": {"all": {"protocol": "http", "endpoints": [address]}},
    }


def try_to_run(path: Path, *command: str, status: int = 1) -> str:
    """What a start that fails says, which exits with `status`."""
    arguments = command or ("run",)
    done = subprocess.run(
        [*COMMAND, *arguments, "-c", str(path)],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == status, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def told(stderr: str) -> str:
    """The one line that is not a log line of another level."""
    lines = [line for line in stderr.splitlines() if line]
    assert len(lines) == 1, stderr
    return lines[0]


async def test_a_taken_port(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one = await endpoint("a")
    daemon = start(config(one.address))
    port = daemon.port()
    pids = daemon.worker_pids()
    second = tmp_path / "second.yaml"
    description = config(one.address, f"127.0.0.1:{port}")
    description["admin"] = {"bind": f"unix:{tmp_path}/second.sock"}
    second.write_text(yaml.safe_dump(description))
    line = told(await asyncio.to_thread(try_to_run, second))
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line
    # The admin address, too, is somebody's.
    description = config(one.address)
    description["admin"] = {"bind": f"unix:{daemon.socket}"}
    second.write_text(yaml.safe_dump(description))
    assert daemon.socket in await asyncio.to_thread(try_to_run, second)
    assert daemon.process.poll() is None
    assert daemon.worker_pids() == pids
    assert (await ask_once(port, GET)).body == b"a"


COMMANDS = pytest.mark.parametrize(("command", "status"), [("run", os.EX_CONFIG), ("check", 1)])


@COMMANDS
def test_files_that_cannot_be_read(tmp_path: Path, command: str, status: int) -> None:
    missing = tmp_path / "missing.yaml"
    assert str(missing) in told(try_to_run(missing, command, status=status))
    assert str(tmp_path) in told(try_to_run(tmp_path, command, status=status))


@COMMANDS
def test_a_bad_configuration_is_told_line_by_line(tmp_path: Path, command: str, status: int) -> None:
    path = tmp_path / "bad.yaml"
    description = config("127.0.0.1:9")
    description["pools"]["all"]["protocol"] = "smtp"
    description["surprise"] = 1
    path.write_text(yaml.safe_dump(description))
    lines = try_to_run(path, command, status=status).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{path}:") for line in lines)
    assert any("pools.all.protocol" in line for line in lines)
    assert any("surprise" in line for line in lines)


def test_an_access_log_that_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.yaml"
    log = tmp_path / "log"
    log.mkdir()
    description = {**config("127.0.0.1:9"), "log": {"access": str(log)}, "admin": {"bind": f"unix:{tmp_path}/a.sock"}}
    path.write_text(yaml.safe_dump(description))
    assert str(log) in try_to_run(path, status=os.EX_CONFIG)


async def test_all_descriptors_that_the_hard_limit_allows(start: Start, endpoint: Callable[..., Any]) -> None:
    one = await endpoint("a")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    daemon = start(config(one.address), shell=f"ulimit -S -n {min(hard - 1, 512)}")
    for pid in (daemon.process.pid, *daemon.worker_pids()):
        assert psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_closed_standard_descriptors(closed: str, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one = await endpoint("a")
    path, front = tmp_path / "t.yaml", tmp_path / "front.sock"
    admin = {"bind": f"unix:{tmp_path}/admin.sock"}
    path.write_text(yaml.safe_dump({**config(one.address, f"unix:{front}"), "admin": admin}))
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "run", "-c", str(path)]
    process = subprocess.Popen(shell, env=environment(), cwd=tmp_path)

    async def answered() -> bytes:
        for _ in range(300):
            try:
                reader, writer = await asyncio.open_unix_connection(front)
            except OSError:
                assert process.poll() is None
                await asyncio.sleep(0.1)
                continue
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer
        raise AssertionError("nobody listens")

    try:
        assert (await answered()).startswith(b"HTTP/1.1 200 ")
        assert all(os.readlink(f"/proc/{process.pid}/fd/{number}").startswith("/") for number in range(3))
    finally:
        process.terminate()
    assert process.wait(30) == 0


def test_hangups_do_not_end_a_master_that_stops(start: Start) -> None:
    daemon = start({"listeners": {"web": http_listener({"respond": {"status": 200}})}})
    daemon.process.terminate()
    while daemon.process.returncode is None:
        daemon.process.send_signal(signal.SIGHUP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.process.wait(0.001)  # the moment in which one could is short
    assert daemon.process.returncode == 0


# What each kind of process imports before it has said what becomes of signals.
EARLY = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("lb.cli.run", "lb.control.workers.adoption", "backend.options"):
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(os.getpid(), number)

sys.meta_path.insert(0, Finder())
"""
TALK = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def ignores(pid: int) -> bool:
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return all(int(status["SigIgn"], 16) >> (number - 1) & 1 for number in TALK)


def test_signals_for_the_master_end_no_process_and_are_not_lost(start: Start, tmp_path: Path) -> None:
    """Sent while each is starting, and to all of them, as `systemctl kill` does."""
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    config = {
        "listeners": {"web": http_listener(route("/", "digits"))},
        "pools": {"digits": digits_pool(min=1)},
        "log": {"access": str(tmp_path / "access.log")},
    }
    daemon = start(config, shell=f'export PYTHONPATH="{tmp_path}:$PYTHONPATH"')
    eventually(lambda: daemon.status()["reloads"] == {"ok": 1, "failed": 0}, "the reload that was asked for first")
    assert daemon.log.count("the access log was opened anew") == 1

    def processes() -> list[tuple[int, int]]:
        status = daemon.status()
        rows = [*status["workers"], *status["pools"][0]["managed"]["replicas"]]
        return [(row["pid"], row["restarts"]) for row in rows]

    eventually(lambda: all(pid for pid, _ in processes()), "all processes")
    before = processes()
    assert [restarts for _, restarts in before] == [0, 0, 0]
    eventually(lambda: all(ignores(pid) for pid, _ in before), "they do not ignore the signals")
    for pid in (*(pid for pid, _ in before), daemon.process.pid):
        for number in TALK:
            if (pid, number) != (daemon.process.pid, signal.SIGUSR2):  # which upgrades it: test_e2e_upgrade.py
                os.kill(pid, number)
    eventually(lambda: daemon.status()["reloads"] == {"ok": 2, "failed": 0}, "the reload")
    eventually(lambda: daemon.log.count("the access log was opened anew") == 2, "the new log")
    assert processes() == before


async def test_ipv4_addresses_mapped_into_ipv6(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    """Wherever an address stands: `check` takes what `run` can bind and connect to."""
    app = await endpoint("a")
    mapped = f"[::ffff:127.0.0.1]:{app.address.rpartition(':')[2]}"
    config = {
        "workers": 1,
        "admin": {"bind": "[::ffff:127.0.0.1]:0"},
        "listeners": {
            "web": http_listener(
                {"match": {"source": ["::ffff:127.0.0.0/104"]}, "pool": "all"}, bind="[::ffff:127.0.0.1]:0"
            ),
            "raw": {"bind": "[::ffff:0.0.0.0]:0", "protocol": "tcp", "pool": "raw"},
            "datagrams": {"bind": "[::ffff:127.0.0.1]:0", "protocol": "udp", "pool": "datagrams"},
        },
        "pools": {
            "all": {"protocol": "http", "endpoints": [mapped]},
            "raw": {"protocol": "tcp", "endpoints": [mapped]},
            "datagrams": {"protocol": "udp", "endpoints": [mapped]},
        },
    }
    daemon = start(config, ready=False)
    lines = eventually(lambda: line if "serving" in (line := daemon.log) else None, "the listeners")
    ports = {name: int(port) for name, port in re.findall(r"(web|raw) on (?:127.0.0.1|0.0.0.0):(\d+)", lines)}
    assert "admin on 127.0.0.1:" in lines
    for name in ("web", "raw"):
        assert (await ask_once(ports[name], GET)).status == 200
    config["listeners"] = {"web": http_listener(route("/", "all"), bind="[fe80::1]:0")}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    said = try_to_run(tmp_path / "bad.yaml", "check")
    assert "link-local address, which needs its interface; write [fe80::1%eth0]:0" in said
