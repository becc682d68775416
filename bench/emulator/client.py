"""Talking to a fleet's control port, for scenarios and tests."""

from __future__ import annotations

import http.client
import json
from typing import Any

from bench.emulator.control import CHANGE, ClearNow, FailNow, ServeAs, SlowNow, StallNow
from bench.errors import BenchError


class ControlClient:
    """One connection per call: calls are rare, and a proxy under test shares the machine."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout: float = 5.0) -> None:
        self._port = port
        self._host = host
        self._timeout = timeout

    def stats(self) -> dict[str, Any]:
        """All counters. Raises BenchError, as the others do, if the fleet does not answer or refuses."""
        return self._ask("GET", "/stats", None)

    def start(self, at_ns: int | None = None) -> int:
        """Planned windows count from `at_ns` (CLOCK_MONOTONIC; may lie ahead), else from now. Returns that epoch."""
        body = b"{}" if at_ns is None else json.dumps({"at_ns": at_ns}).encode()
        return int(self._ask("POST", "/start", body)["epoch_ns"])

    def plan(self, change: StallNow | SlowNow | FailNow | ClearNow | ServeAs) -> int:
        """Changes the running plan; returns when (CLOCK_MONOTONIC, ns)."""
        return int(self._ask("POST", "/plan", CHANGE.dump_json(change))["now_ns"])

    def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            value: dict[str, Any] = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BenchError(f"the emulator's control port {self._port} does not answer: {error!r}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise BenchError(f"the emulator refuses: {value.get('error')}")
        return value
