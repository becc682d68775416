"""The pools of a configuration that an engine elsewhere runs: which are followed, and what status shows of them."""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import TYPE_CHECKING, Any

from lb.config.schema.file import Config, PoolConfig
from lb.control.background import Background
from lb.control.engines.scaled import EngineContext, ScaledPool

if TYPE_CHECKING:
    from lb.control.engines.keda import KedaServer

log = logging.getLogger("tidegate.master")


class EnginePools:
    """`apply` follows the configuration in force; only `close` waits."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._pools: dict[str, ScaledPool] = {}
        self._keda: dict[str, KedaServer] = {}  # by the address
        self._background = Background(log, "the engine of a pool failed")

    def apply(self, config: Config) -> None:
        """All workers have the plan of `config` now."""
        wanted = {name: pool for name, pool in config.pools.items() if _scaled_elsewhere(pool)}
        for name, known in list(self._pools.items()):
            if name not in wanted or not known.same_engine(wanted[name]):
                self._background.spawn(self._pools.pop(name).stop())
        for name, pool in wanted.items():
            if name not in self._pools:
                self._pools[name] = ScaledPool(name, pool, self._context)
                self._pools[name].start()
            elif self._pools[name].pool != pool:
                self._background.spawn(self._pools[name].reconfigure(pool))

        self._serve_keda({p.engine.external.keda for p in wanted.values() if p.engine and p.engine.external} - {None})

    def items(self) -> list[tuple[str, ScaledPool]]:
        """The pools that an engine elsewhere runs, by name."""
        return sorted(self._pools.items())

    def get(self, pool: str) -> ScaledPool | None:
        """The pool of that name, if an engine elsewhere runs it."""
        return self._pools.get(pool)

    def wake(self, pool: str) -> None:
        """Requests wait in a worker for an endpoint of a pool that has none."""
        if pool in self._pools:
            self._pools[pool].wake()

    async def woken(self, pool: str) -> str | None:
        """Waits until a pool on demand has an endpoint: "", or why it has none. None of another pool."""
        known = self._pools.get(pool)
        return await known.woken() if known is not None else None

    def explain(self, pool: str) -> dict[str, Any] | None:
        """Why a pool has as many replicas as it has; None where no engine elsewhere runs it, or it is not scaled."""
        known = self._pools.get(pool)
        return known.explain() if known is not None else None

    def status(self, now: int) -> dict[str, dict[str, Any]]:
        """By pool: see ScaledPool.status."""
        return {name: pool.status(now) for name, pool in self._pools.items()}

    async def close(self) -> None:
        """Scales no more; the numbers of replicas stay as they are."""
        for name in list(self._pools):
            self._background.spawn(self._pools.pop(name).stop())
        self._serve_keda(set())
        await self._background.wait()

    def _serve_keda(self, wanted: Set[str | None]) -> None:
        for stale in self._keda.keys() - wanted:
            self._background.spawn(self._keda.pop(stale).stop())
        for bind in wanted - self._keda.keys():
            if bind is not None:
                from lb.control.engines.keda import KedaServer

                self._keda[bind] = KedaServer(bind, self.get)
                self._background.spawn(self._keda[bind].start())


def _scaled_elsewhere(pool: PoolConfig) -> bool:
    return pool.engine is not None and pool.engine.ray is None
