"""Model servers that can be broken one by one, a daemon in front of them, and clients who count what they notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon import http_listener, route
from ports import free_port

from bench.emulator.client import ControlClient
from bench.emulator.spec import Constant, Fleet, Parallel, ServerSpec, Service
from bench.load.arrivals import Poisson
from bench.load.report import Report
from bench.load.request import Request, frame
from bench.load.spec import Spec
from bench.scenarios.inference import grpc_message, json_request

EXECUTION = Parallel(Constant(5), slots=64)
RATE = 120  # requests/s of each kind of client
WARMUP, SECONDS = 0.5, 4.0
FAULT = (1.2, 2.8)  # seconds after the warm-up's start, or the fault's length
MARK = "bench-result "
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Victim:
    """One emulated model server in a process of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.port, control = free_port(), free_port()
        self.control = ControlClient(control)
        self._path = folder / f"{name}.json"
        self._path.write_text(Fleet((ServerSpec(self.port, Service(EXECUTION)),), control).to_json())
        self._log = folder / f"{name}.log"
        self.start()

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.emulator", str(self._path)], stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith(b"listening"), self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


@contextmanager
def victims(folder: Path, count: int) -> Iterator[list[Victim]]:
    made: list[Victim] = []
    try:
        made.extend(Victim(folder, f"server{i}") for i in range(count))
        yield made
    finally:
        for each in made:
            each.send(signal.SIGCONT)
            each.kill()


def config(servers: list[Victim], pool: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The same servers by HTTP/1.1 for GET below /plain, and by gRPC for inferences over REST and gRPC; `settings` are
    of the routes."""
    endpoints = [f"127.0.0.1:{each.port}" for each in servers]
    health = {"interval": "250ms", "timeout": "200ms", "rise": 2, "fall": 2}
    return {
        "listeners": {"web": http_listener(route("/plain", "plain", **settings), route("/", "models", **settings))},
        "pools": {
            "plain": {
                "protocol": "http",
                "endpoints": endpoints,
                "health": {"type": "http", "path": "/v2/health/ready", **health},
                **pool,
            },
            "models": {"protocol": "oip", "endpoints": endpoints, "health": {"type": "grpc", **health}, **pool},
        },
    }


@dataclass(frozen=True)
class Clients:
    """`noticed` are failures by kind, `p99` and `worst` milliseconds, of all answers."""

    answers: int
    noticed: dict[str, int]
    p99: float
    worst: float


KINDS = ("http", "oip", "grpc")


def load(
    folder: Path, port: int, during: Callable[[], None], kinds: Iterable[str] = KINDS, seconds: float = SECONDS
) -> dict[str, Clients]:
    """Clients of these kinds at a fixed rate; `during` runs beside them, from the moment they start."""
    requests = {
        "http": Request("/plain/x"),
        "oip": json_request(400),
        "grpc": Request(INFER, "POST", body=frame(grpc_message(64))),
    }
    running = {}
    for kind in kinds:
        spec = Spec(
            protocol="grpc" if kind == "grpc" else "http",
            address=f"127.0.0.1:{port}",
            requests=(requests[kind],),
            arrivals=Poisson(RATE),
            connections=8 if kind == "grpc" else 256,
            warmup_s=WARMUP,
            duration_s=seconds,
        )
        path = folder / f"load-{kind}.json"
        path.write_text(spec.to_json())
        running[kind] = subprocess.Popen(
            [sys.executable, "-m", "bench.load", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    breaking = threading.Thread(target=during)
    breaking.start()
    found = {kind: _clients(*process.communicate(timeout=120)) for kind, process in running.items()}
    breaking.join()
    return found


def _clients(output: str, complaints: str) -> Clients:
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    assert len(lines) == 1, complaints or output
    report = Report.from_json(lines[0].removeprefix(MARK))
    assert report.dropped == 0
    p99, worst = report.percentiles([99, 100])
    return Clients(report.completed, report.failed, p99 / 1e3, worst / 1e3)
