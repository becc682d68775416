"""Steers what endpoints get, beside weights and health checks: ends ejections, judges intervals, declares panics.

Workers eject by themselves when too many answers in a row are bad (lb.upstream.load.outlier). Everything that takes
time is done here, by one look at each pool a few times a second: the decisions are those of lb.health.outlier and
lb.health.shares, and are written to the shared segment, where all workers see them at their next choice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct, field

from lb.clock import Clock
from lb.config.plan.plan import EndpointPlan, Plan, PoolPlan
from lb.config.schema.file import Config, PoolConfig
from lb.control.endpoints.levels import PoolLevels, rules_of
from lb.endpoints.ejection_state import EjectionStates
from lb.health.levels import Candidate
from lb.health.outlier import (
    EJECTED,
    PROBATION,
    REASONS,
    WELL,
    Move,
    Record,
    Seen,
    Volume,
    find_outliers,
    follow,
)
from lb.health.shares import WHOLE, Member, decide_shares, grown, thousandths, threshold
from lb.shared.segment import Segment
from lb.shared.words import ENDPOINT
from lb.telemetry.series import Series

log = logging.getLogger("tidegate.health")

LOOK = 0.1  # seconds between two looks
_FEW = 64  # endpoints
LONGEST = 1_000_000_000  # ns for which a pool in which nothing moves is not looked into
_UP, _ENABLED = 1, 0  # enum tg_health, tg_admin
_NAMES = {WELL: "well", EJECTED: "ejected", PROBATION: "probation"}


class _Endpoint(Struct):
    """The live side of an endpoint: its record of ejections, its counters at the last interval's end, and since when
    (monotonic ns) it has been ready for its whole share; -1: from the beginning, None: it is not."""

    plan: EndpointPlan
    generation: int
    record: Record = field(default_factory=Record)
    counted: Volume = field(default_factory=Volume)
    ready_since: int | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """What makes it the same endpoint."""
        return self.plan.address, self.plan.slot, self.generation


class _Pool(Struct):
    plan: PoolPlan
    config: PoolConfig
    states: EjectionStates
    endpoints: list[_Endpoint]
    judged_at: int
    panicking: tuple[int, ...] = ()  # priorities in a panic; (0,) for a plan without groups
    panics: int = 0
    levels: PoolLevels | None = None  # of a plan with groups
    fingerprint: int = -1  # of its endpoints' states at the last look
    look_at: int = 0  # monotonic ns: when it is looked into at the latest
    gone: dict[tuple[str, int, int], Record] = field(
        default_factory=dict
    )  # of removed ones, as long as slots have them


class Steering:
    """One for the daemon; `update` with every plan, `look` at any time, `run` for ever. All on the loop."""

    def __init__(
        self,
        segment: Segment,
        clock: Clock,
        was_up: Callable[[str, str, int], bool],
        doubtful: Callable[[str, str, int], bool],
    ) -> None:
        """`was_up(pool, address, slot)`: whether its checks ever were good enough. `doubtful`: whether its checks that
        keep it down only were not answered in time."""
        self._segment = segment
        self._clock = clock
        self._was_up = was_up
        self._doubtful = doubtful
        self._pools: dict[str, _Pool] = {}
        self._wanted = asyncio.Event()

    def update(self, plan: Plan, config: Config) -> None:
        """Steer the pools of `plan` from now on; what is known of endpoints that stay survives."""
        now = self._clock.now()
        before, self._pools = self._pools, {}
        for pool in plan.pools:
            old = before.pop(pool.name, None)
            if pool.shaped:
                self._pools[pool.name] = self._take(pool, config.pools[pool.name], old, now)
            elif old is not None:
                _let_be(old)
        for old in before.values():
            _let_be(old)
        self.look()
        if self._pools:
            self._wanted.set()
        else:
            self._wanted.clear()

    def _take(self, plan: PoolPlan, config: PoolConfig, old: _Pool | None, now: int) -> _Pool:
        known = {e.key: e for e in old.endpoints} if old is not None else {}
        gone = {**old.gone, **{key: e.record for key, e in known.items()}} if old is not None else {}
        endpoints = []
        for endpoint in plan.endpoints:
            generation = self._segment.generation(endpoint.slot)
            key = (endpoint.address, endpoint.slot, generation)
            # One that comes back before its slot was given away has what it was ejected for there.
            record, found = gone.pop(key, Record()), known.get(key)
            if found is None:
                found = _Endpoint(endpoint, generation, record, self._volume(endpoint))
                if old is None:  # everybody is new: there is nobody to leave the load to meanwhile
                    found.ready_since = -1
            found.plan = endpoint
            endpoints.append(found)
        states = EjectionStates(self._segment, [endpoint.slot for endpoint in plan.endpoints])
        pool = _Pool(plan, config, states, endpoints, old.judged_at if old is not None else now)
        if old is not None:
            pool.panicking, pool.panics = old.panicking, old.panics
            pool.levels = old.levels
            pool.gone = {key: r for key, r in gone.items() if self._segment.generation(key[1]) == key[2]}
        if not plan.groups:
            pool.levels = None
        elif pool.levels is None:
            pool.levels = PoolLevels(plan)
        else:
            pool.levels.follow(plan)
        if config.outlier is None:
            for i, each in enumerate(endpoints):
                states.release(i)
                each.record = Record(ejections=each.record.ejections)
        return pool

    async def run(self) -> None:
        """Looks at the pools for ever, while there are any to steer."""
        while True:
            await self._wanted.wait()
            try:
                self.look()
            except Exception:
                # Without the next look nobody who is ejected would ever come back.
                log.exception("the endpoints could not be steered")
            await asyncio.sleep(LOOK)

    def look(self) -> None:
        """Sees what has changed, and acts on it at once."""
        now = self._clock.now()
        for pool in self._pools.values():
            fingerprint = pool.states.fingerprint()
            moved = fingerprint != pool.fingerprint or now >= pool.look_at
            if pool.config.outlier is not None:
                if moved:
                    self._follow(pool, now)
                self._judge(pool, now)
            if moved:
                self._share(pool, now)
                pool.look_at = now if _moves(pool) else now + LONGEST
                pool.fingerprint = fingerprint

    def health_changed(self, pool: str) -> None:
        """Sees what the change of an endpoint's health means for `pool`: at once, or with the next look where so many
        endpoints may change together that a look after each would take the master's time."""
        found = self._pools.get(pool)
        if found is not None and len(found.endpoints) <= _FEW:
            self.look()

    def _follow(self, pool: _Pool, now: int) -> None:
        settings, states = pool.config.outlier, pool.states
        assert settings is not None
        over = states.ejected() - settings.most(states.size)
        for i, endpoint in enumerate(pool.endpoints):
            ejection_state, reason = states.state(i)
            if ejection_state == WELL and endpoint.record.ejection_state == WELL and not endpoint.record.multiplier:
                continue
            good = states.answered_well(i) if ejection_state == PROBATION else 0
            record, move = follow(endpoint.record, Seen(ejection_state, reason, good, over), settings, now)
            if move is Move.NOTE:
                self._say(pool, endpoint, record, now)
            elif move is Move.UNDO:
                states.release(i)
                over -= 1
            elif move is Move.PROBE:
                states.begin_probation(i, now)
                self._inform(pool, endpoint, f"is on probation for {settings.probation_requests} requests")
            elif move is Move.REINSTATE:
                if ejection_state == EJECTED:
                    states.release(i)
                elif not states.reinstate(i):
                    continue  # ejected anew just now: seen at the next look
                self._inform(pool, endpoint, "takes requests again")
            endpoint.record = record

    def _say(self, pool: _Pool, endpoint: _Endpoint, record: Record, now: int, why: str = "") -> None:
        log.warning(
            "pool %s: endpoint %s is ejected for %.1f s (ejection %d in a row): %s%s",
            pool.plan.name, endpoint.plan.address, (record.until - now) / 1e9, record.multiplier,
            REASONS.get(record.reason, "unknown"), f": {why}" if why else "",
        )  # fmt: skip

    def _inform(self, pool: _Pool, endpoint: _Endpoint, text: str) -> None:
        log.info("pool %s: endpoint %s %s after its ejection", pool.plan.name, endpoint.plan.address, text)

    def _judge(self, pool: _Pool, now: int) -> None:
        settings, states = pool.config.outlier, pool.states
        assert settings is not None
        if now - pool.judged_at < settings.interval:
            return
        pool.judged_at = now
        volumes = []
        for i, endpoint in enumerate(pool.endpoints):
            total = self._volume(endpoint.plan)
            # What came of an ejection or a probation says nothing of an endpoint that is well.
            judged = states.state(i)[0] == WELL and self._healthy(endpoint.plan)
            volumes.append(total.since(endpoint.counted) if judged else Volume())
            endpoint.counted = total
        for outlier in find_outliers(volumes, settings):
            if states.eject_endpoint(outlier.index, outlier.reason, settings.most(states.size)):
                endpoint = pool.endpoints[outlier.index]
                endpoint.record, _ = follow(endpoint.record, Seen(EJECTED, outlier.reason), settings, now)
                self._say(pool, endpoint, endpoint.record, now, outlier.text)

    def _volume(self, endpoint: EndpointPlan) -> Volume:
        series = Series(ENDPOINT, self._segment.series_total(endpoint.series))
        return Volume(series["judged.good"], series["judged.fault"], series.buckets("request_duration"))

    def _healthy(self, endpoint: EndpointPlan) -> bool:
        return self._segment.health(endpoint.slot) == _UP

    def _share(self, pool: _Pool, now: int) -> None:
        members = [self._member(pool, i, endpoint, now) for i, endpoint in enumerate(pool.endpoints)]
        if pool.levels is None:
            shares = decide_shares(members, threshold(members, pool.config.panic))
            for i, (share, panic) in enumerate(zip(shares.thousandths, shares.panic, strict=True)):
                pool.states.hold_back(i, WHOLE - share, members[i].panics(panic))
            panicking: tuple[int, ...] = (0,) if any(shares.panic) else ()
        else:
            self._share_by_level(pool, pool.levels, members)
            panicking = pool.levels.panicking
        if panicking != pool.panicking:
            pool.panics += not pool.panicking
            pool.panicking = panicking
            _say_panic(pool, members)

    def _share_by_level(self, pool: _Pool, levels: PoolLevels, members: list[Member]) -> None:
        """Tells the workers what each group gets."""
        rows = zip(pool.plan.groups, pool.plan.endpoints, members, strict=True)
        candidates = [
            Candidate(group, self._segment.weight(e.slot) * (not member.awaited), member.enabled, member.healthy)
            for group, e, member in rows
        ]
        levels.update(candidates, rules_of(pool.config, threshold(members, pool.config.panic)))
        for i, member in enumerate(members):
            panic = member.panics(levels.panic_of(i))
            pool.states.hold_back(i, WHOLE - thousandths(member, panic), panic, levels.share_of(i))

    def _member(self, pool: _Pool, i: int, endpoint: _Endpoint, now: int) -> Member:
        enabled = self._segment.admin(endpoint.plan.slot) == _ENABLED
        ejection_state = pool.states.state(i)[0] if pool.config.outlier is not None else WELL
        up, awaited = self._healthy(endpoint.plan), enabled and self._awaited(pool, endpoint.plan)
        if not (enabled and up and ejection_state == WELL):
            endpoint.ready_since = None
        elif endpoint.ready_since is None:
            endpoint.ready_since = now
        slow_start, part = pool.config.slow_start, 1.0
        if slow_start is not None and endpoint.ready_since != -1 and ejection_state != PROBATION:
            # Who is not ready yet begins with the minimum, the moment it is.
            part = grown(slow_start, now if endpoint.ready_since is None else endpoint.ready_since, now)
        # A weight of 0 keeps requests away as a drain does.
        enabled = enabled and not awaited and self._segment.weight(endpoint.plan.slot) > 0
        certain = not up and self._certain(pool, endpoint)
        return Member(enabled, up and ejection_state != EJECTED, part, awaited, certain)

    def _certain(self, pool: _Pool, endpoint: _Endpoint) -> bool:
        """Of one that is down: its checks leave no doubt of it. A panic that the file asks for knows no certainty."""
        if pool.config.panic_for_all:
            return False
        return not self._doubtful(pool.plan.name, endpoint.plan.address, endpoint.plan.slot)

    def _awaited(self, pool: _Pool, endpoint: EndpointPlan) -> bool:
        health = pool.config.health
        if health is None or health.initial == "up" or self._healthy(endpoint):
            return False
        return not self._was_up(pool.plan.name, endpoint.address, endpoint.slot)

    def ejections(self, pool: str) -> dict[str, str]:
        """The ejection state of each endpoint of a steered pool that is not well; empty for others."""
        found = self._pools.get(pool)
        if found is None:
            return {}
        states = ((e.plan.address, found.states.state(i)[0]) for i, e in enumerate(found.endpoints))
        return {address: _NAMES[state] for address, state in states if state != WELL}

    def panics(self, pool: str) -> bool:
        """Whether so few endpoints of a steered pool are healthy that the others get requests, too."""
        found = self._pools.get(pool)
        return found is not None and bool(found.panicking)

    def status(self, pool: str) -> dict[str, Any] | None:
        """{panic, panics, failovers, levels: [PoolLevels.status] | None, endpoints: {address: {ejection_state, reason,
        ejected_for_s, ejections: {reason: n}, share, panic, requests, why_not}}} of a steered pool; None for others."""
        found = self._pools.get(pool)
        if found is None:
            return None
        levels = found.levels
        return {
            "panic": bool(found.panicking),
            "panics": found.panics,
            "failovers": levels.failovers if levels is not None else 0,
            "levels": levels.status() if levels is not None else None,
            "endpoints": dict(_rows(found, self._clock.now())),
        }


def _say_panic(pool: _Pool, members: list[Member]) -> None:
    """Of those that may have requests at all, how many are healthy, and where that has no say (any more)."""
    counted = [member.healthy for member in members if member.enabled]
    who = "but those that are surely down " if any(member.certain for member in members) else ""
    text = f"in a panic: all endpoints {who}get requests" if pool.panicking else "no longer in a panic"
    if pool.levels is not None and 0 < len(pool.panicking) < len(pool.levels.status()):
        places = " and ".join(map(str, pool.panicking))
        text = f"in a panic at priority {places}: all endpoints there are as good as healthy ones"
    log.log(
        logging.WARNING if pool.panicking else logging.INFO,
        "pool %s is %s, %d of %d are healthy", pool.plan.name, text, sum(counted), len(counted),
    )  # fmt: skip


def _moves(pool: _Pool) -> bool:
    """Whether time alone changes what its endpoints get: ejections end and are forgotten, shares grow."""
    if any(e.record.ejection_state != WELL or e.record.multiplier for e in pool.endpoints):
        return True
    return pool.config.slow_start is not None and any(pool.states.held_back(i)[0] for i in range(pool.states.size))


def _rows(pool: _Pool, now: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for i, endpoint in enumerate(pool.endpoints):
        ejection_state, reason = pool.states.state(i)
        held_back, panic, requests = pool.states.held_back(i)
        known = ejection_state == EJECTED and endpoint.record.ejection_state == EJECTED
        yield (
            endpoint.plan.address,
            {
                "ejection_state": _NAMES[ejection_state],
                "reason": REASONS.get(reason, "unknown") if ejection_state == EJECTED else "",
                "ejected_for_s": round(max(0, endpoint.record.until - now) / 1e9, 1) if known else 0.0,
                "ejections": dict(endpoint.record.ejections),
                "share": (WHOLE - held_back) / WHOLE,
                "panic": panic,
                "requests": requests / WHOLE if pool.levels is not None else None,
                "why_not": pool.levels.why_not(i) if pool.levels is not None else "",
            },
        )


def _let_be(pool: _Pool) -> None:
    """Nothing of what is known of the pool has a say any more."""
    for i in range(pool.states.size):
        pool.states.release(i)
        pool.states.hold_back(i, 0, False)
