"""The one path by which workers get a plan: compile, open what is new, have every worker apply it, then commit.

The start, a reload, and a managed pool whose model servers come and go all publish. Either everything of a publication
takes effect, or nothing does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lb.balancing.registry import report_period
from lb.clock import Clock
from lb.config.base import did_you_mean
from lb.config.compile import PlanMemory, compile_plan
from lb.config.plan import Plan, PoolPlan
from lb.config.schema import Config
from lb.config.tls import pool_tls_plan
from lb.control.configuration import Loaded
from lb.control.discovered import DiscoveredPools
from lb.control.fleet import Fleet, Publication
from lb.control.logs import AccessLog, set_level
from lb.control.managed import ManagedPools
from lb.control.models import ModelReadiness
from lb.control.registry import ADMIN, ENABLED, HEALTH, MAINTENANCE, UP, Advice, Initial, Registry
from lb.control.sockets import Listening, SocketTable
from lb.control.steering import Steering
from lb.control.tickets import TicketRing
from lb.control.words import SILENT, Words
from lb.core.pins import Pins
from lb.core.segment import Segment
from lb.errors import ConfigError, TidegateError
from lb.health.agent import Answer
from lb.health.agents import AgentMonitor, AgentTarget
from lb.health.check import Models
from lb.health.load_reports import LoadReportMonitor, ReportTarget
from lb.health.monitor import HealthMonitor, Target
from lb.health.tls import check_tls
from lb.health.transitions import TransitionLog
from lb.telemetry.series import Series

log = logging.getLogger("tidegate.master")

_REPUBLISH = 1.0  # seconds, after a change of endpoints that a worker did not take


@dataclass(frozen=True, slots=True)
class Parts:
    """What a publication changes."""

    segment: Segment
    registry: Registry
    sockets: SocketTable
    access_log: AccessLog
    fleet: Fleet
    managed: ManagedPools
    discovered: DiscoveredPools
    monitor: HealthMonitor
    steering: Steering
    tickets: TicketRing
    models: ModelReadiness
    transitions: TransitionLog
    agents: AgentMonitor
    load_reports: LoadReportMonitor


class Publisher:
    """Holds the configuration and the plan in force. One publication at a time; everything on the loop."""

    def __init__(self, loaded: Loaded, workers: int, parts: Parts, clock: Clock) -> None:
        self.loaded = loaded
        self.plan: Plan | None = None
        self._workers = workers
        self._parts = parts
        self._clock = clock
        self._pins = Pins(parts.segment)
        self._attempt = 0
        self._memory = PlanMemory()
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._words: dict[int, Words] = {}  # of the agents, by slot
        self._held: dict[int, bool] = {}  # slots that an agent holds down -> whether they are up but for that

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
                    {listener.name: listener.bind for listener in plan.listeners},
                    {listener.name: self._workers for listener in plan.listeners if listener.protocol == "udp"},
                )
                undo.callback(parts.sockets.discard, staged)
                access_log = parts.access_log.stage(config.log.access)
                undo.callback(access_log.discard)
                initial = dict(_initial(plan, config))
                parts.registry.prepare(initial, self._clock.now())
                undo.callback(self._steer_back)
                parts.steering.update(plan, config)
                if unchanged and before is not None and replace(plan, generation=before.generation) == before:
                    plan = before  # endpoints that changed and changed back: only their state needs a look
                else:
                    sockets = [_descriptors(staged, worker) for worker in range(self._workers)]
                    await parts.fleet.publish(Publication(plan, sockets, config.log.level, plan.to_wire()))
                parts.registry.commit(initial, self._clock.now())
                undo.pop_all()
            parts.sockets.commit(staged)
            self.plan, self.loaded = plan, loaded
            if access_log.commit():
                parts.fleet.reopen_log()
            set_level(config.log.level)
            parts.managed.apply(config, before, plan)
            parts.discovered.apply(config)
            parts.models.follow(
                _models_of(config), {p.name: [(e.address, e.slot) for e in p.endpoints] for p in plan.pools}
            )
            if parts.models.names() != {p.name: p.models for p in plan.pools if p.name in parts.models.names()}:
                self._changed.set()
            self._check(plan)
            parts.agents.update(list(_agents(plan, config)))
            parts.load_reports.update(list(_reports(plan, config)))
            self._trust_unchecked(plan, config)

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

    def endpoint_exited(self, pool: str, address: str) -> None:
        """The process behind an endpoint is gone: no worker sends it anything from this moment on."""
        slot = self._parts.registry.slot(pool, address)
        if slot is not None:
            self.judge(pool, address, slot, False, "its process exited")

    def judge(self, pool: str, address: str, slot: int, up: bool, reason: str) -> None:
        """What an endpoint is taken for from this moment on, in all workers, and why. One that its agent holds down is
        taken for it when the agent lets go."""
        if slot in self._held:
            self._held[slot] = up
            return
        before = HEALTH.get(self._parts.segment.health(slot), "unknown")
        self._parts.segment.set_health(slot, up, self._clock.now())
        self._parts.steering.look()
        self._parts.transitions.add(pool, address, "health", before, "up" if up else "down", reason)

    def models_told(self, target: Target, models: Models) -> None:
        """What a check learned of an endpoint's models; the workers are told of new ones by a plan."""
        if self._parts.models.report(target, models):
            self._changed.set()

    def operate(self, pool: str, address: str, admin: int | None, weight: int | str | None) -> None:
        """An operator's word on an endpoint: its state (enum tg_admin) and its weight ("default": the configuration's);
        None leaves as it is. Raises ConfigError when there is no such pool or endpoint."""
        slot = self._slot_of(pool, address)
        segment, transitions = self._parts.segment, self._parts.transitions
        before = ADMIN.get(segment.admin(slot)), segment.weight(slot)
        if admin is not None:
            if self._parts.registry.in_maintenance(slot) and admin != MAINTENANCE:
                self._begin_anew(pool, address, slot)
            self._parts.registry.operate(slot, admin)
        if weight is not None:
            self._parts.registry.operate_weight(slot, weight if isinstance(weight, int) else None)
        transitions.add(pool, address, "admin", before[0], ADMIN.get(segment.admin(slot)), "an operator")
        transitions.add(pool, address, "weight", before[1], segment.weight(slot), "an operator")
        if admin is not None and self.plan is not None:
            self._check(self.plan)
        self._parts.steering.look()

    def agent_told(self, target: AgentTarget, answer: Answer) -> None:
        """An agent's word on its endpoint; what it does not speak of stays as it was."""
        self._heed(target, self.words(target.slot).with_answer(answer), "its agent")

    def agent_gone(self, target: AgentTarget) -> None:
        """Takes the words of an agent back that is no longer asked."""
        self._heed(target, SILENT, "its agent is no longer asked")

    def words(self, slot: int) -> Words:
        """What the agent of an endpoint said so far."""
        return self._words.get(slot, SILENT)

    def _heed(self, target: AgentTarget, words: Words, who: str) -> None:
        pool, address, slot = target.pool, target.address, target.slot
        before = self.words(slot)
        if words == SILENT:
            self._words.pop(slot, None)
        else:
            self._words[slot] = words
        if replace(words, description=before.description) == before:
            return
        segment, registry, transitions = self._parts.segment, self._parts.registry, self._parts.transitions
        was, maintained = (ADMIN.get(segment.admin(slot)), segment.weight(slot)), registry.in_maintenance(slot)
        # As HAProxy: first the state and the weight, then the health.
        registry.advise(slot, Advice(words.admin or ENABLED, 100 if words.percent is None else words.percent))
        now = ADMIN.get(segment.admin(slot)), segment.weight(slot)
        transitions.add(pool, address, "admin", was[0], now[0], who)
        transitions.add(pool, address, "weight", was[1], now[1], who)
        if maintained != registry.in_maintenance(slot):
            if maintained:
                self._begin_anew(pool, address, slot)
            if self.plan is not None:
                self._check(self.plan)
        self._hold(target, words, before)
        if words.max_in_flight != before.max_in_flight:
            transitions.add(pool, address, "max_in_flight", before.limit, words.limit, who)
            self._changed.set()  # the limit is the plan's
        log.info("pool %s: endpoint %s: %s: %s", pool, address, who, _said(words, now[1]))
        self._parts.steering.look()

    def _hold(self, target: AgentTarget, words: Words, before: Words) -> None:
        """Keeps an endpoint down while its agent says so; then it is what its checks say."""
        pool, address, slot = target.pool, target.address, target.slot
        if words.down and slot not in self._held:
            up = self._parts.segment.health(slot) == UP
            self.judge(pool, address, slot, False, words.reason)
            self._held[slot] = up
        elif before.down and not words.down:
            up = self._held.pop(slot)
            said = words.reason if words.health else "its agent is no longer asked"
            self.judge(pool, address, slot, up, said if up else f"{said}, but its checks fail")

    def _begin_anew(self, pool: str, address: str, slot: int) -> None:
        """After maintenance an endpoint counts as a new one until its first checks."""
        known = self.loaded.config.pools.get(pool)  # None: its agent lets go of what was just removed
        health = known.health if known is not None else None
        if health is not None:
            self.judge(pool, address, slot, health.initial == "up", "maintenance is over; it has not been checked yet")

    def _slot_of(self, pool: str, address: str) -> int:
        pools = {plan.name: plan for plan in self.plan.pools} if self.plan is not None else {}
        if pool not in pools:
            raise ConfigError([f"there is no pool {pool!r}{did_you_mean(pool, pools)}"])
        known = {endpoint.address: endpoint.slot for endpoint in pools[pool].endpoints}
        if address not in known:
            raise ConfigError([f"pool {pool!r} has no endpoint {address!r}; it has {', '.join(known) or 'none'}"])
        return known[address]

    def _check(self, plan: Plan) -> None:
        """Nobody asks how an endpoint in maintenance is; its health stays as it was."""
        targets = [t for t in _targets(plan, self.loaded) if not self._parts.registry.in_maintenance(t.slot)]
        self._parts.monitor.update(targets)

    def inflight(self, pool: str, address: str) -> int:
        """Requests in flight at an endpoint, over all workers."""
        slot = self._parts.registry.slot(pool, address)
        return 0 if slot is None else self._parts.segment.inflight(slot)

    def busy(self, pool: str, address: str) -> int:
        """What an endpoint still has to do: requests in flight, and sequences that will go on there."""
        slot = self._parts.registry.slot(pool, address)
        return 0 if slot is None else self._parts.segment.inflight(slot) + self.open_sequences().get(slot, 0)

    def open_sequences(self) -> dict[int, int]:
        """How many sequences are open at each slot that has any."""
        return self._pins.open(self._clock.now())

    def waiting(self, pool: str) -> int:
        """Requests that wait for an endpoint of a pool, over all workers."""
        for plan in self.plan.pools if self.plan is not None else ():
            if plan.name == pool and plan.queue is not None:
                series = Series.of(self._parts.segment.series_total(plan.queue.series))
                return max(0, series.started - series.finished)
        return 0

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
        if before is None or before.protocol != pool.protocol or pool.sequence is None or not self._pins.opened:
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
            except TidegateError as error:
                log.error("the changed endpoints were not published: %s", error)
                self._changed.set()
                await asyncio.sleep(_REPUBLISH)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[contextlib.ExitStack]:
        with contextlib.ExitStack() as undo:
            self._parts.registry.begin()
            undo.callback(self._parts.registry.rollback)
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
        )
        return replace(plan, pools=tuple(self._leaving(self._advised(pool, loaded.config)) for pool in plan.pools))

    def _advised(self, pool: PoolPlan, config: Config) -> PoolPlan:
        """`pool` with the limits that agents ask for."""
        if config.pools[pool.name].agent is None:
            return pool
        limits = [(e, self.words(e.slot).max_in_flight) for e in pool.endpoints]
        return replace(
            pool, endpoints=tuple(e if most is None else replace(e, max_in_flight=most) for e, most in limits)
        )

    def _listed_models(self, config: Config) -> dict[str, tuple[str, ...]]:
        """The models of each pool that asks for them: as its bits are given out, or are about to be."""
        listed, known = _models_of(config), self._parts.models.names()
        return {pool: known.get(pool) or tuple(models) for pool, models in listed.items()}

    def _trust_unchecked(self, plan: Plan, config: Config) -> None:
        """An endpoint without active checks counts as up, whatever was found while it had some."""
        for pool in plan.pools:
            if config.pools[pool.name].health is not None:
                continue
            for endpoint in pool.endpoints:
                up = self._parts.segment.health(endpoint.slot) == UP
                if not up and self._parts.managed.alive(pool.name, endpoint.address):
                    self.judge(pool.name, endpoint.address, endpoint.slot, True, "nothing checks it")


def _descriptors(staged: dict[str, Listening], worker: int) -> dict[str, tuple[int, int]]:
    of_worker = {name: listening.of(worker) for name, listening in staged.items()}
    return {name: (listening.id, listening.socket.fileno()) for name, listening in of_worker.items()}


def _initial(plan: Plan, config: Config) -> Iterator[tuple[int, Initial]]:
    for pool in plan.pools:
        health = config.pools[pool.name].health
        for endpoint in pool.endpoints:
            yield endpoint.slot, Initial(endpoint.weight, health is None or health.initial == "up")


def _targets(plan: Plan, loaded: Loaded) -> Iterator[Target]:
    for pool in plan.pools:
        health = loaded.config.pools[pool.name].health
        if health is not None:
            own = pool_tls_plan(pool.protocol, health.tls, loaded.material) if health.tls is not None else None
            for endpoint in pool.endpoints:
                tls = check_tls(pool, endpoint, own)
                yield Target(pool.name, endpoint.address, endpoint.slot, health, tls)


def _agents(plan: Plan, config: Config) -> Iterator[AgentTarget]:
    for pool in plan.pools:
        agent = config.pools[pool.name].agent
        if agent is not None:
            for endpoint in pool.endpoints:
                yield AgentTarget(pool.name, endpoint.address, endpoint.slot, agent)


def _reports(plan: Plan, config: Config) -> Iterator[ReportTarget]:
    for pool in plan.pools:
        period = report_period(config.pools[pool.name].policy)
        if period is not None:
            for endpoint in pool.endpoints:
                yield ReportTarget(pool.name, endpoint.address, endpoint.slot, period, check_tls(pool, endpoint))


def _said(words: Words, weight: int) -> str:
    """An agent's words for the log."""
    said = [f"{key} {value}" for key, value in words.describe().items() if value not in (None, "")]
    return ", ".join([*said, f"its weight is {weight}"])


def _models_of(config: Config) -> dict[str, list[str]]:
    """The pools whose checks ask for models, with those that the configuration names: none where it is for the servers
    to say."""
    found = {}
    for name, pool in config.pools.items():
        if pool.health is not None and pool.health.models is not None:
            found[name] = pool.health.models if isinstance(pool.health.models, list) else []
    return found
