"""`python -m bench local-transport`: CPU time of worker and model server together, for tensors of 4.9 MB each way."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.accounting import cpu_between, read_cpu, tree
from bench.errors import BenchError
from bench.machine import free_ports
from bench.model_servers.measure import PATH, START
from bench.model_servers.models import Model, save
from bench.processes import dying_with_us
from lb.wire import grpc_service_pb2 as wire

SHAPE = (1, 3, 640, 640)  # of FP32: 4.9 MB
LEAST = 3.0  # inferences per CPU second, in relation to gRPC over a Unix socket
SHARED, TCP, NAIVE = "shared memory", "loopback TCP", "grpc.aio on a Unix socket"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_WARMUP = 20  # inferences

BULK = Model(
    "bulk",
    "absolute values, 4.9 MB each way",
    SHAPE,
    lambda path: save(path, [("Abs", ["x"], ["y"], {})], list(SHAPE), {}, list(SHAPE)),
)


def _ours(models: Path, address: str) -> list[str]:
    words = [sys.executable, "-m", "backend", "serve", "--models", str(models), "--listen", address]
    return [*words, "--threads", "1", "--log-level", "error"]


def _naive(models: Path, address: str) -> list[str]:
    return [sys.executable, "-m", "bench.model_servers.naive", "--models", str(models), "--listen", address]


Command = Callable[[Path, str], list[str]]
WAYS: dict[str, tuple[Command, bool]] = {SHARED: (_ours, True), TCP: (_ours, False), NAIVE: (_naive, True)}


def run(runs: int, seconds: float, console: Console) -> bool:
    """Whether what was promised is kept. Raises BenchError."""
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        models = Path(folder, "models")
        BULK.write(models)
        for turn, (name, (command, local)) in itertools.product(range(runs), WAYS.items()):
            place = Path(folder, f"{turn}-{list(WAYS).index(name)}")
            place.mkdir()
            found[name].append(_measure(command, local, models, place, seconds))
    table = Table(title="Worker and model server, 4.9 MB each way")
    for column in ("between them", "CPU ms per inference", "inferences per CPU second"):
        table.add_column(column, justify="left" if column == "between them" else "right")
    for name, values in found.items():
        table.add_row(name, f"{median(values):.2f}", f"{1000 / median(values):,.0f}")
    console.print(table)
    ratio = median(found[NAIVE]) / median(found[SHARED])
    console.print(f"shared memory against {NAIVE}: {ratio:.1f} times as many per CPU second (at least {LEAST:g})")
    return ratio >= LEAST


def _measure(command: Command, local: bool, models: Path, place: Path, seconds: float) -> float:
    """CPU ms for each inference."""
    port, other = free_ports(2)
    address = f"unix:{place}/s" if local else f"127.0.0.1:{other}"
    config = place / "tidegate.yaml"
    config.write_text(f"""workers: 1
admin: {{bind: "unix:{place}/admin.sock"}}
listeners:
  front: {{bind: "127.0.0.1:{port}", protocol: http, routes: [{{pool: servers}}]}}
pools:
  servers: {{protocol: oip, endpoints: ["{address}"], health: {{type: tcp}}}}
""")
    processes: list[subprocess.Popen[bytes]] = []
    with open(place / "log", "w+") as log:
        try:
            commands = (command(models, address), [sys.executable, "-m", "lb.cli", "run", "-c", str(config)])
            processes.extend(subprocess.Popen(dying_with_us(words), stdout=log, stderr=log) for words in commands)
            return _ask(port, processes, seconds)
        except BenchError as error:
            log.seek(0)
            raise BenchError(f"{error}: {log.read()[-500:]}") from None
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()


def _ask(port: int, processes: list[subprocess.Popen[bytes]], seconds: float) -> float:
    request, expected = BULK.request(), np.abs(BULK.values()).tobytes()
    with grpc.insecure_channel(f"127.0.0.1:{port}", _UNLIMITED) as channel:
        call = channel.unary_unary(PATH)
        limit, right = time.monotonic() + START, 0
        while right < _WARMUP:
            try:
                answer = wire.ModelInferResponse.FromString(call(request, timeout=10))
            except grpc.RpcError as error:
                if time.monotonic() > limit or any(process.poll() is not None for process in processes):
                    raise BenchError(f"no answer: {error}") from None
                time.sleep(0.1)
                continue
            if answer.raw_output_contents[0] != expected:
                raise BenchError("a wrong answer")
            right += 1
        pids = [pid for process in processes for pid in tree(process.pid)]
        before, count, end = read_cpu(pids), 0, time.monotonic() + seconds
        while time.monotonic() < end:
            call(request, timeout=10)
            count += 1
        return cpu_between(before, read_cpu(pids)) / 1e6 / count
