"""Replicas that are instances of a managed instance group of Google Cloud: its target size.

Source: Compute Engine API, `instanceGroupManagers.get`, `.resize` and `.listManagedInstances`.
"""

from __future__ import annotations

from collections import Counter

from lb.config.schema.file import PoolConfig
from lb.config.schema.pools.engine import GcpEngineConfig
from lb.config.units import SECOND
from lb.engines.engine import Engine, Seen
from lb.platforms.error import PlatformError
from lb.platforms.gcp import Gcp, is_running, managed_instances


class GcpEngine(Engine):
    """A group that has an autoscaler of Google's own is refused: both would set its size."""

    options: GcpEngineConfig
    interval = 10 * SECOND

    def __init__(self, pool: str, options: GcpEngineConfig, config: PoolConfig) -> None:
        super().__init__(pool, options, config)
        self._gcp = Gcp(options)

    async def look(self) -> Seen:
        group = await self._gcp.ask("GET", self._gcp.group)
        rows = await managed_instances(self._gcp)
        try:
            number = int(group["targetSize"])
        except (KeyError, TypeError, ValueError):
            raise PlatformError(f"{self.describe()}: the answer has no targetSize") from None
        autoscaler = group.get("status", {}).get("autoscaler")
        if autoscaler:
            name = str(autoscaler).rpartition("/")[2]
            raise PlatformError(f"{self.describe()} has an autoscaler of its own, {name}, which sets its size")
        running = sum(is_running(row) for row in rows)
        actions = Counter(str(row.get("currentAction", "NONE")) for row in rows)
        detail = ", ".join(f"{count} {action}" for action, count in sorted(actions.items()) if action != "NONE")
        return Seen(number, running, detail=detail)

    async def change(self, number: int, seen: Seen) -> None:
        await self._gcp.ask("POST", f"{self._gcp.group}/resize", size=str(number))

    def describe(self) -> str:
        return f"gcp {self.options.zone or self.options.region}/{self.options.group}"

    async def close(self) -> None:
        await self._gcp.close()
