"""The servers of one managed pool: a supervisor, and an autoscaler where the pool has a `scaling` section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from lb.clock import Clock
from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import PoolConfig, ServeConfig
from lb.control.servers.autoscaler import Autoscaler
from lb.control.servers.model_server import same_process
from lb.control.servers.replica import Machine, Probe
from lb.control.servers.scaling_memory import ScalingMemory
from lb.control.servers.signals import Source
from lb.control.servers.supervisor import Supervisor
from lb.control.servers.traffic import Counts
from lb.control.servers.vertical import VerticalScaler


class ServerContext(Struct, frozen=True):
    """What servers need of the master. The callables take (pool, address); `waiting` and `counts` the pool."""

    runtime_dir: Path
    exited: Callable[[str, str], None]  # the process behind an endpoint is gone
    inflight: Callable[[str, str], int]
    busy: Callable[[str, str], int]  # the same, with the sequences that will go on there
    waiting: Callable[[str], int]
    counts: Callable[[str], Counts | None]
    clock: Clock
    machine: Machine
    state_dir: Path | None = None  # where what scaling learns is kept; None: nowhere


class ModelServers:
    """A managed.Server; `changed` is called when `endpoints` is different."""

    def __init__(self, name: str, pool: PoolConfig, changed: Callable[[], None], context: ServerContext) -> None:
        self._name = name
        self._context = context
        self._supervisor = Supervisor(
            name,
            _serve(pool),
            runtime_dir=context.runtime_dir,
            on_change=changed,
            on_exit=lambda address: context.exited(name, address),
            inflight=lambda address: context.busy(name, address),
            clock=context.clock,
            machine=context.machine,
            probe=_probe(pool),
        )
        self._autoscaler: Autoscaler | None = None
        self._pool = pool
        self._vertical: VerticalScaler | None = None
        self._held = False
        self._stopped = False

    @property
    def wanted(self) -> int:
        return self._supervisor.wanted

    async def start(self) -> None:
        """Raises StartError when the runtime folder cannot be used."""
        await self._supervisor.start()
        await self._resize(_serve(self._pool))
        await self._scale(self._pool)

    def hold(self, number: int) -> None:
        self._held = True
        self._supervisor.scale_to(self._within(number))

    async def release(self) -> None:
        self._held = False
        await self._scale(self._pool)

    async def stop(self) -> None:
        self._stopped = True
        if self._vertical is not None:
            await self._vertical.stop()
        if self._autoscaler is not None:
            await self._autoscaler.stop()
        await self._supervisor.stop()

    def kill(self) -> None:
        self._supervisor.kill()

    def endpoints(self) -> Sequence[EndpointSpec]:
        return self._supervisor.endpoints()

    @property
    def rolling(self) -> bool:
        return self._supervisor.rolling

    async def reconfigure(self, pool: PoolConfig) -> None:
        before, self._pool = _serve(self._pool), pool
        serve = _serve(pool)
        if not same_process(before, serve) or before.vertical != serve.vertical:
            await self._resize(serve)
        await self._scale(pool)

    def status(self) -> dict[str, Any]:
        """{wanted, standby, replicas: [{index, pid, address, state, restarts, started_at, last_error, output, gpus,
        cores}], restarts, scaling: … | None, vertical: … | None}."""
        return {
            "wanted": self._supervisor.wanted,
            "standby": _serve(self._pool).standby,
            "replicas": [asdict(replica) for replica in self._supervisor.replicas()],
            "restarts": self._supervisor.restarts,
            "scaling": self._autoscaler.status() if self._autoscaler else None,
            "vertical": self._vertical.status() if self._vertical else None,
        }

    def explain(self) -> dict[str, Any] | None:
        """Autoscaler.explain; None without scaling."""
        return self._autoscaler.explain(self._context.clock.now()) if self._autoscaler else None

    async def _resize(self, serve: ServeConfig) -> None:
        """Follows what `serve` says of each process; what was learned of those before does not count."""
        stale, self._vertical = self._vertical, None
        if stale is not None:
            await stale.stop()
        self._supervisor.roll_to(serve)
        if serve.vertical is not None and not self._stopped:
            self._vertical = VerticalScaler(self._name, self._supervisor, serve, serve.vertical, self._context.clock)
            self._vertical.start()

    async def _scale(self, pool: PoolConfig) -> None:
        """Follows the `scaling` section; without one, there are `min` replicas."""
        serve, scaling = _serve(pool), pool.scaling
        if scaling is None:
            stale, self._autoscaler = self._autoscaler, None
            if stale is not None:
                await stale.stop()
        self._supervisor.scale_to(self._within(self._supervisor.wanted), serve.standby)
        if scaling is None or self._held:
            return
        if self._autoscaler is not None:
            self._autoscaler.reconfigure(scaling, serve.min, serve.max)
        elif not self._stopped:
            self._autoscaler = Autoscaler(
                self._name,
                self._supervisor,
                scaling,
                (serve.min, serve.max),
                Source(
                    self._inflight,
                    lambda: self._context.waiting(self._name),
                    lambda: self._context.counts(self._name),
                    self._supervisor.cpu,
                ),
                ScalingMemory(self._name, self._context.state_dir),
                self._context.clock,
            )
            self._autoscaler.start()

    def _within(self, number: int) -> int:
        serve = _serve(self._pool)
        return serve.min if self._pool.scaling is None else min(max(number, serve.min), serve.max)

    def _inflight(self, address: str) -> int:
        return self._context.inflight(self._name, address)


def _probe(pool: PoolConfig) -> Probe:
    """How a server says that it is ready, where the file does not say: the model server by its health service."""
    if _serve(pool).command is None:
        return "grpc"
    return "oip" if pool.protocol == "oip" else "tcp"


def _serve(pool: PoolConfig) -> ServeConfig:
    if pool.serve is None:
        raise ValueError("the pool is not a managed one")
    return pool.serve
