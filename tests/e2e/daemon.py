"""The real daemon: `python -m lb.cli run` with a generated configuration, and everything it started, ended at last."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import forked
import psutil
import yaml
from forked import Forked
from waiting import eventually

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
COMMAND = (sys.executable, "-m", "lb.cli")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


class Daemon:
    """A running daemon. `config` has no `admin` section: that is a socket in `folder`. `port` is of a listener.

    `shell` is what a shell does in the daemon's process before it becomes the daemon; without it the daemon is forked
    from a process that has loaded what it needs (tests/forked.py).
    """

    def __init__(self, folder: Path, config: dict[str, Any], shell: str = "") -> None:
        self.folder = folder
        self.path = folder / "tidegate.yaml"
        self.log_path = folder / "stderr.log"
        self.socket = f"{folder}/admin.sock"
        self.write(config)
        arguments = ["run", "-c", str(self.path)]
        self.process: subprocess.Popen[bytes] | Forked
        with open(self.log_path, "ab") as log:
            if shell:
                command = ["sh", "-c", f'{shell} && exec "$@"', "sh", *COMMAND, *arguments]
                self.process = subprocess.Popen(
                    command, stdout=log, stderr=log, env=environment(), cwd=folder, start_new_session=True
                )
            else:
                self.process = Forked(
                    arguments, stdout=log, stderr=log, env=environment(), cwd=folder, start_new_session=True
                )

    def write(self, config: dict[str, Any]) -> None:
        complete = {"workers": 2, "admin": {"bind": f"unix:{self.socket}"}, **config}
        self.path.write_text(yaml.safe_dump(complete))

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_ready(self) -> Daemon:
        def ready() -> bool:
            if self.process.poll() is not None:  # no use in waiting
                raise RuntimeError(f"the daemon ended with {self.process.returncode}: {self.log}")
            return self.admin("/readyz")[0] == 200

        eventually(ready, "readiness", 90)
        return self

    def admin(self, path: str, method: str = "GET", body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(20)
        with contextlib.closing(connection):
            connection.sock.connect(self.socket)
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def status(self) -> dict[str, Any]:
        code, body = self.admin("/api/v1/status")
        assert code == 200, body
        document: dict[str, Any] = json.loads(body)
        return document

    def port(self, listener: str = "web") -> int:
        addresses = {row["name"]: row["address"] for row in self.status()["listeners"]}
        return int(addresses[listener].rpartition(":")[2])

    def pool(self, name: str) -> dict[str, Any]:
        return next(pool for pool in self.status()["pools"] if pool["name"] == name)

    def worker_pids(self) -> list[int]:
        return [worker["pid"] for worker in self.status()["workers"]]

    def kill_worker(self) -> int:
        """Kill one with SIGKILL; its pid. The status may name one that has just ended: then the next one."""

        def killed() -> int:
            pid = self.worker_pids()[0]
            os.kill(pid, signal.SIGKILL)
            return pid

        return eventually(killed, "no worker to kill")

    def in_flight(self) -> int:
        return sum(e["in_flight"] for pool in self.status()["pools"] for e in pool["endpoints"])

    def metrics(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """The samples of one metric, by their labels."""
        code, body = self.admin("/metrics")
        assert code == 200
        found = {}
        for labels, value in re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", body.decode(), re.MULTILINE):
            found[frozenset(re.findall(r'(\w+)="([^"]*)"', labels))] = float(value)
        return found

    def requests_by_endpoint(self, pool: str) -> dict[str, float]:
        """Answers with 2xx so far, by endpoint."""
        return {
            dict(labels)["endpoint"]: value
            for labels, value in self.metrics("tidegate_endpoint_requests_total").items()
            if ("pool", pool) in labels and ("code", "2xx") in labels
        }

    def command(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """`tidegate ARGUMENTS` with the daemon's configuration, as an operator types it."""
        return forked.run([*arguments, "-c", str(self.path)], env=environment(), check=check)

    def reload(self, config: dict[str, Any] | None = None) -> dict[str, Any]:
        """SIGHUP, and its outcome."""
        if config is not None:
            self.write(config)
        before = sum(self.status()["reloads"].values())
        self.process.send_signal(signal.SIGHUP)
        status = eventually(lambda: s if sum((s := self.status())["reloads"].values()) > before else None, "the reload")
        outcome: dict[str, Any] = status["last_reload"]
        return outcome

    def stop(self, seconds: float = 60) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Ends it and all its processes, whatever state they are in."""
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(20)
        eventually(lambda: not any(alive(process.pid) for process in family), "the end of all processes")


# Pieces of configurations.


def http_listener(*routes: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"bind": "127.0.0.1:0", "protocol": "http", "routes": list(routes), **settings}


def route(prefix: str, pool: str, **settings: Any) -> dict[str, Any]:
    return {"name": pool, "match": {"path": {"prefix": prefix}}, "pool": pool, **settings}


def digits_pool(**serve: Any) -> dict[str, Any]:
    """A managed pool of model servers for the digits example."""
    settings = {"models": str(DIGITS / "models"), "min": 2, "threads": 1, "drain_timeout": "10s", **serve}
    return {"protocol": "oip", "serve": settings}


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def worker_of(pids: list[int], client_port: int) -> int | None:
    """Which of the processes has the connection of a client's port."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in psutil.Process(pid).net_connections("tcp4"):
                if connection.raddr and connection.raddr.port == client_port:
                    return pid
    return None
