"""One run of one server: started on its core, asked from the others, accounted for."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from bench.accounting import cpu_between, read_cpu, tree
from bench.errors import BenchError
from bench.machine import Cores, free_ports
from bench.model_servers.models import Model
from bench.model_servers.others.servers import Other
from bench.processes import dying_with_us, on_cores, require
from lb.wire import grpc_service_pb2 as wire
from lb.wire.services import INFERENCE, Stub

START = 60.0  # seconds in which a server has to answer
END = 10.0  # seconds in which it may end by itself
ASKED = 1.0  # seconds for one question, until it does
WARMUP = 1.0
PATH = "/inference.GRPCInferenceService/ModelInfer"
_ANSWERED = re.compile(r"^status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx$", re.MULTILINE)
_RATE = re.compile(r"^finished in \S+ ([\d.]+) req/s, ", re.MULTILINE)


@dataclass(frozen=True)
class Server:
    """`command(models, port)` starts it on one core, with one thread for the model."""

    name: str
    command: Callable[[Path, int], list[str]]


@dataclass(frozen=True)
class Figures:
    """Of one run: inferences a second, CPU time of the server for each (µs), latencies (µs)."""

    rate: float
    cpu_us: float
    p50_us: float
    p99_us: float


def ours(*options: str) -> Callable[[Path, int], list[str]]:
    def command(models: Path, port: int) -> list[str]:
        words = [sys.executable, "-m", "backend", "serve", "--models", str(models), "--listen", f"127.0.0.1:{port}"]
        return [*words, "--threads", "1", "--concurrency", "1", "--log-level", "error", *options]

    return command


def naive(models: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "bench.model_servers.naive", "--models", str(models), "--listen", f"127.0.0.1:{port}"]


def other(wanted: Other, environments: Path, folder: Path) -> Callable[[Path, int], list[str]]:
    """`folder` has what it serves."""

    def command(_models: Path, port: int) -> list[str]:
        (http,) = free_ports(1)
        return wanted.command(environments, folder, http, port)

    return command


def bare(models: Path, model: Model, cores: Cores, seconds: float) -> float:
    """Inferences a second of ONNX Runtime alone. Raises BenchError."""
    words = [sys.executable, "-m", "bench.model_servers.bare", "--models", str(models), "--model", model.name]
    done = subprocess.run(
        on_cores([cores.proxy], [*words, "--seconds", str(seconds)]), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"ONNX Runtime alone failed: {done.stderr[-500:]}")
    return float(done.stdout)


def measure(server: Server, models: Path, model: Model, cores: Cores, clients: int, seconds: float) -> Figures:
    """`clients` connections, each with one call at a time. Raises BenchError when the server does not answer right."""
    (port,) = free_ports(1)
    with tempfile.TemporaryFile("w+") as log:
        command = on_cores([cores.proxy], dying_with_us(server.command(models, port)))
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _await_right_answer(process, port, model)
            with tempfile.TemporaryDirectory() as folder:
                _load(Path(folder), port, model, cores, clients, WARMUP)
                pids = tree(process.pid)
                before = read_cpu(pids)
                count, rate = _load(Path(folder), port, model, cores, clients, seconds)
                used = cpu_between(before, read_cpu(pids))
                latencies = _latencies(Path(folder), port, model, cores, clients, seconds)
        except BenchError as error:
            log.seek(0)
            raise BenchError(f"{server.name}: {error}: {log.read()[-500:]}") from None
        finally:
            _end(process)
    return Figures(rate, used / 1e3 / count, float(np.percentile(latencies, 50)), float(np.percentile(latencies, 99)))


def _end(process: subprocess.Popen[bytes]) -> None:
    """With the processes that it started, and with time to remove what it has in shared memory."""
    # One that has ended by itself has left nobody whom anybody knows.
    family: list[int] = []
    with contextlib.suppress(BenchError):
        family = tree(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _await_right_answer(process: subprocess.Popen[bytes], port: int, model: Model) -> None:
    limit = time.monotonic() + START
    request = wire.ModelInferRequest.FromString(model.request())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = Stub(channel, INFERENCE)
        while True:
            try:
                answer = stub.ModelInfer(request, timeout=ASKED, wait_for_ready=True)
                break
            except grpc.RpcError as error:
                if process.poll() is not None:
                    raise BenchError("it ended") from None
                if time.monotonic() > limit:
                    raise BenchError(f"it does not answer in {START:g} s: {error}") from None
    if answer.raw_output_contents:
        got = np.frombuffer(answer.raw_output_contents[0], "<f4")
    else:
        got = np.array(answer.outputs[0].contents.fp32_contents, "<f4")
    if model.name == "tiny" and not np.allclose(got, model.values().reshape(-1) * 2 + 1, rtol=1e-5):
        raise BenchError(f"it answers {got}")
    if not np.isfinite(got).all() or answer.outputs[0].shape[0] != 1:
        raise BenchError(f"it answers {got}")


def _load(folder: Path, port: int, model: Model, cores: Cores, clients: int, seconds: float) -> tuple[int, float]:
    """The calls that were answered, and how many a second."""
    output = _h2load(folder, port, model, cores, clients, seconds, [])
    found, rate = _ANSWERED.search(output), _RATE.search(output)
    if found is None or rate is None or int(found[1]) == 0:
        raise BenchError(f"no call was answered: {output[-300:]}")
    return int(found[1]), float(rate[1])


def _latencies(folder: Path, port: int, model: Model, cores: Cores, clients: int, seconds: float) -> np.ndarray:
    """Of all calls of another run (µs): the log of them costs h2load as much as the calls.

    h2load takes the events of a wakeup last first (libev). Where it is slower than the server, that alone makes p99
    almost twice p50 (docs/adr/model-server.md, tails).
    """
    log = folder / "log"
    log.unlink(missing_ok=True)
    _h2load(folder, port, model, cores, clients, seconds, ["--log-file", str(log)])
    rows = np.loadtxt(log, dtype=np.int64, ndmin=2)  # a line: when the call began, its status, how long it took
    if not len(rows) or (rows[:, 1] != 200).any():
        raise BenchError("calls failed")
    latencies: np.ndarray = rows[:, 2]
    return latencies


def _h2load(
    folder: Path, port: int, model: Model, cores: Cores, clients: int, seconds: float, options: list[str]
) -> str:
    """What it says. Raises BenchError."""
    message = model.request()
    (folder / "body").write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    words = [require("h2load", "nghttp2-client"), "-D", f"{math.ceil(seconds * 1000)}ms", "--warm-up-time", "0"]
    words += ["-c", str(clients), "-m", "1", "-d", str(folder / "body"), *options]
    words += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{PATH}"]
    done = subprocess.run(on_cores(cores.load, words), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"h2load failed: {done.stderr[-300:]}{done.stdout[-300:]}")
    return done.stdout
