"""The servers of one managed pool: a supervisor, an autoscaler where the pool has a `scaling` section, and, where
`min` is 0, what takes the pool to zero and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import asdict

from lb.clock import Clock
from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import PoolConfig, ServeConfig
from lb.config.units import SECOND
from lb.control.servers.autoscaler import Autoscaler
from lb.control.servers.batches import RunsMeter
from lb.control.servers.local_engine import LocalEngine
from lb.control.servers.model_server import same_process, serve_command
from lb.control.servers.on_demand import OnDemand, Use
from lb.control.servers.replica import Machine, Probe, Replica, State
from lb.control.servers.scaling_memory import ScalingMemory
from lb.control.servers.signals import Source
from lb.control.servers.supervisor import Supervisor
from lb.control.servers.traffic import Counts
from lb.control.servers.vertical import VerticalScaler
from lb.control.upgrade.handover import ServerHandover
from lb.errors import StartError
from lb.upstream.start import Start

if TYPE_CHECKING:
    from lb.control.servers.ray_processes import RayProcesses


class ServerContext(Struct, frozen=True, kw_only=True):
    """What servers need of the master. The callables take (pool, address); `waiting` and `counts` the pool."""

    runtime_dir: Path
    exited: Callable[[str, str], None]  # the process behind an endpoint is gone
    inflight: Callable[[str, str], int]
    busy: Callable[[str, str], int]  # the same, with the sequences that will go on there
    waiting: Callable[[str], int]
    counts: Callable[[str], Counts | None]
    begun: Callable[[str], Mapping[str, int]]  # of a pool: address -> requests that have got this endpoint so far
    kept_away: Callable[[str], bool]  # whether an operator keeps requests away from all endpoints of a pool
    down: Callable[[str, Sequence[str]], bool]  # whether these endpoints of a pool are all taken for down
    starting: Callable[[str, Start], None]  # tells workers of the start of a pool's first model server
    report: Callable[[str, str], tuple[float, int]]  # utilization that an endpoint told, and when
    clock: Clock
    machine: Machine
    state_dir: Path | None = None  # where what scaling learns is kept; None: nowhere
    jobs: Callable[[str], float | None] = lambda pool: None  # for a pool that are not over; None: not known
    handed: dict[str, list[ServerHandover]] = field(default_factory=dict)  # of the program before, until taken
    handed_wanted: Mapping[str, int] = {}  # replicas by pool, as that wanted them


class ModelServers:
    """A managed.Server; `changed` is called when `endpoints` is different."""

    def __init__(self, name: str, pool: PoolConfig, changed: Callable[[], None], context: ServerContext) -> None:
        self._name = name
        self._context = context
        self._ray = _of_ray(name, pool)
        self._supervisor = Supervisor(
            name,
            _serve(pool) if self._ray is None else self._ray.settings(_serve(pool)),
            runtime_dir=context.runtime_dir,
            on_change=changed,
            on_exit=lambda address: context.exited(name, address),
            inflight=lambda address: context.busy(name, address),
            clock=context.clock,
            machine=context.machine,
            probe=_probe(pool),
            command=serve_command if self._ray is None else self._ray.command,
            launch=None if self._ray is None else self._ray.launch,
            on_move=self._moved,
        )
        self._engine = LocalEngine(name, pool, self._supervisor)
        self._autoscaler: Autoscaler | None = None
        self._demand: OnDemand | None = None
        self._told: Start | None = None
        self._moves = asyncio.Event()
        self._pool = pool
        self._vertical: VerticalScaler | None = None
        self._held = False
        self._stopped = False
        if _serve(pool).on_demand:
            self._demand = self._on_demand()
        handed = context.handed.pop(name, []) if self._ray is None else []
        if handed:
            if self._demand is not None:
                self._demand.wake()
            self._supervisor.adopt(handed, context.handed_wanted.get(name, len(handed)))

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
        if self._demand is not None and number:
            self._demand.wake()
        self._supervisor.scale_to(self._within(number))

    async def release(self) -> None:
        self._held = False
        await self._scale(self._pool)
        self._tell_start()

    async def stop(self) -> None:
        self._stopped = True
        if self._vertical is not None:
            await self._vertical.stop()
        if self._autoscaler is not None:
            await self._autoscaler.stop()
        if self._demand is not None:
            await self._demand.stop()
        self._moves.set()
        await self._supervisor.stop()
        if self._ray is not None:
            await self._ray.close()

    def hand_over(self) -> list[ServerHandover]:
        """Raises StartError."""
        if self._ray is not None:
            raise StartError(f"pool {self._name}: Ray runs its model servers, which cannot be handed over")
        return self._supervisor.hand_over()

    def wake(self) -> None:
        if self._demand is not None:
            self._demand.wake()
        trouble = self._useless()
        if trouble:
            self._context.starting(self._name, Start(trouble=trouble, lasts=False))

    async def woken(self) -> str:
        self.wake()
        while not self.endpoints():
            trouble = self.trouble()
            if trouble or self._stopped:
                return trouble or "its model servers are stopping"
            self._moves.clear()
            await self._moves.wait()
        return ""

    def _useless(self) -> str:
        """Why those that run take no requests, where none is on its way that might; "": they do, or none runs."""
        running = [spec.address for spec in self.endpoints()]
        if not running:
            return ""
        if self._context.kept_away(self._name):
            return "an operator keeps requests away from its model servers"
        starting = any(replica.state in (State.STARTING, State.BACKOFF) for replica in self.replicas())
        if self._demand is None and not starting and self._context.down(self._name, running):
            return "its model servers do not pass their checks"
        return ""

    def trouble(self) -> str:
        return self._supervisor.next_ready().start.trouble

    def replicas(self) -> Sequence[Replica]:
        return self._supervisor.replicas()

    def cpu(self) -> Mapping[str, float]:
        return self._supervisor.cpu()

    @property
    def start_time(self) -> int | None:
        """ns that the last start took until it was ready."""
        return self._supervisor.start_time

    def scale_to(self, n: int) -> None:
        """What the autoscaler asks for."""
        (self._demand or self._supervisor).scale_to(n)

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
        cores}], restarts, engine: {engine, target, state, number, running, error}, scaling: … | None,
        vertical: … | None, on_demand: … | None}."""
        return {
            "wanted": self._supervisor.wanted,
            "standby": _serve(self._pool).standby,
            "replicas": [asdict(replica) for replica in self._supervisor.replicas()],
            "restarts": self._supervisor.restarts,
            "engine": self._engine.status() if self._ray is None else {**self._engine.status(), **self._ray.status()},
            "scaling": self._autoscaler.status() if self._autoscaler else None,
            "vertical": self._vertical.status() if self._vertical else None,
            "on_demand": self._demand_status(self._demand) if self._demand else None,
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
            meter = RunsMeter(
                lambda: [spec.address for spec in self._supervisor.endpoints()],
                lambda: self._context.waiting(self._name),
            )
            self._vertical = VerticalScaler(
                self._name, self._supervisor, serve, serve.vertical, self._context.clock, meter.ask
            )
            self._vertical.start()

    async def _scale(self, pool: PoolConfig) -> None:
        """Follows the `scaling` section; without one, there are `min` replicas."""
        serve, scaling = _serve(pool), pool.scaling
        await self._follow_demand(serve)
        if scaling is None:
            stale, self._autoscaler = self._autoscaler, None
            if stale is not None:
                await stale.stop()
        self._supervisor.scale_to(self._within(self._supervisor.wanted), serve.standby)
        if self._held or self._stopped:
            return
        if self._demand is not None:
            self._demand.start()
        if scaling is None:
            return
        if self._autoscaler is not None:
            self._autoscaler.reconfigure(scaling, self._floor, serve.max)
        else:
            self._autoscaler = Autoscaler(
                self._name,
                self,
                scaling,
                (self._floor, serve.max),
                Source(
                    self._inflight,
                    lambda: self._context.waiting(self._name),
                    lambda: self._context.counts(self._name),
                    self._supervisor.pids,
                    self._supervisor.cpu,
                    self._supervisor.memory,
                    lambda address: self._context.report(self._name, address),
                    jobs=lambda: self._context.jobs(self._name),
                ),
                ScalingMemory(self._name, self._context.state_dir),
                self._context.clock,
            )
            self._autoscaler.start()

    @property
    def _floor(self) -> int:
        """The fewest model servers now."""
        return self._demand.floor if self._demand is not None else _serve(self._pool).min

    def _within(self, number: int) -> int:
        if self._pool.scaling is None:
            return self._floor
        return min(max(number, self._floor), _serve(self._pool).max)

    async def _follow_demand(self, serve: ServeConfig) -> None:
        if not serve.on_demand:
            stale, self._demand = self._demand, None
            if stale is not None:
                await stale.stop()
        elif self._demand is None:
            self._demand = self._on_demand()
        else:
            self._demand.follow(serve.idle_timeout)

    def _on_demand(self) -> OnDemand:
        timeout, clock = _serve(self._pool).idle_timeout, self._context.clock
        return OnDemand(self._name, self._supervisor, timeout, use=self._use, turned=self._turned, clock=clock)

    def _use(self) -> Use:
        name, context = self._name, self._context
        busy = sum(context.busy(name, spec.address) for spec in self.endpoints())
        # A start that takes longer than `idle_timeout` is to be of use to who comes again; one that fails is not tried
        # for ever.
        busy += sum(replica.state == State.STARTING and not replica.restarts for replica in self.replicas())
        kept = self._autoscaler.floor if self._autoscaler else 0
        return Use(context.waiting(name), busy, context.begun(name), kept)

    def _turned(self) -> None:
        if self._autoscaler is not None and self._pool.scaling is not None:
            self._autoscaler.reconfigure(self._pool.scaling, self._floor, _serve(self._pool).max)
        self._tell_start()

    def _moved(self) -> None:
        self._moves.set()
        self._tell_start()

    def _tell_start(self) -> None:
        """Requests wait for the model servers that serve, not for those that are to follow them or have gone before."""
        if self._held or self._stopped:
            return
        start = self._supervisor.next_ready().start
        if start != self._told:
            self._told = start
            self._context.starting(self._name, start)

    def _demand_status(self, demand: OnDemand) -> dict[str, Any]:
        coming = self._supervisor.next_ready()
        return {**demand.status(), "start_s": coming.start.takes / SECOND or None, "trouble": coming.detail or None}

    def _inflight(self, address: str) -> int:
        return self._context.inflight(self._name, address)


def _probe(pool: PoolConfig) -> Probe:
    """How a server says that it is ready, where the file does not say: the model server by its health service."""
    if _serve(pool).command is None:
        return "grpc"
    return "oip" if pool.protocol == "oip" else "tcp"


def _of_ray(name: str, pool: PoolConfig) -> RayProcesses | None:
    if pool.engine is None or pool.engine.ray is None:
        return None
    from lb.control.servers.ray_processes import RayProcesses

    return RayProcesses(name, pool.engine.ray)


def _serve(pool: PoolConfig) -> ServeConfig:
    if pool.serve is None:
        raise ValueError("the pool is not a managed one")
    return pool.serve
