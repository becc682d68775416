"""The scaling loop of one managed pool: looks at it, lets a rule (`lb.scaling.rules`) decide, tells the supervisor."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from lb.clock import Clock
from lb.config.schema.file import ScalingConfig
from lb.config.units import MILLISECOND, SECOND
from lb.control.servers.replica import Replica, State
from lb.control.servers.scaling_memory import ScalingMemory
from lb.control.servers.signals import Signals, Source
from lb.scaling.propose import Reading
from lb.scaling.registry import build
from lb.scaling.scaler import Decision, Look, Scaler, Traffic

log = logging.getLogger("tidegate.scaling")

HISTORY = 20
# One look a second, or five in a shorter interval: what is in flight at one moment says little about 15 seconds.
SAMPLE_INTERVAL = SECOND
SAMPLES = 5
LEAST_SAMPLE_INTERVAL = SECOND // 4
KEEP_INTERVAL = 60 * SECOND  # between two times that what was learned is written


class Scalable(Protocol):
    """What is scaled; `lb.control.servers.supervisor.Supervisor` is one."""

    @property
    def wanted(self) -> int: ...
    @property
    def start_time(self) -> int | None: ...
    def replicas(self) -> Sequence[Replica]: ...
    def scale_to(self, n: int) -> None: ...


class ScaleEvent(Struct, frozen=True):
    """A change of the number of replicas at `at` (monotonic ns)."""

    at: int
    before: int
    after: int
    reason: str


class _Counts(Struct):
    decisions: int = 0
    ups: int = 0
    downs: int = 0


class Autoscaler:
    """Scales `target` within `limits` (fewest, most) by the signals of `source`. `memory` is where the rule's is kept.

    `sample` and `step` are the loop's body and read no clock, so that tests and simulations can drive them.
    """

    def __init__(
        self,
        pool: str,
        target: Scalable,
        settings: ScalingConfig,
        limits: tuple[int, int],
        source: Source,
        memory: ScalingMemory,
        clock: Clock,
    ) -> None:
        self.pool = pool
        self._target = target
        self._settings = settings
        self._limits = limits
        self._source = source
        self._signals = Signals(source, settings.signals, clock)
        self._memory = memory
        self._clock = clock
        self._rule: Scaler = build(settings)
        self._look: Look | None = None
        self._last: Decision | None = None
        self._decided_at: int | None = None
        self._events: deque[ScaleEvent] = deque(maxlen=HISTORY)
        self._counts = _Counts()
        self._task: asyncio.Task[None] | None = None

    @property
    def floor(self) -> int:
        """Replicas that schedules ask for now, whatever the load; 0 without one."""
        if not self._settings.schedules:
            return 0
        from lb.scaling.schedules import Scheduled

        return self._rule.floor if isinstance(self._rule, Scheduled) else 0

    def start(self) -> None:
        """Begin to scale, in the running loop; the first decision comes after one interval."""
        if self._task is None:
            self._memory.restore(self._rule)
            self._signals.start()
            self._task = asyncio.create_task(self._run(), name=f"scaling {self.pool}")

    async def stop(self) -> None:
        """Scale no more; what was learned is kept."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            await self._signals.stop()
            await self._keep()

    def reconfigure(self, settings: ScalingConfig, minimum: int, maximum: int) -> None:
        """Follow other settings from the next decision on. A rule that goes on keeps what it has learned; one whose
        settings are the same keeps all."""
        self._limits = (minimum, maximum)
        if settings == self._settings:
            return
        before, self._settings, self._rule = self._rule, settings, build(settings)
        self._signals.follow(settings.signals)
        if before.name == self._rule.name:
            try:
                self._rule.restore(before.memory())
            except ValueError as error:
                log.info("pool %s: what was learned is of no use with these settings: %s", self.pool, error)

    def sample(self, now: int) -> Look:
        """Take one look at the pool, at `now` (monotonic ns), for the rule."""
        wanted = self._target.wanted
        ready = [r.address for r in self._target.replicas() if r.state == State.READY and r.address is not None]
        traffic, readings = self._signals.read(ready, max(0, wanted - len(ready)), now)
        look = Look(
            now, wanted, len(ready), *self._limits, self._source.wall(), traffic, readings, self._target.start_time
        )
        self._look = look
        self._rule.see(look)
        return look

    def step(self, now: int) -> Decision:
        """Decide on the looks since the last decision, and act on it."""
        before = self._target.wanted
        decision = self._rule.decide(now)
        if before == 0 and decision.replicas > decision.foreseen and self._is_unused():
            why = f"{decision.reason}; at zero without a request"
            decision = replace(decision, replicas=decision.foreseen, reason=why)
        self._last, self._decided_at = decision, now
        self._counts.decisions += 1
        if decision.replicas != before:
            self._events.append(ScaleEvent(now, before, decision.replicas, decision.reason))
            self._counts.ups += decision.replicas > before
            self._counts.downs += decision.replicas < before
            log.info("pool %s: scaled from %d to %d: %s", self.pool, before, decision.replicas, decision.reason)
            self._target.scale_to(decision.replicas)
        else:
            log.debug("pool %s: stays at %d: %s", self.pool, before, decision.reason)
        return decision

    def _is_unused(self) -> bool:
        traffic = self._look.traffic if self._look is not None else None
        return traffic is None or not (traffic.arrived or traffic.waiting)

    def status(self) -> dict[str, Any]:
        """For status and metrics: rule, limits, the last decision with its metrics, counts, the last scale events."""
        last = self._last
        return {
            "rule": self._rule.name,
            "wanted": self._target.wanted,
            "min": self._limits[0],
            "max": self._limits[1],
            "decided_at": self._decided_at,
            "recommended": last.recommended if last else None,
            "reason": last.reason if last else "no decision yet",
            "metrics": dict(last.detail) if last else {},
            "learned": dict(self._rule.learned()),
            "decisions": self._counts.decisions,
            "scaled_up": self._counts.ups,
            "scaled_down": self._counts.downs,
            "events": [{"at": e.at, "from": e.before, "to": e.after, "reason": e.reason} for e in self._events],
        }

    def explain(self, now: int) -> dict[str, Any]:
        """Why there are as many replicas as there are: all that the last look saw and the last decision was made of.
        `now` is monotonic ns; durations end in `_s`."""
        last, look = self._last, self._look
        return {
            "rule": self._rule.name,
            "interval_s": self._rule.interval / SECOND,
            "wanted": self._target.wanted,
            "ready": look.ready if look else 0,
            "min": self._limits[0],
            "max": self._limits[1],
            "decided_s_ago": None if self._decided_at is None else (now - self._decided_at) / SECOND,
            "recommended": last.recommended if last else None,
            "reason": last.reason if last else "no decision yet",
            "recommenders": dict(last.detail) if last else {},
            "learned": dict(self._rule.learned()),
            "memory": self._memory.describe(),
            "start_time_s": None if self._target.start_time is None else self._target.start_time / SECOND,
            "traffic": _traffic(look.traffic) if look and look.traffic else None,
            "signals": {name: _reading(reading) for name, reading in look.readings.items()} if look else {},
            "measures": self._signals.describe(now),
            "events": [
                {"s_ago": (now - e.at) / SECOND, "from": e.before, "to": e.after, "reason": e.reason}
                for e in self._events
            ],
        }

    async def _keep(self) -> None:
        try:
            # Written elsewhere: a slow disk must not hold up the loop.
            await asyncio.to_thread(self._memory.save, self._rule.name, self._rule.memory())
        except Exception:
            log.exception("pool %s: what was learned could not be kept", self.pool)

    async def _run(self) -> None:
        # From decision to decision rather than on a grid: a change is then never a whisker younger than its period.
        decided = kept = self._clock.now()
        while True:
            interval = self._rule.interval
            left = decided + interval - self._clock.now()
            tick = min(SAMPLE_INTERVAL, max(interval // SAMPLES, LEAST_SAMPLE_INTERVAL))
            await asyncio.sleep(max(MILLISECOND, min(tick, left)) / SECOND)
            now = self._clock.now()
            try:
                self.sample(now)
                if now - decided >= interval:
                    decided = now
                    self.step(now)
            except Exception:
                # Whatever is wrong, the pool keeps the size it has, and the next round may do better.
                log.exception("pool %s: could not decide on its size", self.pool)
            if now - kept >= KEEP_INTERVAL:
                kept = now
                await self._keep()


def _traffic(traffic: Traffic) -> dict[str, Any]:
    return {
        "span_s": traffic.span / SECOND,
        "requests_per_second": traffic.arrived * SECOND / traffic.span,
        "answered": traffic.answered,
        "failed": traffic.failed,
        "refused": traffic.refused,
        "in_flight": traffic.in_flight,
        "waiting": traffic.waiting,
    }


def _reading(reading: Reading) -> dict[str, Any]:
    values = reading.values
    average = sum(values) / len(values) if values else None
    return {"average": average, "missing": reading.missing, "unready": reading.unready}
