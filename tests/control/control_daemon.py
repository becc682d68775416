"""Starts the real master with stand-in workers as a process, and asks it things."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from children import ENVIRONMENT
from forked import Forked
from waiting import eventually

from lb.cli.admin import AdminClient

T = TypeVar("T")
STANDIN = Path(__file__).with_name("control_standin.py")
ROOT = STANDIN.parents[2]


def configuration(folder: Path, **sections: Any) -> dict[str, Any]:
    """One HTTP listener on a port of the kernel's choice, two workers; `sections` replace or add."""
    return {
        "workers": 2,
        "admin": {"bind": f"unix:{folder}/admin.sock"},
        "listeners": {"web": listener("127.0.0.1:0")},
        "pools": {"up": {"protocol": "http", "endpoints": ["127.0.0.1:9"]}},
        **sections,
    }


def listener(bind: str, pool: str = "up") -> dict[str, Any]:
    return {"bind": bind, "protocol": "http", "routes": [{"match": {"path": {"prefix": "/"}}, "pool": pool}]}


class Daemon:
    """A running master; `write` changes its configuration file."""

    def __init__(self, folder: Path, config: dict[str, Any] | str, **popen: Any) -> None:
        self.folder = folder
        self.path = folder / "tidegate.yaml"
        self.log_path = folder / "stderr.log"
        self.write(config)
        environment = {**os.environ, "PYTHONPATH": ENVIRONMENT["PYTHONPATH"], **popen.pop("env", {})}
        arguments = [str(STANDIN), "run", str(self.path)]
        self.process: subprocess.Popen[bytes] | Forked
        with open(self.log_path, "ab") as stderr:
            if popen:
                command: Sequence[str] = popen.pop("command", (sys.executable, *arguments))
                self.process = subprocess.Popen(command, stderr=stderr, env=environment, cwd=folder, **popen)
            else:
                self.process = Forked(arguments, stderr=stderr, env=environment, cwd=folder)
        self.client = AdminClient(f"unix:{folder}/admin.sock")

    def write(self, config: dict[str, Any] | str) -> None:
        self.path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_serving(self) -> None:
        eventually(lambda: "serving:" in self.log or self.process.poll() is not None, "serving")
        assert self.process.poll() is None, self.log

    def address(self, name: str = "web") -> str:
        found = re.findall(rf"serving:.*?\b{name} on (\S+?)(?:[,;]|$)", self.log, re.MULTILINE)
        return str(found[-1])

    def status(self) -> dict[str, Any]:
        return self.client.status()

    def workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self.status()["workers"]
        return workers

    def get(self, path: str = "/", address: str | None = None) -> dict[str, Any]:
        with contextlib.closing(self.connect(address)) as connection:
            return ask(connection, path)

    def connect(self, address: str | None = None) -> http.client.HTTPConnection:
        host, _, port = (address or self.address()).rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.connect()
        return connection

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_exit(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)


def ask(connection: http.client.HTTPConnection, path: str = "/") -> dict[str, Any]:
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200
    answer: dict[str, Any] = json.loads(response.read())
    return answer


@contextlib.contextmanager
def daemon(folder: Path, config: dict[str, Any] | str | None = None, **popen: Any) -> Iterator[Daemon]:
    """A daemon that serves; whatever the test did, none of its processes is left behind."""
    running = Daemon(folder, configuration(folder) if config is None else config, start_new_session=True, **popen)
    try:
        running.wait_serving()
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
