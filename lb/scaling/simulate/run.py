"""A rule driven over a trace: looks as the daemon takes them, decisions when they are due."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from lb.config.units import MINUTE, SECOND
from lb.scaling.propose import Reading
from lb.scaling.scaler import Decision, Look, Scaler, Traffic
from lb.scaling.schedules import Scheduled
from lb.scaling.simulate.pool import SimulatedPool
from lb.scaling.simulate.trace import Trace

POINTS = 400  # of a plot: more than its pixels say nothing
SIGNALS = ("in_flight", "cpu", "requests_per_second", "queue_length", "queue_wait")  # what rules see of the pool


class Setup(Struct, frozen=True):
    """What is simulated besides the trace. Times in ns; `objective` is from a request to its answer. With `minimum` 0
    all replicas stop after `idle` without a request, and the next request starts one."""

    service: int
    concurrency: int
    start: int
    objective: int
    minimum: int
    maximum: int
    seed: int = 1
    drawn: bool = False  # service times of the exponential distribution instead of all alike
    idle: int = 5 * MINUTE


class Point(Struct, frozen=True):
    """One part of the trace's length, for plots: means over it, and the late requests in it."""

    at: int
    requests_per_second: float
    replicas: float
    late: int


class Result(Struct, frozen=True):
    """What a rule did. The first five are what `--json` prints."""

    requests: int
    violations: int
    replica_seconds: float
    changes: int
    peak: int
    points: tuple[Point, ...] = ()


def simulate(trace: Trace, setup: Setup, scaler: Scaler, wall: float = 0.0) -> Result:
    """The trace under this rule, which begins with `setup.minimum` ready replicas; with none it is asleep.

    Requests left at the trace's end are answered by the replicas there are; replica seconds end with the trace. `wall`
    is the time of its begin, in seconds since the epoch.
    """
    pool = SimulatedPool(
        trace.counts, trace.width, setup.service, setup.concurrency, setup.start, setup.objective, setup.minimum,
        setup.seed, setup.drawn,
    )  # fmt: skip
    tick = min(SECOND, scaler.interval)
    demand = _Demand(setup)
    wanted = peak = setup.minimum
    requests = late = changes = 0
    paid = 0.0
    plot = _Plot(trace.length, tick)
    decided = now = 0
    while now < trace.length:
        span = min(tick, trace.length - now)
        now += span
        pool.forget()
        if demand.is_woken(pool, now):
            pool.advance(pool.next_arrival)
            wanted, peak, changes = 1, max(peak, 1), changes + 1
            pool.scale_to(1)
        pool.advance(now)
        requests, late, paid = requests + pool.arrived, late + pool.late, paid + pool.paid
        plot.add(now, span, pool)
        if demand.falls_asleep(pool, now, scaler.floor if isinstance(scaler, Scheduled) else 0):
            changes += wanted > 0
            wanted = 0
            pool.scale_to(0)
        scaler.see(looked(pool, setup, now, span, wanted, wall, demand.floor))
        if now - decided >= scaler.interval:
            decided = now
            replicas = demand.allowed(scaler.decide(now), now)
            if replicas != wanted:
                wanted, peak, changes = replicas, max(peak, replicas), changes + 1
                pool.scale_to(wanted)
    pool.forget()
    pool.finish()
    late += pool.late
    return Result(requests, late, round(paid / SECOND, 3), changes, peak, plot.points())


class _Demand:
    """Whether a pool is asleep, as `lb.control.servers.on_demand` finds it. With a `minimum` above 0 it never is."""

    def __init__(self, setup: Setup) -> None:
        self._minimum = setup.minimum
        self._idle = setup.idle
        self._used = 0
        self._asleep = setup.minimum == 0

    @property
    def floor(self) -> int:
        """The fewest replicas now."""
        return self._minimum or int(not self._asleep)

    def is_woken(self, pool: SimulatedPool, now: int) -> bool:
        """Whether a request that comes until `now` finds it asleep; it is awake from then on."""
        if not self._asleep or pool.next_arrival > now:
            return False
        self._asleep, self._used = False, now
        return True

    def falls_asleep(self, pool: SimulatedPool, now: int, kept: int) -> bool:
        """Whether it has had no request for too long; `kept` are replicas that schedules ask for."""
        if self._minimum or self._asleep:
            return False
        if pool.arrived or pool.queued or pool.in_service or pool.starting or kept:
            self._used = now
        self._asleep = now - self._used >= self._idle
        return self._asleep

    def allowed(self, decision: Decision, now: int) -> int:
        """The replicas of a decision; at zero, those alone that are to be there before requests come."""
        if not self._asleep:
            return max(decision.replicas, self.floor)
        replicas = min(decision.replicas, decision.foreseen)
        if replicas:
            self._asleep, self._used = False, now
        return replicas


def looked(pool: SimulatedPool, setup: Setup, now: int, span: int, wanted: int, wall: float, minimum: int) -> Look:
    """A look at the pool after `span` ns in which it did what it counts now."""
    traffic = Traffic(
        span, pool.arrived, pool.answered, 0, 0, int(pool.waited), int(pool.served), pool.busy / span,
        pool.waiting / span,
    )  # fmt: skip
    return Look(
        now, wanted, pool.ready, minimum, setup.maximum, wall + now / SECOND, traffic,
        _Readings(pool, setup, span, wanted), setup.start if pool.started else None,
    )  # fmt: skip


class _Readings(Mapping[str, Reading]):
    """The signals of equal replicas, which share the load equally. Each is computed for the rule that asks for it."""

    def __init__(self, pool: SimulatedPool, setup: Setup, span: int, wanted: int) -> None:
        self._ready = ready = pool.ready
        self._unready = max(0, wanted - ready)
        if not ready:
            self._values: dict[str, float] = {}
            return
        busy = pool.busy / span / ready
        waiting = pool.waiting / span / ready
        wait = pool.waited / pool.answered if pool.answered else pool.waiting / max(1, pool.arrived)
        self._values = {
            "in_flight": busy + waiting,
            "cpu": min(100.0, 100.0 * busy / setup.concurrency),
            "requests_per_second": pool.arrived * SECOND / span / ready,
            "queue_length": waiting,
            "queue_wait": wait / SECOND,
        }

    def __getitem__(self, signal: str) -> Reading:
        return Reading((self._values[signal],) * self._ready, 0, self._unready)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _Sums(Struct):
    arrived: int = 0
    paid: float = 0.0
    late: int = 0
    span: int = 0


class _Plot:
    """Sums by part of the length, none of which is shorter than a `tick`."""

    def __init__(self, length: int, tick: int) -> None:
        self._width = max(tick, -(-length // POINTS))
        self._sums = [_Sums() for _ in range(-(-length // self._width))]

    def add(self, now: int, span: int, pool: SimulatedPool) -> None:
        sums = self._sums[(now - 1) // self._width]
        sums.arrived += pool.arrived
        sums.paid += pool.paid
        sums.late += pool.late
        sums.span += span

    def points(self) -> tuple[Point, ...]:
        return tuple(
            Point(number * self._width, sums.arrived * SECOND / sums.span, sums.paid / sums.span, sums.late)
            for number, sums in enumerate(self._sums)
            if sums.span
        )
