"""Runs the health checks of every endpoint: one task each, so that checks of one endpoint never overlap.

A check that times out is weak evidence: a server that is busy answers requests, and its checks wait behind them. If the
endpoint has answered requests well meanwhile, that check does not count. One that is refused, reset or answered wrong
does, whatever requests say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from lb.clock import Clock
from lb.config.schema.file import HealthConfig
from lb.health.check import NO_INDEX, Check, CheckFailed, Means, Models, at_port, is_ours, shown
from lb.health.checks.tls import CheckTls
from lb.health.registry import build
from lb.health.rise_fall import RiseFall, State
from lb.net.poller import Poller

log = logging.getLogger("tidegate.health")

SECOND = 1_000_000_000
_REASON = 500  # characters
_COMPLAIN = 10 * SECOND  # between two lines of the log that checks cannot be made
_GRID = 0.05  # seconds: checks begin together, for the wake of a process costs more than a check
_SHORT = 0.5  # seconds: shorter pauses are exact
_SPACE = SECOND // 1000  # between the first checks of endpoints that come together: a check costs less than that


class Target(Struct, frozen=True):
    """An endpoint to check; `slot` is its record in the shared segment."""

    pool: str
    address: str
    slot: int
    health: HealthConfig
    tls: CheckTls | None = None
    series: int = -1  # of its requests in the shared segment; -1: they say nothing of it

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it the same endpoint: a slot given anew means that the old state is gone from the segment."""
        return self.pool, self.address, self.slot


class _Watch(Struct):
    """The live side of a target: its state machine, its task, whether it was ever up, and what the last check said."""

    target: Target
    machine: RiseFall
    first_delay: float
    was_up: bool
    task: asyncio.Task[None] | None = None
    checks: int = 0
    failures: int = 0
    overruled: int = 0  # checks that timed out while requests were answered
    overruling: bool = False  # the last check was one of them
    answered: int = 0  # requests, when the last check began
    unheard: bool = True  # it has not answered, nor failed to, since it is checked
    timed_out: bool = False  # the last check
    last: dict[str, Any] = field(default_factory=dict)


class _Waiter(Struct, eq=False):
    """Somebody who waits for the first checks of `awaited`."""

    awaited: set[tuple[str, str, int]]
    over: asyncio.Event = field(default_factory=asyncio.Event)


class HealthMonitor:
    """Checks targets and reports changes: `on_change(target, up, reason)` is called in the loop, once per transition,
    and `on_models(target, models, begun)` after every good check that asked for models, which began at `begun`.

    A target begins as `believed(target)` says (up or not), without a call; by default as its `health.initial`. It is
    asked at once. With `initial: up` its first answer decides. `answered(target)` counts the requests that the target
    has answered well so far. `begin`, `update` and `close` need a running loop.
    """

    def __init__(
        self,
        on_change: Callable[[Target, bool, str], None],
        clock: Clock,
        rng: random.Random | None = None,
        build_check: Callable[[HealthConfig, CheckTls | None, Means], Check] = build,
        on_models: Callable[[Target, Models, int], None] | None = None,
        believed: Callable[[Target], bool] = lambda target: target.health.initial == "up",
        answered: Callable[[Target], int] = lambda target: 0,
    ) -> None:
        self._on_change = on_change
        self._on_models = on_models
        self._believed = believed
        self._answered = answered
        self._clock = clock
        self._random = rng or random.Random()  # noqa: S311 - it spreads load, it guards nothing
        self._build = build_check
        self._poller: Poller | None = None  # of the connections of plain checks, all in one
        self._watches: dict[tuple[str, str, int], _Watch] = {}
        self._ended: set[asyncio.Task[None]] = set()
        self._waiters: list[_Waiter] = []
        self._cells: dict[int, asyncio.Event] = {}  # of the grid -> who is woken then
        self._complained = -_COMPLAIN  # when it was last said that checks cannot be made

    def update(self, targets: Sequence[Target]) -> None:
        """Check exactly these from now on; the state of those that stay survives, also under new settings."""
        wanted = {t.key: t for t in targets}
        for key in self._watches.keys() - wanted.keys():
            self._end(self._watches.pop(key))
        self.begin(targets)
        for key, target in wanted.items():
            old = self._watches[key]
            if (old.target.health, old.target.tls) != (target.health, target.tls):
                self._end(old)
                self._watches[key] = self._resume(old, target)

    def begin(self, targets: Sequence[Target]) -> list[Target]:
        """Check these, too, from now on: those of them that are new."""
        new = [target for target in targets if target.key not in self._watches]
        for i, target in enumerate(new):
            self._watches[target.key] = self._begin(target, i * _SPACE)
        return new

    async def wait_first(self, targets: Sequence[Target], seconds: float) -> None:
        """Returns when each of `targets` that is only assumed to be up was checked once, or after `seconds`."""
        awaited = {target.key for target in targets}
        awaited &= {key for key, watch in self._watches.items() if watch.unheard and watch.machine.assumed}
        if not awaited:
            return
        waiter = _Waiter(awaited)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.over.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters.remove(waiter)

    async def close(self) -> None:
        """Stop all checks; every socket is closed when this returns."""
        self.update(())
        while self._ended:
            await asyncio.gather(*self._ended, return_exceptions=True)
        if self._poller is not None:
            self._poller.close()
            self._poller = None

    def was_up(self, pool: str, address: str, slot: int) -> bool:
        """Whether an endpoint has been up since it is checked: not, as long as its first good checks are awaited."""
        watch = self._watches.get((pool, address, slot))
        return watch is not None and watch.was_up

    def awaited(self, pool: str, address: str, slot: int) -> bool:
        """Whether an endpoint's first check has no answer yet."""
        watch = self._watches.get((pool, address, slot))
        return watch is not None and watch.checks == 0

    def doubtful(self, pool: str, address: str, slot: int) -> bool:
        """Whether an endpoint is down by checks of which the last was not answered in time: it may only be busy."""
        watch = self._watches.get((pool, address, slot))
        return watch is not None and watch.machine.state is State.DOWN and watch.timed_out

    def status(self) -> dict[str, dict[str, dict[str, Any]]]:
        """pool -> address -> state, since (monotonic ns), checks, failures and the last result."""
        pools: dict[str, dict[str, dict[str, Any]]] = {}
        for watch in self._watches.values():
            pools.setdefault(watch.target.pool, {})[watch.target.address] = {
                "type": watch.target.health.type,
                "state": watch.machine.state.value,
                "since": watch.machine.since,
                "checks": watch.checks,
                "failures": watch.failures,
                "overruled": watch.overruled,
                "last": dict(watch.last),
            }
        return pools

    def _begin(self, target: Target, delay: int) -> _Watch:
        health = target.health
        begins = State.UP if self._believed(target) else State.DOWN
        machine = RiseFall(health.rise, health.fall, begins, self._clock.now(), health.initial == "up")
        watch = _Watch(target, machine, delay / SECOND, machine.state is State.UP, answered=self._answered(target))
        return self._start(watch)

    def _resume(self, old: _Watch, target: Target) -> _Watch:
        health = target.health
        machine = old.machine.with_limits(health.rise, health.fall)
        watch = _Watch(target, machine, self._random.uniform(0, health.interval / SECOND), old.was_up)
        watch.checks, watch.failures, watch.last = old.checks, old.failures, old.last
        watch.overruled, watch.overruling, watch.answered = old.overruled, old.overruling, old.answered
        return self._start(watch)

    def _start(self, watch: _Watch) -> _Watch:
        watch.task = asyncio.create_task(self._run(watch), name=f"health {watch.target.pool} {watch.target.address}")
        return watch

    def _end(self, watch: _Watch) -> None:
        if watch.task is not None and watch.task.cancel():
            self._ended.add(watch.task)
            watch.task.add_done_callback(self._ended.discard)

    async def _run(self, watch: _Watch) -> None:
        if self._poller is None:
            self._poller = Poller(asyncio.get_running_loop())
        with contextlib.ExitStack() as closing:
            check = self._build(watch.target.health, watch.target.tls, Means(self._poller, closing))
            await self._ask_on(watch, check)

    async def _ask_on(self, watch: _Watch, check: Check) -> None:
        health = watch.target.health
        address = at_port(watch.target.address, health.port)
        delay = watch.first_delay
        while True:
            await self._rest(delay)
            begun = self._clock.now()
            before, watch.answered = watch.answered, self._answered(watch.target)
            answer = await _ask(check, address, health.timeout)
            now = self._clock.now()
            if isinstance(answer, NotMade):
                self._not_made(watch, answer, now)
                delay = health.interval / SECOND
                continue
            # Models first: who comes up with this answer gets no request for those that are not ready there.
            if isinstance(answer, Mapping):
                self._tell_models(watch.target, answer, begun)
            passed = "passed; the server has no index of its models" if answer is NO_INDEX else "passed"
            failed = answer if isinstance(answer, Failed) else None
            watch.timed_out = failed is not None and failed.timed_out
            requests = self._answered(watch.target) - before if watch.timed_out else 0
            if failed is not None and requests > 0 and watch.machine.state is State.UP:
                self._overrule(
                    watch, f"{failed.reason}, but {requests} requests were answered: not counted", now - begun, now
                )
            else:
                watch.overruling = False
                self._record(watch, failed.reason if failed is not None else None, now - begun, now, passed)
            interval = interval_of(health, watch.machine) * (1 + health.jitter * self._random.uniform(-1, 1))
            # Start to start, so that slow answers do not stretch the interval.
            delay = max(0, interval - (now - begun)) / SECOND
            if watch.unheard:
                # Only the first comes at once: those of endpoints that came together are spread from here on.
                watch.unheard = False
                delay *= self._random.random()
                self._heard(watch.target.key)

    def _heard(self, key: tuple[str, str, int]) -> None:
        for waiter in self._waiters:
            waiter.awaited.discard(key)
            if not waiter.awaited:
                waiter.over.set()

    async def _rest(self, seconds: float) -> None:
        """Sleeps so long, give or take half of _GRID: whoever is due at about the same time is woken at once."""
        if seconds < _SHORT:
            await asyncio.sleep(seconds)
            return
        loop = asyncio.get_running_loop()
        cell = round((loop.time() + seconds) / _GRID)
        waiting = self._cells.get(cell)
        if waiting is None:
            waiting = self._cells[cell] = asyncio.Event()
            loop.call_at(cell * _GRID, self._wake, cell)
        await waiting.wait()

    def _wake(self, cell: int) -> None:
        self._cells.pop(cell).set()

    def _not_made(self, watch: _Watch, answer: NotMade, now: int) -> None:
        """The endpoint stays what it was taken for: nobody has asked it."""
        watch.last = {"ok": watch.last.get("ok", False), "reason": answer.reason, "at": now, "took": 0}
        if now >= self._complained + _COMPLAIN:
            self._complained = now
            log.error("health checks cannot be made, endpoints stay as they were: %s", answer.reason)

    def _tell_models(self, target: Target, models: Models, begun: int) -> None:
        if self._on_models is None:
            return
        try:
            self._on_models(target, models, begun)
        except Exception:
            log.exception("pool %s: endpoint %s: its models were not handled", target.pool, target.address)

    def _overrule(self, watch: _Watch, reason: str, took: int, now: int) -> None:
        watch.checks += 1
        watch.failures += 1
        watch.overruled += 1
        watch.last = {"ok": False, "reason": reason, "at": now, "took": took}
        if not watch.overruling:
            watch.overruling = True
            target = watch.target
            log.warning("pool %s: endpoint %s stays up: its check had %s", target.pool, target.address, reason)

    def _record(self, watch: _Watch, reason: str | None, took: int, now: int, passed: str) -> None:
        ok = reason is None
        watch.checks += 1
        watch.failures += not ok
        watch.last = {"ok": ok, "reason": reason or passed, "at": now, "took": took}
        transition = watch.machine.observe(ok, now)
        if transition is None:
            return
        up = transition.state is State.UP
        watch.was_up |= up
        many = "1 check" if transition.results == 1 else f"{transition.results} checks"
        why = f"{many} {'passed' if ok else f'failed, the last: {reason}'}"
        level = logging.INFO if up else logging.WARNING
        target = watch.target
        log.log(level, "pool %s: endpoint %s is %s: %s", target.pool, target.address, transition.state.value, why)
        try:
            self._on_change(target, up, reason or why)
        except Exception:
            # The listener's fault must not stop the checks, which are what brings the endpoint back.
            log.exception("pool %s: endpoint %s: its change of state was not handled", target.pool, target.address)


def interval_of(health: HealthConfig, machine: RiseFall) -> int:
    """Nanoseconds to the next check: HAProxy's inter, fastinter and downinter."""
    if machine.changing:
        return health.fast_interval or health.interval
    if machine.state is State.DOWN:
        return health.down_interval or health.interval
    return health.interval


class Failed(Struct, frozen=True):
    """A check that did not pass; `timed_out`: no answer came within its time."""

    reason: str
    timed_out: bool = False


class NotMade(Struct, frozen=True):
    """A check that could not begin, for want of descriptors or memory here."""

    reason: str


async def _ask(check: Check, address: str, timeout_ns: int) -> Failed | Models | NotMade | None:
    """Run one check within its time: what it learned of models (None: nothing) if it passed."""
    try:
        async with asyncio.timeout(timeout_ns / SECOND):
            return await check.run(address)
    except CheckFailed as e:
        if (ours := is_ours(e, address)) is not None:
            return NotMade(f"{ours} (LimitNOFILE, ulimit -n)" if "open files" in ours else ours)
        return Failed(shown(str(e), _REASON))  # it may have a server's own words
    except TimeoutError as e:
        stood = str(e.__cause__ or "")  # what the check says of itself as it is cancelled
        within = f"no answer within {timeout_ns / SECOND:g}s"
        return Failed(shown(f"{within}: {stood}", _REASON) if stood else within, timed_out=True)
    except Exception as e:
        # A defect of a check must not end the checking of its endpoint: it counts as a failure and is logged in full.
        log.exception("the check of %s failed in an unforeseen way", address)
        return Failed(f"{type(e).__name__}: {e}")
