"""Emulated model servers behind the proxies, all in one process beside the load."""

from __future__ import annotations

import http.client
import json
import sys
from dataclasses import dataclass
from typing import Any

from bench.emulator.spec import Fleet, ServerSpec, Service
from bench.errors import BenchError
from bench.servers import Place


@dataclass(frozen=True)
class Emulated:
    """One endpoint for each service; windows of stalls and the like count from `begin`."""

    services: tuple[Service, ...]
    name: str = "model-servers"
    extra_ports: int = 1  # for control

    @property
    def ports(self) -> int:
        return len(self.services)

    def command(self, place: Place) -> list[str]:
        servers = tuple(ServerSpec(port, service) for port, service in zip(place.ports, self.services, strict=True))
        path = place.directory / "fleet.json"
        path.write_text(Fleet(servers, place.extra_ports[0], epoch="start").to_json())
        return [sys.executable, "-m", "bench.emulator", str(path)]


def begin(control_port: int) -> None:
    """Now is the moment from which the windows count. Raises BenchError."""
    _ask(control_port, "POST", "/start")


def stats(control_port: int) -> dict[str, Any]:
    """What each server has counted. Raises BenchError."""
    found: dict[str, Any] = json.loads(_ask(control_port, "GET", "/stats"))
    return found


def _ask(port: int, method: str, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"the emulated model servers do not answer {method} {path}: {error!r}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"the emulated model servers refused {method} {path}: {answer.status} {body[:200]!r}")
    return body
