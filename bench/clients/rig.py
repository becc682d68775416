"""A pool of one kind of model server on this machine, and a real daemon in front of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import yaml

from bench.clients import models
from bench.errors import BenchError
from bench.machine import free_ports
from bench.model_servers.others.servers import KSERVE, MLSERVER, TRITON, Other
from bench.processes import Process, Processes
from lb.wire import grpc_service_pb2 as wire
from lb.wire.services import INFERENCE, Stub

START = 90.0  # seconds in which a server, or the daemon, has to be ready
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Kind:
    """`prepare(folder)` writes what one server needs. `command(environments, folder, http, grpc)` serves it."""

    name: str
    other: Other | None
    prepare: Callable[[Path], None]
    command: Callable[[Path, Path, int, int], list[str]]
    one_port: bool = False  # HTTP on the port of gRPC


@dataclass(frozen=True)
class Target:
    """Where clients ask."""

    http: int
    grpc: int


def _prepare_ours(folder: Path) -> None:
    models.write_common(folder)
    models.write_ours(folder)


def _ours(_environments: Path, folder: Path, _http: int, port: int) -> list[str]:
    words = [sys.executable, "-m", "backend", "serve", "--models", str(folder), "--listen", f"127.0.0.1:{port}"]
    words += ["--threads", "1", "--model-control-mode", "explicit", "--load-model", "*"]
    return [*words, "--trace-endpoint", "http://127.0.0.1:4317"]  # nobody is there: no request of these is traced


def _prepare_triton(folder: Path) -> None:
    source = folder.with_name(f"{folder.name}-source")
    models.write_common(source)
    models.write_triton(source)
    TRITON.prepare(source, folder)


def _triton(environments: Path, folder: Path, http: int, port: int) -> list[str]:
    words = TRITON.command(environments, folder, http, port)
    return [*words, "--model-control-mode", "explicit", "--load-model", "*"]


def _prepare_other(other: Other) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        source = folder.with_name(f"{folder.name}-source")
        models.write_common(source)
        other.prepare(source, folder)

    return prepare


KINDS = {
    "tidegate": Kind("Tidegate's model server", None, _prepare_ours, _ours, one_port=True),
    "triton": Kind("Triton", TRITON, _prepare_triton, _triton),
    "mlserver": Kind("MLServer", MLSERVER, _prepare_other(MLSERVER), MLSERVER.command),
    "kserve": Kind("KServe", KSERVE, _prepare_other(KSERVE), KSERVE.command),
}


@contextmanager
def alone(kind: Kind, environments: Path, folder: Path) -> Iterator[Target]:
    """One server, asked directly. Raises BenchError if it does not get ready."""
    with Processes(folder) as processes:
        yield _servers(kind, environments, folder, processes, 1)[0]


@contextmanager
def behind_a_daemon(kind: Kind, environments: Path, folder: Path, count: int) -> Iterator[Target]:
    """A pool of `count` servers. Raises BenchError if they, or the daemon, do not get ready."""
    with Processes(folder) as processes:
        servers = _servers(kind, environments, folder, processes, count)
        port, admin = free_ports(2)
        route = {"pool": "models", "server_calls": ["models", "settings", "shared_memory"]}
        config = {
            "workers": 2,
            "admin": {"bind": f"127.0.0.1:{admin}"},
            "listeners": {"web": {"bind": f"127.0.0.1:{port}", "protocol": "http", "routes": [route]}},
            "pools": {
                "models": {
                    "protocol": "oip",
                    "endpoints": [f"127.0.0.1:{server.grpc}" for server in servers],
                    "health": {"type": "oip", "models": "index", "interval": "500ms"},
                }
            },
        }
        path = folder / "tidegate.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        process = processes.start("daemon", [sys.executable, "-m", "lb.cli", "run", "-c", str(path)])
        process.wait_listening(port, START)
        _await_answer(process, port)
        yield Target(port, port)


def _servers(kind: Kind, environments: Path, folder: Path, processes: Processes, count: int) -> list[Target]:
    targets = []
    started: list[Process] = []
    for number, port in enumerate(free_ports(2 * count)[::2]):
        (http,) = free_ports(1)
        place = folder / f"server{number}"
        place.mkdir()
        kind.prepare(place / "models")
        command = kind.command(environments, place / "models", http, port)
        started.append(processes.start(f"{kind.name} {number}", command))
        targets.append(Target(port if kind.one_port else http, port))
    for process, target in zip(started, targets, strict=True):
        process.wait_listening(target.grpc, START)
        process.wait_listening(target.http, START)
        _await_answer(process, target.grpc)
    return targets


def _await_answer(process: Process, port: int) -> None:
    """Until `affine` has answered. Raises BenchError."""
    limit = time.monotonic() + START
    request = wire.ModelInferRequest(model_name="affine")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = Stub(channel, INFERENCE)
        while True:
            process.check()
            try:
                stub.ModelInfer(request, timeout=5)
                return
            except grpc.RpcError as error:
                if time.monotonic() > limit:
                    raise BenchError(f"{process.name} does not answer in {START:g} s: {error}") from None
                time.sleep(0.1)
