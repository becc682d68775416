"""The one path by which workers get a plan: compile, open what is new, have every worker apply it, then commit.

The start, a reload, and a managed pool whose model servers come and go all publish. Either everything of a publication
takes effect, or nothing does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from lb.clock import Clock
from lb.config.plan.compile import PlanMemory, compile_plan
from lb.config.plan.plan import Plan, PoolPlan
from lb.config.schema.file import Config
from lb.control.cache.shared_tier import SharedTier
from lb.control.configuration import Loaded
from lb.control.endpoints import targets
from lb.control.endpoints.health_state import HealthStates
from lb.control.endpoints.leaving import Leaving
from lb.control.endpoints.operated import OperatedEndpoints
from lb.control.logs import set_level
from lb.control.parts import Parts
from lb.control.registry import ADMIN, DOWN
from lb.control.servers.traffic import Counts, read_counts
from lb.control.sockets import Listening
from lb.control.workers.member import Publication
from lb.errors import TidegateError
from lb.health.check import Models
from lb.health.monitor import Target
from lb.shared.affinity_table import AffinityTable
from lb.shared.words import ENDPOINT, QUEUE
from lb.telemetry.series import Series

log = logging.getLogger("tidegate.master")

_PATIENCE = 1.5  # seconds for the first checks of new endpoints, before any request comes to them
_REPUBLISH = 1.0  # seconds, after a change of endpoints that a worker did not take
_STARTED = ENDPOINT.place("started")


class Publisher:
    """Holds the configuration and the plan in force. One publication at a time; everything on the loop."""

    def __init__(
        self,
        loaded: Loaded,
        workers: int,
        parts: Parts,
        clock: Clock,
        replaced: Callable[[str], None],
        tier: SharedTier,
    ) -> None:
        """`replaced` is told the pools whose model servers are others, once all workers know it. `tier` gets the plans
        before the workers do."""
        self.loaded = loaded
        self.plan: Plan | None = None
        self._pools: dict[str, PoolPlan] = {}  # of the plan, by name
        self._workers = workers
        self._parts = parts
        self._clock = clock
        self._replaced = replaced
        self._tier = tier
        self._sequences = AffinityTable(parts.segment)
        self._attempt = 0
        self._memory = PlanMemory()
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self.operated = OperatedEndpoints(parts.registry)
        self.leaving = Leaving(parts.segment, parts.registry, self.open_sequences, clock)
        self.health_states = HealthStates(
            parts, lambda: (self.loaded.config, self.plan), self._check, self._changed.set, clock
        )

    async def publish(self, loaded: Loaded | None = None) -> None:
        """Compiles `loaded` (default: what is in force) with the managed and discovered endpoints of now, and has it
        applied. With `loaded`, waits for the sources that it brings, as they ask for it.

        Raises TidegateError with everything as it was before.
        """
        if loaded is None:
            await self._publish(None)
            return
        # Not under the lock: what happens to other pools meanwhile is published as ever.
        async with self._parts.discovered.prepared(loaded.config, self.plan):
            await self._publish(loaded)

    async def _publish(self, loaded: Loaded | None) -> None:
        async with self._lock:
            parts, before = self._parts, self.plan
            unchanged, loaded = loaded is None, loaded or self.loaded
            config = loaded.config
            with self._transaction() as undo:
                plan = self._compile(loaded)
                staged = parts.sockets.stage(
                    {place: bind for listener in plan.listeners for place, bind in listener.places().items()},
                    {place: self._workers for x in plan.listeners if x.protocol == "udp" for place in x.places()},
                )
                undo.callback(parts.sockets.discard, staged)
                access_log = parts.access_log.stage(config.log.access)
                undo.callback(access_log.discard)
                initial = dict(targets.initial(plan, config, parts.server_calls.remembers))
                parts.registry.prepare(initial, self._clock.now())
                undo.callback(self._steer_back)
                parts.steering.update(plan, config)
                await self._check_new(plan, loaded, undo)
                if unchanged and before is not None and replace(plan, generation=before.generation) == before:
                    plan = before  # endpoints that changed and changed back: only their state needs a look
                else:
                    undo.callback(self._tier.commit, before)
                    await self._tier.prepare(plan)
                    sockets = [_descriptors(staged, worker) for worker in range(self._workers)]
                    await parts.fleet.publish(Publication(plan, sockets, config.log.level, plan.to_wire()))
                parts.registry.commit(initial, self._clock.now())
                parts.tables.commit(plan.tables)
                undo.pop_all()
            parts.sockets.commit(staged)
            parts.sockets.set_receive_buffers(
                {place: x.udp.receive_buffer for x in plan.listeners if x.udp is not None for place in x.places()}
            )
            self.plan, self.loaded = plan, loaded
            self._tier.commit(plan)
            known = self._pools
            self._pools = {pool.name: pool for pool in plan.pools}
            for pool in plan.pools:
                was = known.get(pool.name)
                # The first servers of a pool replace nobody.
                if was is not None and was.cache_epoch != pool.cache_epoch and (was.cache_epoch or was.endpoints):
                    self._replaced(pool.name)
            if access_log.commit():
                parts.fleet.reopen_log()
            set_level(config.log.level)
            parts.managed.apply(config, before, plan)
            parts.discovered.apply(config)
            parts.engines.apply(config)
            self._follow_models(plan, config)
            if parts.models.names() != {p.name: p.models for p in plan.pools if p.name in parts.models.names()}:
                self._changed.set()
            self._check()
            parts.agents.update(list(targets.agents(plan, config)))
            parts.load_reports.update(list(targets.reports(plan, config)))
            self.health_states.trust_unchecked(plan, config, parts.managed.alive)

    async def _check_new(self, plan: Plan, loaded: Loaded, undo: contextlib.ExitStack) -> None:
        """Endpoints that nobody has asked yet are checked before any request can come to them: clients wait for a
        moment, at the start where connections queue, at a reload with the endpoints of before."""
        parts = self._parts
        if self.plan is None:
            self._follow_models(plan, loaded.config)
        known = parts.models.names()
        # What a check says of models is of no use before these are followed, with the plan.
        found = [t for t in targets.checked(plan, loaded) if t.health.models is None or t.pool in known]
        new = parts.monitor.begin([t for t in found if not parts.registry.in_maintenance(t.slot)])
        if new:
            undo.callback(self._check)
            await parts.monitor.wait_first(new, _PATIENCE)

    def _follow_models(self, plan: Plan, config: Config) -> None:
        endpoints = {pool.name: [(e.address, e.slot) for e in pool.endpoints] for pool in plan.pools}
        self._parts.models.follow(targets.models_of(config), endpoints)

    def _steer_back(self) -> None:
        if self.plan is not None:
            self._parts.steering.update(self.plan, self.loaded.config)

    def endpoints_changed(self, pool: str) -> None:
        """A pool has other endpoints. Model servers that are gone take no more requests from this moment on, endpoints
        that discovery no longer finds none once the plan without them is everywhere."""
        for name, address, slot in list(self._parts.registry.slots()):
            if name == pool and not self._parts.managed.alive(pool, address):
                self._parts.registry.drain(slot)
        self._changed.set()

    def shares_changed(self) -> None:
        """The canary of a route has another share of its requests."""
        self._changed.set()

    def takes_requests(self, pool: str) -> bool:
        """Whether an endpoint of a pool does, or one is started for the first request."""
        plan = self._pools.get(pool)
        registry, segment = self._parts.registry, self._parts.segment
        return plan is not None and (
            plan.on_demand
            or any(segment.health(e.slot) != DOWN and not registry.kept_away(e.slot) for e in plan.endpoints)
        )

    def models_told(self, target: Target, models: Models, begun: int) -> None:
        """What a check learned of an endpoint's models; the workers are told of new ones by a plan."""
        if self._parts.models.report(target, models, begun):
            self._changed.set()

    def model_changed(self, pool: str, addresses: Iterable[str], model: str, ready: bool) -> None:
        """These endpoints have loaded a model, or unloaded it; the workers are told of a new one by a plan."""
        slots = ((address, self._parts.registry.slot(pool, address)) for address in addresses)
        if self._parts.models.change(pool, [(a, slot) for a, slot in slots if slot is not None], model, ready):
            self._changed.set()

    def models_withheld(self, pool: str, withheld: Mapping[str, frozenset[str]]) -> None:
        """Endpoints, by address, get no requests for these models; the workers are told of new ones by a plan."""
        slots = {address: self._parts.registry.slot(pool, address) for address in withheld}
        known = {(a, slot): withheld[a] for a, slot in slots.items() if slot is not None}
        if self._parts.models.withhold(pool, known):
            self._changed.set()

    async def models_changed(self, pool: str) -> None:
        """A pool's models are others, or are to be counted: once this returns, no worker answers from what it knew of
        those before."""
        try:
            await self.publish()
        except TidegateError as error:
            log.error("pool %s: that its models have changed was not published: %s", pool, error)
            self._changed.set()

    def _check(self) -> None:
        """Nobody asks how an endpoint in maintenance is; its health stays as it was."""
        if self.plan is not None:
            found = targets.checked(self.plan, self.loaded)
            self._parts.monitor.update([t for t in found if not self._parts.registry.in_maintenance(t.slot)])

    def inflight(self, pool: str, address: str) -> int:
        """Requests in flight at an endpoint, over all workers."""
        slot = self._parts.registry.slot(pool, address)
        return 0 if slot is None else self._parts.segment.inflight(slot)

    def busy(self, pool: str, address: str) -> int:
        """What an endpoint still has to do: requests in flight, and sequences that will go on there."""
        slot = self._parts.registry.slot(pool, address)
        return 0 if slot is None else self._parts.segment.inflight(slot) + self.open_sequences().get(slot, 0)

    def begun(self, pool: str) -> dict[str, int]:
        """Requests and sessions so far, over all workers, of each endpoint of a pool."""
        plan = self._pools.get(pool)
        endpoints = plan.endpoints if plan is not None else ()
        return {e.address: self._parts.segment.series_sum(e.series, _STARTED, 1) for e in endpoints}

    def kept_away(self, pool: str) -> bool:
        """Whether an operator keeps requests away from all endpoints of a pool."""
        plan = self._pools.get(pool)
        endpoints = plan.endpoints if plan is not None else ()
        return bool(endpoints) and all(self._parts.registry.kept_away(e.slot) for e in endpoints)

    def down(self, pool: str, addresses: Sequence[str]) -> bool:
        """Whether these endpoints, which workers know of, are all taken for down."""
        plan = self._pools.get(pool)
        known = {endpoint.address: endpoint.slot for endpoint in (plan.endpoints if plan is not None else ())}
        return all(address in known and self._parts.segment.health(known[address]) == DOWN for address in addresses)

    def left(self, pool: str, address: str) -> dict[str, Any] | None:
        """What an endpoint still has to do, and how it stands, also of one that the plan no longer names; None once
        that is forgotten, or when it was never known."""
        slot = self._parts.registry.slot(pool, address)
        if slot is None:
            return None
        segment = self._parts.segment
        return {
            "address": address,
            "weight": segment.weight(slot),
            "admin": ADMIN.get(segment.admin(slot), "unknown"),
            "in_flight": segment.inflight(slot),
            "sequences": self.open_sequences().get(slot, 0),
        }

    def open_sequences(self) -> dict[int, int]:
        """How many sequences are open at each slot that has any."""
        return self._sequences.open(self._clock.now())

    def waiting(self, pool: str) -> int:
        """Requests that wait for an endpoint of a pool, over all workers."""
        plan = self._pools.get(pool)
        if plan is None or plan.queue is None:
            return 0
        return Series(QUEUE, self._parts.segment.series_total(plan.queue.series)).running

    def counts(self, pool: str) -> Counts | None:
        """What the workers have counted for a pool; None where they count nothing, or do not know it yet."""
        found = self._pools.get(pool)
        return read_counts(found, self._parts.segment) if found is not None else None

    def report(self, pool: str, address: str) -> tuple[float, int]:
        """The utilization that an endpoint reported last, and when (monotonic ns); 0 where it never did."""
        slot = self._parts.registry.slot(pool, address)
        if slot is None:
            return 0.0, 0
        utilization, _, _, at = self._parts.segment.load_report(slot)
        return utilization, at

    def sweep(self) -> None:
        """Frees what removed endpoints held in the segment, once it is unused."""
        registry = self._parts.registry
        if self._lock.locked():
            return
        pools = {pool.name: pool for pool in self.plan.pools} if self.plan is not None else {}
        still = self.open_sequences() if registry.draining() else {}

        def held(pool: str, slot: int, age: int) -> bool:
            plan = pools.get(pool)
            return plan is not None and plan.sequence is not None and slot in still and age < plan.sequence.drain_ns

        registry.sweep(self._clock.now(), held)
        if any(registry.slot(name, e.address) != e.slot for name, pool in pools.items() for e in pool.leaving):
            self._changed.set()  # the workers can forget them

    def _leaving(self, pool: PoolPlan) -> PoolPlan:
        """`pool` with those of its endpoints that it no longer names, but that may have sequences to serve."""
        before = next((p for p in self.plan.pools if p.name == pool.name), None) if self.plan is not None else None
        if before is None or before.protocol != pool.protocol or pool.sequence is None or not self._sequences.opened:
            return pool
        named, still = {endpoint.slot for endpoint in pool.endpoints}, self.open_sequences()
        # Of those that are removed now, a worker may just begin one.
        gone = [*before.endpoints, *(e for e in before.leaving if e.slot in still)]
        slot = self._parts.registry.slot
        return replace(
            pool, leaving=tuple(e for e in gone if e.slot not in named and slot(pool.name, e.address) == e.slot)
        )

    async def follow_endpoints(self) -> None:
        """Publishes every change of managed and discovered endpoints, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.publish()
            except Exception as error:  # also one that nobody foresaw: the next change has to come through
                foreseen = isinstance(error, TidegateError)
                log.error("the changed endpoints were not published: %s", error, exc_info=not foreseen)
                self._changed.set()
                await asyncio.sleep(_REPUBLISH)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[contextlib.ExitStack]:
        with contextlib.ExitStack() as undo:
            self._parts.registry.begin()
            undo.callback(self._parts.registry.rollback)
            undo.callback(self._parts.tables.rollback)
            yield undo

    def _compile(self, loaded: Loaded) -> Plan:
        self._attempt += 1
        plan = compile_plan(
            loaded.config,
            generation=self._attempt,
            workers=self._workers,
            allocator=self._parts.registry,
            managed={
                **loaded.endpoints,
                **self._parts.managed.endpoints(loaded.config, self.plan),
                **self._parts.discovered.endpoints(loaded.config),
            },
            material=loaded.material,
            tickets=self._parts.tickets.keys,
            models=self._listed_models(loaded.config),
            memory=self._memory,
            canaries=self._parts.canaries.share,
            places=self._parts.tables.places(loaded.config.tables),
        )
        epochs = self._parts.managed.epochs()
        loads = self._parts.server_calls.epoch
        advised = (self._advised(pool, loaded.config) for pool in plan.pools)
        return replace(
            plan,
            pools=tuple(
                replace(
                    self._leaving(pool),
                    cache_epoch=epochs.get(pool.name, 0),
                    models_epoch=loads(pool.name),
                    count_models=self._parts.counts.counting(pool.name),
                )
                for pool in advised
            ),
        )

    def _advised(self, pool: PoolPlan, config: Config) -> PoolPlan:
        """`pool` with the limits that operators and agents ask for: an operator's in place of the configuration's, and
        below an agent's."""
        agents = config.pools[pool.name].agent is not None
        if not agents and not self.operated.limits(pool.name):
            return pool
        endpoints = []
        for endpoint in pool.endpoints:
            most = self.operated.limit(pool.name, endpoint)
            asked = self.health_states.agent_state(endpoint.slot).max_in_flight if agents else None
            if most is not None and asked is not None:
                most = min(most, asked) if asked else most
            elif asked is not None:
                most = asked
            endpoints.append(endpoint if most is None else replace(endpoint, max_in_flight=most))
        return replace(pool, endpoints=tuple(endpoints))

    def _listed_models(self, config: Config) -> dict[str, tuple[str, ...]]:
        """The models of each pool that asks for them, or has endpoints that lack some: as its bits are given out, or
        are about to be."""
        listed, known = targets.models_of(config), self._parts.models.names()
        return {**known, **{pool: known.get(pool) or tuple(models) for pool, models in listed.items()}}


def _descriptors(staged: dict[str, Listening], worker: int) -> dict[str, tuple[int, int]]:
    of_worker = {name: listening.of(worker) for name, listening in staged.items()}
    return {name: (listening.id, listening.socket.fileno()) for name, listening in of_worker.items()}
