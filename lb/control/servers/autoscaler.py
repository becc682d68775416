"""The scaling loop of one managed pool: measures, lets `lb.scaling.hpa.decide` choose, tells the supervisor."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct, field

from lb.clock import Clock
from lb.config.schema.file import ScalingConfig
from lb.config.units import MILLISECOND, SECOND
from lb.control.servers.replica import Replica, State
from lb.scaling.hpa import Decision, Observation, ScalerState, decide
from lb.scaling.propose import Reading

log = logging.getLogger("tidegate.scaling")

HISTORY = 20
# One look a second, or five in a short interval: what is in flight at one moment says little about 15 seconds.
SAMPLE_INTERVAL = SECOND
SAMPLES = 5


class Scalable(Protocol):
    """What is scaled; `lb.control.servers.supervisor.Supervisor` is one."""

    @property
    def wanted(self) -> int: ...
    def replicas(self) -> Sequence[Replica]: ...
    def cpu(self) -> Mapping[str, float]: ...
    def scale_to(self, n: int) -> None: ...


class _Mean(Struct):
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1


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


class _Samples(Struct):
    """Means since the last decision: metric -> address -> mean."""

    means: dict[str, dict[str, _Mean]] = field(default_factory=dict)

    def add(self, metric: str, address: str, value: float) -> None:
        self.means.setdefault(metric, {}).setdefault(address, _Mean()).add(value)

    def readings(self, replicas: Sequence[Replica], metrics: Sequence[str], wanted: int) -> dict[str, Reading]:
        """A reading per metric over the replicas that are ready now; others that are wanted count as unready."""
        ready = [r.address for r in replicas if r.state == State.READY and r.address is not None]
        unready = max(0, wanted - len(ready))
        found = {}
        for metric in metrics:
            means = self.means.get(metric, {})
            values = tuple(means[a].total / means[a].count for a in ready if a in means)
            found[metric] = Reading(values, missing=len(ready) - len(values), unready=unready)
        return found


class Autoscaler:
    """Scales `target` between `minimum` and `maximum`; `inflight(address)` counts the requests an endpoint has now,
    `waiting()` those that wait for any.

    `sample` and `step` are the loop's body and read no clock, so that tests and simulations can drive them.
    """

    def __init__(
        self,
        pool: str,
        target: Scalable,
        settings: ScalingConfig,
        *,
        minimum: int,
        maximum: int,
        inflight: Callable[[str], int],
        waiting: Callable[[], int],
        clock: Clock,
    ) -> None:
        self.pool = pool
        self._target = target
        self._settings = settings
        self._limits = (minimum, maximum)
        self._inflight = inflight
        self._waiting = waiting
        self._clock = clock
        self._state = ScalerState()
        self._samples = _Samples()
        self._last: Decision | None = None
        self._decided_at: int | None = None
        self._events: deque[ScaleEvent] = deque(maxlen=HISTORY)
        self._counts = _Counts()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to scale, in the running loop; the first decision comes after one interval."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"scaling {self.pool}")

    async def stop(self) -> None:
        """Scale no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def reconfigure(self, settings: ScalingConfig, minimum: int, maximum: int) -> None:
        """Follow other settings from the next decision on; the history stays."""
        self._settings = settings
        self._limits = (minimum, maximum)

    def sample(self) -> None:
        """Take one look at every ready replica."""
        use = self._target.cpu()
        ready = [r.address for r in self._target.replicas() if r.state == State.READY and r.address is not None]
        # Endpoints with a limit never have more than that, however many are wanted: those who wait are load, too.
        share = self._waiting() / len(ready) if ready else 0.0
        for address in ready:
            self._samples.add("in_flight", address, self._inflight(address) + share)
            if address in use:
                self._samples.add("cpu", address, use[address])

    def step(self, now: int) -> Decision:
        """Decide on the samples since the last decision, and act on it."""
        before = self._target.wanted
        metrics = [metric.type for metric in self._settings.metrics]
        readings = self._samples.readings(self._target.replicas(), metrics, before)
        decision = decide(self._state, Observation(before, *self._limits, readings), self._settings, now)
        self._state, self._samples, self._last, self._decided_at = decision.state, _Samples(), decision, now
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

    def status(self) -> dict[str, Any]:
        """For status and metrics: limits, the last decision with its metrics, counts, and the last scale events."""
        last = self._last
        return {
            "wanted": self._target.wanted,
            "min": self._limits[0],
            "max": self._limits[1],
            "decided_at": self._decided_at,
            "recommended": last.recommended if last else None,
            "reason": last.reason if last else "no decision yet",
            "metrics": {
                p.metric: {"target": p.target, "average": p.average, "replicas": p.replicas}
                for p in (last.proposals if last else ())
            },
            "decisions": self._counts.decisions,
            "scaled_up": self._counts.ups,
            "scaled_down": self._counts.downs,
            "events": [{"at": e.at, "from": e.before, "to": e.after, "reason": e.reason} for e in self._events],
        }

    async def _run(self) -> None:
        # From decision to decision rather than on a grid: a change is then never a whisker younger than its period.
        decided = self._clock.now()
        while True:
            interval = self._settings.interval
            left = decided + interval - self._clock.now()
            tick = min(SAMPLE_INTERVAL, interval // SAMPLES)
            await asyncio.sleep(max(MILLISECOND, min(tick, left)) / SECOND)
            try:
                self.sample()
                now = self._clock.now()
                if now - decided >= interval:
                    decided = now
                    self.step(now)
            except Exception:
                # Whatever is wrong, the pool keeps the size it has, and the next round may do better.
                log.exception("pool %s: could not decide on its size", self.pool)
