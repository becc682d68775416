"""One pool whose replicas an engine runs: the keeper of their number, the membership, and the autoscaler above them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from lb.clock import Clock
from lb.config.schema.file import PoolConfig
from lb.config.schema.pools.engine import EngineConfig
from lb.config.units import SECOND
from lb.control.servers.autoscaler import Autoscaler
from lb.control.servers.on_demand import OnDemand, Use
from lb.control.servers.replica import Replica, State
from lb.control.servers.scaling_memory import ScalingMemory
from lb.control.servers.signals import Source
from lb.control.servers.traffic import Counts, TrafficMeter
from lb.engines.engine import Inflight
from lb.engines.keeper import Keeper, Limits
from lb.engines.load import Load, together
from lb.engines.membership import Membership
from lb.engines.registry import build, build_lease
from lb.scaling.scaler import Traffic
from lb.upstream.start import Start

log = logging.getLogger("tidegate.scaling")

FOLLOW = SECOND // 2  # between two looks at what the scaler may choose
# What clients are told while no replica can be had; the engine's own words are for operators.
NO_ENGINE = "what runs its replicas cannot be told to start one"


class EngineContext(Struct, frozen=True, kw_only=True):
    """What scaled pools need of the master. The callables take the pool's name: its endpoints that are up, and all of
    them with those that leave; requests at one of them, and these with the sequences that will go on there; requests
    that wait for any; requests that each has got so far; what tells workers of the start of a pool's first replica; its
    counters; what an endpoint reported last, and when. `state_dir` is where what scaling learns is kept; None: nowhere.
    `jobs` are those for the pool that are not over; None while that is not known."""

    up: Callable[[str], Sequence[str]]
    known: Callable[[str], Sequence[str]]
    inflight: Callable[[str, str], int]
    busy: Callable[[str, str], int]
    waiting: Callable[[str], int]
    begun: Callable[[str], Mapping[str, int]]
    starting: Callable[[str, Start], None]
    counts: Callable[[str], Counts | None]
    report: Callable[[str, str], tuple[float, int]]
    clock: Clock
    state_dir: Path | None = None
    jobs: Callable[[str], float | None] = lambda pool: None


class Advised:
    """In place of a keeper where somebody else changes the number of replicas: `wanted` is advice to those who ask.
    Every daemon gives it, by the load of all."""

    failing = False  # nobody is told anything

    def __init__(self, minimum: int, maximum: int, membership: Membership | None) -> None:
        self.wanted = minimum
        self._limits = (minimum, maximum)
        self._membership = membership

    def scale_to(self, n: int) -> None:
        self.wanted = n

    def reconfigure(self, minimum: int, maximum: int) -> None:
        self._limits = (minimum, maximum)
        self.wanted = max(minimum, min(self.wanted, maximum))

    def leads(self, now: int) -> bool:
        return True

    def limits(self, now: int) -> Limits:
        missing = "" if self._membership is None else self._membership.missing(now)
        minimum, maximum = self._limits
        return Limits(self.wanted if missing else minimum, maximum, missing and f"nothing is removed: {missing}")

    def status(self, now: int) -> dict[str, Any]:
        return {
            "target": "whoever asks",
            "state": "current",
            "wanted": self.wanted,
            "held": self.limits(now).held or None,
            "lease": None if self._membership is None else self._membership.status(now),
        }


class _Number:
    """The number of a pool's replicas, as OnDemand changes it."""

    def __init__(self, pool: ScaledPool) -> None:
        self._pool = pool

    @property
    def wanted(self) -> int:
        return self._pool.wanted

    def scale_to(self, n: int) -> None:
        self._pool.order(n)


class ScaledPool:
    """Starts with `start`, in the running loop. The autoscaler sees the endpoints that are up as replicas, and the
    requests of all daemons at them; its limits are what the keeper allows at the moment. With `min: 0` the pool may be
    at zero, as one of model servers on this machine (lb.control.servers.on_demand)."""

    def __init__(self, name: str, pool: PoolConfig, context: EngineContext) -> None:
        assert pool.engine is not None
        self.name = name
        self.pool = pool
        self._context = context
        clock = context.clock
        found = build_lease(name, pool.engine, clock)
        self._membership = Membership(name, *found, self._load, clock) if found is not None else None
        engine = build(name, pool.engine, pool)
        self._keeper: Keeper | Advised
        if engine is None:
            self._keeper = Advised(pool.engine.min, pool.engine.max, self._membership)
        else:
            inflight = _At(self)

            async def after_look() -> None:
                self._tell_start()
                if self._keeper.leads(clock.now()):
                    await engine.drain(inflight)

            self._keeper = Keeper(engine, pool.engine.min, pool.engine.max, clock, self._membership, after_look)
        self._autoscaler: Autoscaler | None = None
        self._limits: Limits | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._busy_at: int | None = None
        self._meter = TrafficMeter()  # of what the other daemons are told
        self._demand: OnDemand | None = None
        self._told: Start | None = None
        self._stopped = False
        self._rise: tuple[int, int] | None = None  # when more replicas were asked for, and how many there are to be
        self.start_time: int | None = None  # ns that the last rise took until all of its replicas were up
        self._follow_demand()

    # What the autoscaler sees of it (lb.control.servers.autoscaler.Scalable).

    @property
    def wanted(self) -> int:
        return self._keeper.wanted

    def replicas(self) -> Sequence[Replica]:
        up = self._context.up(self.name)
        return tuple(Replica(i, None, address, State.READY, 0, None, "") for i, address in enumerate(up))

    def scale_to(self, n: int) -> None:
        if self._demand is not None:
            self._demand.scale_to(n)
        else:
            self.order(n)

    def order(self, n: int) -> None:
        """Has the engine run `n` replicas."""
        before = self._keeper.wanted
        self._keeper.scale_to(n)
        if self._keeper.wanted > before:
            self._rise = (self._context.clock.now(), self._keeper.wanted)

    # The pool's life.

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._membership is not None:
            self._tasks.append(loop.create_task(self._membership.run(), name=f"lease {self.name}"))
        if isinstance(self._keeper, Keeper):
            self._tasks.append(loop.create_task(self._keeper.run(), name=f"engine {self.name}"))
        self._tasks.append(loop.create_task(self._follow(), name=f"limits {self.name}"))
        if self._demand is not None:
            self._demand.start()

    async def stop(self) -> None:
        """Scales no more; the replicas stay as many as they are, and another daemon may take over at once."""
        self._stopped = True
        if self._demand is not None:
            await self._demand.stop()
        if self._autoscaler is not None:
            await self._autoscaler.stop()
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("pool %s: its engine was not given up in order", self.name, exc_info=result)

    async def reconfigure(self, pool: PoolConfig) -> None:
        """Other limits, and another `scaling` section; the engine is the same."""
        assert pool.engine is not None
        self.pool = pool
        stopped = self._follow_demand()
        if stopped is not None:
            await stopped.stop()
        elif self._demand is not None:
            self._demand.start()
        self._keeper.reconfigure(pool.engine.min, pool.engine.max)
        self._limits = None
        if pool.scaling is None and self._autoscaler is not None:
            stale, self._autoscaler = self._autoscaler, None
            await stale.stop()

    def wake(self) -> None:
        """Requests wait here for a replica: where there is none on demand, one is started."""
        if self._demand is not None:
            self._demand.wake()
            self._tell_start()

    async def woken(self) -> str | None:
        """Wakes the pool and waits until a replica is up: "", or why there is none; None of a pool that never is at
        zero."""
        if self._demand is None:
            return None
        self.wake()
        while not self._context.up(self.name):
            trouble = self._coming().trouble
            if trouble or self._stopped:
                return trouble or "its engine is not followed any more"
            await asyncio.sleep(FOLLOW / SECOND)
        return ""

    def same_engine(self, pool: PoolConfig) -> bool:
        """Whether `pool` has this engine, whatever its limits and its scaling are."""
        return pool.engine is not None and _engine_only(pool.engine) == _engine_only(self.pool.engine)

    def status(self, now: int) -> dict[str, Any]:
        """The engine's part of the status document at `now` (monotonic ns)."""
        assert self.pool.engine is not None
        return {
            "engine": self.pool.engine.kind,
            "min": self.pool.engine.min,
            "max": self.pool.engine.max,
            **self._keeper.status(now),
            "scaling": self._autoscaler.status() if self._autoscaler is not None else None,
            "on_demand": self._demand_status(),
        }

    def explain(self) -> dict[str, Any] | None:
        """Autoscaler.explain; None without scaling."""
        return self._autoscaler.explain(self._context.clock.now()) if self._autoscaler is not None else None

    def busy(self) -> float:
        """Requests of all daemons, in flight and waiting."""
        here = sum(self._context.inflight(self.name, address) for address in self._context.known(self.name))
        load = self._membership
        others = 0.0
        if load is not None:
            others = load.waiting() + sum(load.in_flight(address) for address in self._context.known(self.name))
        return here + self._context.waiting(self.name) + others

    def waiting(self) -> float:
        """Requests of all daemons that wait for an endpoint."""
        return self._waiting()

    def advice(self) -> int | None:
        """Replicas that there should be; None before the first decision."""
        decided = self._autoscaler is not None and self._autoscaler.status()["decisions"]
        return self._keeper.wanted if decided else None

    def active(self, seconds: float) -> bool:
        """Whether a request was there within so many seconds; looks are as far apart as `FOLLOW`, and at the call."""
        self._note_busy()
        now = self._context.clock.now()
        return self._busy_at is not None and now - self._busy_at <= seconds * SECOND

    def _note_busy(self) -> None:
        if self.busy() > 0:
            self._busy_at = self._context.clock.now()

    def _note_rise(self) -> None:
        if self._rise is not None and len(self._context.up(self.name)) >= self._rise[1]:
            self.start_time = self._context.clock.now() - self._rise[0]
            self._rise = None

    async def _follow(self) -> None:
        while True:
            self._note_busy()
            self._note_rise()
            self._tell_start()
            self._apply_limits(self._keeper.limits(self._context.clock.now()))
            await asyncio.sleep(FOLLOW / SECOND)

    def _follow_demand(self) -> OnDemand | None:
        """As the engine's section says; returns what is to be stopped."""
        engine, stale = self.pool.engine, self._demand
        assert engine is not None
        if not engine.on_demand:
            self._demand = None
            return stale
        if stale is not None:
            stale.follow(engine.idle_timeout)
        else:
            self._demand = OnDemand(
                self.name, _Number(self), engine.idle_timeout,
                use=self._use, turned=self._turned, clock=self._context.clock,
            )  # fmt: skip
        return None

    def _use(self) -> Use:
        """What all daemons have to do here. Only the one that scales, and that knows all of the load, lets the pool
        fall asleep."""
        now = self._context.clock.now()
        bound = not self._keeper.leads(now) or bool(self._keeper.limits(now).held)
        floor = self._autoscaler.floor if self._autoscaler is not None else 0
        loads = self._membership.loads(now) if self._membership is not None else ()
        elsewhere = sum(load is None or load.traffic is None or load.traffic.arrived > 0 for load in loads)
        known = self._context.known(self.name)
        here = sum(self._context.busy(self.name, address) for address in known)
        there = sum(self._membership.in_flight(address) for address in known) if self._membership is not None else 0.0
        busy = elsewhere + here + round(there)
        return Use(self._waiting(), busy, self._context.begun(self.name), max(floor, int(bound)))

    def _turned(self) -> None:
        limits, self._limits = self._limits, None
        if limits is not None:
            self._apply_limits(limits)
        self._tell_start()

    def _coming(self) -> Start:
        """Whether requests wait for the first replica, and until when."""
        takes = self.start_time or 0
        if self._keeper.failing:
            return Start(takes=takes, trouble=NO_ENGINE)
        return Start(self._rise[0] + takes if self._rise is not None and takes else 0, takes)

    def _tell_start(self) -> None:
        if self._demand is None or self._stopped:
            return
        start = self._coming()
        if start != self._told:
            self._told = start
            self._context.starting(self.name, start)

    def _demand_status(self) -> dict[str, Any] | None:
        if self._demand is None:
            return None
        start = self._coming()
        return {**self._demand.status(), "start_s": start.takes / SECOND or None, "trouble": start.trouble or None}

    def _apply_limits(self, limits: Limits) -> None:
        scaling = self.pool.scaling
        if scaling is None or limits == self._limits:
            return
        if self._limits is None or limits.held != self._limits.held:
            log.debug("pool %s: the scaler may choose %d to %d; %s", self.name, *limits_of(limits), limits.held)
        self._limits = limits
        if self._autoscaler is not None:
            self._autoscaler.reconfigure(scaling, *self._between(limits))
            return
        context = self._context
        # Processes of other machines have no figures here: their signals are missing, which the checks say.
        source = Source(
            self._inflight,
            self._waiting,
            lambda: context.counts(self.name),
            dict,
            dict,
            dict,
            lambda address: context.report(self.name, address),
            whole=self._whole,
            jobs=lambda: context.jobs(self.name),
        )
        memory = ScalingMemory(self.name, context.state_dir)
        self._autoscaler = Autoscaler(self.name, self, scaling, self._between(limits), source, memory, context.clock)
        self._autoscaler.start()

    def _between(self, limits: Limits) -> tuple[int, int]:
        """Fewest and most for the scaler: that there are none at all is not its business."""
        floor = min(self._demand.floor, limits.maximum) if self._demand is not None else 0
        return max(limits.minimum, floor), limits.maximum

    def _whole(self, own: Traffic) -> Traffic | None:
        if self._membership is None:
            return own
        loads = self._membership.loads(self._context.clock.now())
        return together(own, (None if load is None else load.traffic for load in loads))

    def _inflight(self, address: str) -> int:
        here = self._context.inflight(self.name, address)
        return here if self._membership is None else here + round(self._membership.in_flight(address))

    def _waiting(self) -> int:
        here = self._context.waiting(self.name)
        return here if self._membership is None else here + round(self._membership.waiting())

    def _load(self) -> Load:
        """This daemon's part, for the others."""
        counts = {a: self._context.inflight(self.name, a) for a in self._context.known(self.name)}
        traffic = self._meter.look(self._context.counts(self.name), self._context.clock.now())
        return Load(
            in_flight={a: n for a, n in counts.items() if n},
            waiting=self._context.waiting(self.name),
            traffic=traffic,
        )


class _At(Inflight):
    """What an engine that ends replicas asks: this daemon's requests and the others'."""

    def __init__(self, pool: ScaledPool) -> None:
        self._pool = pool

    def at(self, address: str) -> int:
        return self._pool._inflight(address)

    def addresses(self) -> tuple[str, ...]:
        return tuple(self._pool._context.known(self._pool.name))


def limits_of(limits: Limits) -> tuple[int, int]:
    """Fewest and most."""
    return limits.minimum, limits.maximum


def _engine_only(engine: EngineConfig | None) -> EngineConfig | None:
    return None if engine is None else engine.model_copy(update={"min": 0, "max": 0, "idle_timeout": 0})
