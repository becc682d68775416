"""systemd: what we tell it, what we take from it, and the units."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from children import ENVIRONMENT
from control_daemon import ROOT, STANDIN, Daemon, configuration, daemon, eventually, listener
from ports import free_port

from lb.control.systemd import Notifier, Passed, take_descriptors

UNITS = ROOT / "systemd"


class NotifySocket:
    """The service manager's end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self._socket.settimeout(30)

    def receive(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self._socket.recv(65536).decode().split("\n"))

    def wait(self, key: str) -> dict[str, str]:
        while True:
            message = self.receive()
            if key in message:
                return message

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[NotifySocket]:
    listening = NotifySocket(str(tmp_path / "notify"))
    yield listening
    listening.close()


def test_messages(manager: NotifySocket) -> None:
    before = time.monotonic_ns() // 1000
    notifier = Notifier(manager.path)
    notifier.ready("two\nlines")
    assert manager.receive() == {"READY": "1", "STATUS": "two lines"}
    notifier.reloading()
    message = manager.receive()
    assert message["RELOADING"] == "1"
    assert before <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    notifier.stopping("bye")
    assert manager.receive() == {"STOPPING": "1", "STATUS": "bye"}
    notifier.watchdog()
    assert manager.receive() == {"WATCHDOG": "1"}
    notifier.close()
    notifier.watchdog()


def test_an_abstract_socket() -> None:
    manager = NotifySocket(f"@tidegate-test-{os.getpid()}")
    notifier = Notifier(manager.path)
    notifier.status("x")
    notifier.status("x")
    notifier.status("y")
    assert manager.receive() == {"STATUS": "x"}
    assert manager.receive() == {"STATUS": "y"}
    notifier.close()
    manager.close()


def test_a_manager_that_is_gone_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(str(tmp_path / "none"))
    notifier.ready("x")
    notifier.close()
    assert "was not told READY=1" in caplog.text
    Notifier("").ready("nobody asked")


def test_the_environment_is_taken_and_the_watchdog_is_for_this_process_only() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "OTHER": "1"}
    notifier = Notifier.from_environment(environ)
    notifier.close()
    assert notifier.watchdog_usec == 3_000_000
    assert environ == {"OTHER": "1"}
    assert Notifier.from_environment({"WATCHDOG_USEC": "3", "WATCHDOG_PID": "1"}).watchdog_usec == 0


def test_sockets_for_another_process_are_left_alone() -> None:
    environ = {"LISTEN_FDS": "2", "LISTEN_PID": "1", "LISTEN_FDNAMES": "a:b"}
    assert take_descriptors(environ) == Passed()
    assert environ == {}
    assert take_descriptors({}) == Passed()


def test_the_sequence_of_start_reload_and_stop(tmp_path: Path, manager: NotifySocket) -> None:
    with daemon(tmp_path, env={"NOTIFY_SOCKET": manager.path}) as running:
        ready = manager.receive()
        assert ready["READY"] == "1"
        assert ready["STATUS"] == "2 of 2 workers, plan 1"
        running.signal(signal.SIGHUP)
        assert manager.receive()["RELOADING"] == "1"
        assert manager.receive() == {"READY": "1", "STATUS": "2 of 2 workers, plan 2"}
        running.write("nonsense: 1")
        running.signal(signal.SIGHUP)
        assert manager.receive()["RELOADING"] == "1"
        failed = manager.receive()
        assert failed["READY"] == "1"
        assert "plan 2; the last reload failed: " in failed["STATUS"]
        running.signal(signal.SIGTERM)
        assert manager.receive()["STOPPING"] == "1"
        assert running.wait_exit() == 0


def test_the_watchdog_is_fed(tmp_path: Path, manager: NotifySocket) -> None:
    env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"}
    with daemon(tmp_path, configuration(tmp_path, workers=1), env=env) as running:
        assert "READY" in manager.receive()
        for _ in range(5):
            assert manager.receive() == {"WATCHDOG": "1"}
        worker = Path(f"/proc/{running.workers()[0]['pid']}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in worker
        assert b"WATCHDOG" not in worker


def test_socket_activation(tmp_path: Path) -> None:
    bind, unused = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    config = configuration(tmp_path, listeners={"web": listener(bind), "own": listener("127.0.0.1:0")})
    command = ["systemd-socket-activate", "-l", bind, "-l", unused, f"-EPYTHONPATH={ENVIRONMENT['PYTHONPATH']}", "--"]
    path = tmp_path / "tidegate.yaml"
    running = Daemon(
        tmp_path, config, command=[*command, sys.executable, str(STANDIN), "run", str(path)], start_new_session=True
    )
    try:
        eventually(lambda: running.connect(bind), "systemd listens").close()
        running.wait_serving()
        assert running.get(address=bind)["listener"] == "web"
        status = {li["name"]: li["inherited"] for li in running.status()["listeners"]}
        assert status == {"web": True, "own": False}
        assert f"no listener uses the socket {unused}" in running.log
        worker = running.workers()[0]["pid"]
        environment = Path(f"/proc/{worker}/environ").read_bytes()
        assert b"LISTEN_FDS" not in environment
        # Given up and claimed again: the socket is still the manager's.
        running.write({**config, "listeners": {"own": config["listeners"]["own"]}})
        assert running.client.reload()["ok"]
        running.write(config)
        assert running.client.reload()["ok"]
        assert running.get(address=bind)["listener"] == "web"
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0
    finally:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that is there."""
    folder = tmp_path / "units"
    shutil.copytree(UNITS, folder)
    service = folder / "tidegate.service"
    service.write_text(service.read_text().replace("/opt/tidegate/bin/tidegate", "/bin/true"))
    return folder


@pytest.mark.parametrize("unit", ["tidegate.service", "tidegate.socket"])
def test_the_units_are_valid(units: Path, unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(units / unit)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_is_hardened(units: Path) -> None:
    """An exposure of 2.0 or less, on systemd's scale from 0 (safe) to 10."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager"]
    done = subprocess.run([*command, str(units / "tidegate.service")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:]


def test_the_service_is_not_restarted_for_a_wrong_configuration(units: Path, tmp_path: Path) -> None:
    """What systemd does not restart is what a daemon with a wrong configuration or command line exits with."""
    found = re.search(r"^RestartPreventExitStatus=(.*)$", (units / "tidegate.service").read_text(), re.MULTILINE)
    assert found is not None
    final = {int(status) for status in found[1].split()}
    for text in ("pools: {}\nnonsense: 1\n", "listeners: [\n", None):
        path = tmp_path / "bad.yaml"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "lb.cli", "run", "-c", str(path)], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == os.EX_CONFIG
        assert done.stderr.startswith(f"{path}:")
        assert done.returncode in final
    usage = subprocess.run([sys.executable, "-m", "lb.cli", "run", "--fly"], capture_output=True, cwd=ROOT)
    assert usage.returncode in final
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        path.write_text(yaml.safe_dump(configuration(tmp_path, listeners={"web": listener(bind)})))
        busy = subprocess.run([sys.executable, "-m", "lb.cli", "run", "-c", str(path)], capture_output=True, cwd=ROOT)
    assert busy.returncode == 1
    assert busy.returncode not in final


def test_children_do_not_have_what_the_service_manager_says_to_the_master(tmp_path: Path) -> None:
    """A fork server of the real command is started before the master reads it."""
    path = tmp_path / "tidegate.yaml"
    path.write_text(yaml.safe_dump(configuration(tmp_path)))
    manager = NotifySocket(str(tmp_path / "notify"))
    said = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "30000000", "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    command = (sys.executable, "-m", "lb.cli", "run", "-c", str(path))
    running = Daemon(tmp_path, configuration(tmp_path), command=command, env=said, start_new_session=True)
    try:
        manager.wait("READY")
        family = psutil.Process(running.process.pid).children(recursive=True)
        assert len(family) == 3
        assert not any(process.environ().keys() & said.keys() for process in family)
        running.signal(signal.SIGTERM)
        assert running.wait_exit() == 0
    finally:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
