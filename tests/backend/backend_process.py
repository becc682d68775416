"""A real `python -m backend serve` process, and requests for it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from forked import Forked
from grpc_health.v1 import health_pb2, health_pb2_grpc
from waiting import eventually as until  # noqa: F401 - for those who import this

from lb.wire import grpc_service_pb2 as wire

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
DEADLINE = 60.0


# The server where ONNX Runtime has no C API to load, so that Python's binding runs the models.
BINDING = """
import sys
from backend import session
session._c_api = lambda: False
from backend.__main__ import main
sys.exit(main())
"""


def command(models: Path, *arguments: str, program: Sequence[str] = ("-m", "backend")) -> list[str]:
    return [sys.executable, *program, "serve", "--models", str(models), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


class Backend:
    """A running server. `targets` are its addresses as it printed them; `log` is its standard error so far."""

    def __init__(
        self,
        models: Path,
        *arguments: str,
        listen: Sequence[str] = ("127.0.0.1:0",),
        program: Sequence[str] = ("-m", "backend"),
    ) -> None:
        addresses = [part for address in listen for part in ("--listen", address)]
        self.process = Forked(
            command(models, *addresses, *arguments, program=program)[1:],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        )
        self.log = ""
        self._lines: queue.Queue[str] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read_stdout, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.targets = [self._lines.get(timeout=DEADLINE).removeprefix("listening on ") for _ in listen]
        assert all(self.targets), self.log

    def _read_stdout(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line.strip())
        for _ in range(8):
            self._lines.put("")

    def _read_stderr(self) -> None:
        for line in self.process.stderr:
            self.log += line

    def wait_ready(self) -> Backend:
        with grpc.insecure_channel(self.targets[0]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE, wait_for_ready=True):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return self
        raise AssertionError(f"never ready: {self.log}")

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        status = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        return status

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def infer_request(model: str, *arrays: tuple[str, str, np.ndarray], **fields: Any) -> Any:
    """A ModelInferRequest with raw inputs `(name, datatype, array)`."""
    request = wire.ModelInferRequest(model_name=model, **fields)
    for name, datatype, array in arrays:
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request
