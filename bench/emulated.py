"""Emulated model servers behind the proxies, all in one process beside the load."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from bench.emulator.distributions import mean_ms
from bench.emulator.spec import Fleet, Serial, ServerSpec, Service
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

    @property
    def capacity(self) -> float:
        """Requests per second that all of them can do together: the sum of 1 / mean time.

        Raises ValueError where there is no such rate: one of them does not execute one request at a time, or its time
        depends on the request or the moment.
        """
        rates = []
        for service in self.services:
            execution, changes = service.execution, service.stalls or service.antagonists or service.failures
            if not isinstance(execution, Serial) or execution.per_item or changes:
                raise ValueError(f"no fixed rate of requests: {service}")
            rates.append(1000 / mean_ms(execution.time))
        return sum(rates)

    def command(self, place: Place) -> list[str]:
        servers = tuple(ServerSpec(port, service) for port, service in zip(place.ports, self.services, strict=True))
        path = place.directory / "fleet.json"
        path.write_text(Fleet(servers, place.extra_ports[0], epoch="start").to_json())
        return [sys.executable, "-m", "bench.emulator", str(path)]
