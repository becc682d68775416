"""The engine `local`: the model servers of a supervisor, in the terms of all engines."""

from __future__ import annotations

from typing import Any

from lb.config.schema.file import PoolConfig
from lb.control.servers.replica import State
from lb.control.servers.supervisor import Supervisor
from lb.engines.engine import Engine, Seen


class LocalEngine(Engine):
    """Never stale, as it asks nobody: a change has its effect at once, and the supervisor sees to the rest."""

    def __init__(self, pool: str, config: PoolConfig, supervisor: Supervisor) -> None:
        super().__init__(pool, None, config)
        self._supervisor = supervisor

    def seen(self) -> Seen:
        """Replicas asked for, and those that are ready."""
        ready = sum(replica.state == State.READY for replica in self._supervisor.replicas())
        return Seen(self._supervisor.wanted, ready)

    async def look(self) -> Seen:
        return self.seen()

    async def change(self, number: int, seen: Seen) -> None:
        self._supervisor.scale_to(number)

    def describe(self) -> str:
        return "this machine"

    def status(self) -> dict[str, Any]:
        """The engine's part of the status document."""
        seen = self.seen()
        return {
            "engine": "local",
            "target": self.describe(),
            "state": "current",
            "number": seen.number,
            "running": seen.running,
            "error": None,
        }
