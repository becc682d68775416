"""Emulated model servers behind the proxies, all in one process beside the load."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from bench.emulator.spec import Fleet, ServerSpec, Service
from bench.servers import Place


@dataclass(frozen=True)
class Emulated:
    """One endpoint for each service; windows of stalls and the like count from `ControlClient.start`."""

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
