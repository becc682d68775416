"""What it costs a daemon to be watched: CPU time of its master and workers with `tidegate top` and dashboards open.

    python -m bench.watchers [--endpoints 1000] [--pools 20] [--models 100] [--seconds 20]

One daemon, whose endpoints all answer, takes a steady trickle of requests and inferences. It is measured while nobody
looks, with `tidegate top` at its default interval, with a dashboard open (its requests at its intervals), with both,
and with a Prometheus that scrapes every 15 s. Shown are the shares of a core that the master and the workers take, and
the CPU time of the workers for a request. All phases are of one run: compare them with each other.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.accounting import read_cpu
from bench.errors import BenchError
from bench.machine import free_ports
from bench.processes import Process
from lb.cli.admin import AdminClient, AdminError

LONGEST = 60.0
TRICKLE = 0.005  # seconds between two requests of the client
LOOK, HEAT_EVERY, HEAT_POOLS = 5.0, 3, 6  # of the dashboard (lb/control/admin/dashboard/app.js, heat.js)
SCRAPE = 15.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@dataclass(frozen=True)
class Phase:
    """Shares of a core, and CPU time of the workers for a request."""

    name: str
    master: float
    workers: float
    request_us: float


class Endpoints:
    """Answers on every address of the machine's loopback network."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_server(("0.0.0.0", port), backlog=1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    @staticmethod
    def _answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while connection.recv(65536):
                connection.sendall(ANSWER)


class Traffic:
    """A client that asks the pools in turn, one request after another; `requests` were answered."""

    def __init__(self, port: int, paths: Sequence[str]) -> None:
        self.requests = 0
        self._port = port
        self._asks = [
            f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: 2\r\n\r\n{{}}".encode() for path in paths
        ]

    def begin(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def all(self, times: int) -> None:
        """So many requests as fast as they are answered."""
        with socket.create_connection(("127.0.0.1", self._port)) as connection:
            for i in range(times):
                self._ask(connection, i)

    def _run(self) -> None:
        # At the end of the run the daemon closes it.
        with (
            contextlib.suppress(BenchError, OSError),
            socket.create_connection(("127.0.0.1", self._port)) as connection,
        ):
            i = 0
            while True:
                self._ask(connection, i)
                i += 1
                time.sleep(TRICKLE)

    def _ask(self, connection: socket.socket, i: int) -> None:
        connection.sendall(self._asks[i % len(self._asks)])
        answer = connection.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"an answer is not 200: {answer[:100]!r}")
        self.requests += 1


class Dashboard:
    """Asks what an open page asks, when it asks that."""

    def __init__(self, port: int, pools: Sequence[str]) -> None:
        self._port = port
        self._pools = pools[:HEAT_POOLS]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Dashboard:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        client, turn, number = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LONGEST), 0, 0
        with contextlib.closing(client):
            while True:
                self._get(client, "/api/v1/overview")
                number = self._get(client, f"/api/v1/history?of=total&after={number}")["number"]
                for pool in self._pools if turn % HEAT_EVERY == 0 else ():
                    self._get(client, f"/api/v1/heat?pool={pool}")
                turn += 1
                if self._over.wait(LOOK):
                    return

    @staticmethod
    def _get(client: http.client.HTTPConnection, path: str) -> Any:
        client.request("GET", path)
        return json.loads(client.getresponse().read())


@contextlib.contextmanager
def top(file: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "lb.cli", "top", "--json", "-c", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
        if process.poll() is not None:
            raise BenchError(f"`tidegate top` ended with {process.returncode}")
    finally:
        process.terminate()
        process.wait(LONGEST)


@contextlib.contextmanager
def scraped(port: int) -> Iterator[None]:
    over = threading.Event()

    def scrape() -> None:
        while True:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST)
            with contextlib.closing(client):
                client.request("GET", "/metrics")
                client.getresponse().read()
            if over.wait(SCRAPE):
                return

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def configuration(endpoints: int, pools: int, web: int, port: int, admin: int) -> dict[str, Any]:
    """`endpoints` on addresses of their own, in so many pools with a route each."""
    addresses = [f"127.1.{i // 250}.{i % 250 + 1}:{port}" for i in range(endpoints)]
    return {
        "workers": 2,
        "admin": {"bind": f"127.0.0.1:{admin}"},
        "listeners": {
            "web": {
                "bind": f"127.0.0.1:{web}", "protocol": "http",
                "routes": [{"name": f"r{i}", "match": {"path": {"prefix": f"/{i}/"}}, "pool": f"p{i}",
                            "rewrite": {"prefix": "/"}} for i in range(pools)],
            }
        },
        "pools": {
            f"p{i}": {"protocol": "http", "policy": "round_robin", "endpoints": addresses[i::pools]}
            for i in range(pools)
        },
    }  # fmt: skip


def run(folder: Path, endpoints: int, pools: int, models: int, seconds: float) -> list[Phase]:
    """The phases. Raises BenchError when the daemon does not come up, or does not answer."""
    web, port, admin = free_ports(3)
    file = folder / "tidegate.yaml"
    file.write_text(json.dumps(configuration(endpoints, pools, web, port, admin)))
    Endpoints(port)
    process = Process("tidegate", [sys.executable, "-m", "lb.cli", "run", "-c", str(file)], folder / "log")
    try:
        master, workers = _processes(process, AdminClient(f"127.0.0.1:{admin}"))
        traffic = Traffic(web, [f"/{i % pools}/v2/models/m{i % max(models, 1)}/infer" for i in range(pools * models)])
        traffic.all(4 * max(endpoints, pools * models))
        traffic.begin()
        names = [f"p{i}" for i in range(pools)]
        phases: list[tuple[str, list[Callable[[], contextlib.AbstractContextManager[Any]]]]] = [
            ("nobody looks", []),
            ("tidegate top", [lambda: top(file)]),
            ("a dashboard", [lambda: Dashboard(admin, names)]),
            ("top and a dashboard", [lambda: top(file), lambda: Dashboard(admin, names)]),
            ("Prometheus, every 15 s", [lambda: scraped(admin)]),
            ("nobody looks, again", []),
        ]
        found = []
        for name, watchers in phases:
            with contextlib.ExitStack() as stack:
                for watcher in watchers:
                    stack.enter_context(watcher())
                time.sleep(min(2.0, seconds))  # what begins is not what goes on
                found.append(_measure(name, master, workers, traffic, seconds))
        return found
    finally:
        process.stop()


def _measure(name: str, master: int, workers: Sequence[int], traffic: Traffic, seconds: float) -> Phase:
    began, requests = time.monotonic(), traffic.requests
    before = [_cpu(master), sum(map(_cpu, workers))]
    time.sleep(seconds)
    spent = time.monotonic() - began
    used = [_cpu(master) - before[0], sum(map(_cpu, workers)) - before[1]]
    asked = traffic.requests - requests
    if not asked:
        raise BenchError("there was no traffic")
    return Phase(name, used[0] / 1e9 / spent, used[1] / 1e9 / spent, used[1] / 1e3 / asked)


def _cpu(pid: int) -> int:
    """CPU nanoseconds of a process, of all its threads."""
    return sum(ns for (owner, _), ns in read_cpu([pid]).tasks.items() if owner == pid)


def _processes(process: Process, admin: AdminClient) -> tuple[int, list[int]]:
    """The master, and its workers, once they run."""
    limit = time.monotonic() + LONGEST
    while time.monotonic() < limit:
        process.check()
        with contextlib.suppress(AdminError):
            document = admin.status()
            if document["state"] == "running":
                return process.pids()[0], [row["pid"] for row in document["workers"]]
        time.sleep(0.1)
    raise BenchError(f"not ready within {LONGEST:.0f} s: {process.last_words()}")


def table(phases: Sequence[Phase]) -> Iterator[str]:
    """As a table in Markdown."""
    yield "| | master, % of a core | workers, % of a core | workers, µs a request |"
    yield "|---|---:|---:|---:|"
    for phase in phases:
        yield f"| {phase.name} | {100 * phase.master:.2f} | {100 * phase.workers:.2f} | {phase.request_us:.0f} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.watchers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--pools", type=int, default=20)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="tidegate-watchers-") as folder:
            phases = run(Path(folder), options.endpoints, options.pools, options.models, options.seconds)
    except BenchError as error:
        print(f"bench.watchers: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(phases)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
