"""A fleet of emulated servers in a process of its own, for tests."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from waiting import eventually

from bench.emulator.client import ControlClient
from bench.emulator.spec import Constant, Fleet, Serial, ServerSpec, Service
from lb.wire import grpc_service_pb2 as oip
from lb.wire.services import INFERENCE, Stub

MS = 1_000_000
TIMEOUT = 20
LIMIT = [("grpc.max_receive_message_length", 64 << 20)]
# One execution for ever.
SLOW = Service(Serial(Constant(3_600_000.0)))


class Running:
    """A started fleet: its ports, its control port, and ways to ask."""

    def __init__(self, process: subprocess.Popen[str], ports: list[int], control: int) -> None:
        self.process = process
        self.ports = ports
        self.control = ControlClient(control)

    def stats(self, server: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = self.control.stats()["servers"][server]
        return found

    def wait(self, right: Callable[[dict[str, Any]], bool], server: int = 0) -> dict[str, Any]:
        """The first statistics that are right."""
        return eventually(lambda: stats if right(stats := self.stats(server)) else None)

    def get(self, server: int = 0, method: str = "GET", path: str = "/") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[server], timeout=TIMEOUT)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def connect(self, server: int = 0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[server]), timeout=TIMEOUT)

    @contextmanager
    def channel(self, server: int = 0) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(f"127.0.0.1:{self.ports[server]}", options=LIMIT) as channel:
            yield channel


@contextmanager
def running(tmp_path: Path, *services: Service, **options: Any) -> Iterator[Running]:
    servers = tuple(ServerSpec(0, service) for service in services)
    with running_fleet(tmp_path, Fleet(servers, 0, **options)) as fleet:
        yield fleet


@contextmanager
def running_fleet(tmp_path: Path, fleet: Fleet) -> Iterator[Running]:
    file = tmp_path / "fleet.json"
    file.write_text(fleet.to_json())
    command = [sys.executable, "-m", "bench.emulator", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            words = process.stdout.readline().split()
            assert words[:2] == ["listening", "on"], process.stderr.read()
            yield Running(process, [int(port) for port in words[2:-2]], int(words[-1]))
        finally:
            process.terminate()
            code = process.wait(TIMEOUT)
        assert (code, process.stderr.read()) == (0, "")


def infer(channel: grpc.Channel) -> oip.ModelInferResponse:
    stub = Stub(channel, INFERENCE)
    response: oip.ModelInferResponse = stub.ModelInfer(oip.ModelInferRequest(model_name="model"), timeout=TIMEOUT)
    return response


def adds_up(stats: dict[str, Any]) -> bool:
    ends = ("answered", "failed", "rejected", "cancelled", "in_flight")
    return bool(stats["received"] == sum(stats[name] for name in ends))
