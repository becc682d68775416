"""Emulated model servers behind the proxies, all in one process beside the load."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from bench.emulator.distributions import mean_ms
from bench.emulator.spec import Batched, Fleet, Parallel, Serial, ServerSpec, Service
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
        """Requests per second that all of them can do together: the sum of 1 / mean time, for each slot of one that
        executes several at once; one that batches does full batches.

        Raises ValueError where there is no such rate: the time of one depends on the request or the moment, or there is
        none.
        """
        return sum(map(rate, self.services))

    def command(self, place: Place) -> list[str]:
        servers = tuple(ServerSpec(port, service) for port, service in zip(place.ports, self.services, strict=True))
        path = place.directory / "fleet.json"
        path.write_text(Fleet(servers, place.extra_ports[0], epoch="start").to_json())
        return [sys.executable, "-m", "bench.emulator", str(path)]


def rate(service: Service) -> float:
    """Requests per second that one server can do. Raises ValueError: see `Emulated.capacity`."""
    execution = service.execution
    if not (service.stalls or service.antagonists or service.failures):
        if isinstance(execution, Serial) and not execution.per_item:
            return 1000 / mean_ms(execution.time)
        if isinstance(execution, Parallel):
            return execution.slots * 1000 / mean_ms(execution.time)
        if isinstance(execution, Batched) and execution.fixed_ms + execution.per_item_ms > 0:
            size = execution.max_batch
            return size * 1000 / (execution.fixed_ms + execution.per_item_ms * size)
    raise ValueError(f"no fixed rate of requests: {service}")
