"""A rule driven over a trace: looks as the daemon takes them, decisions when they are due."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from lb.config.units import SECOND
from lb.scaling.propose import Reading
from lb.scaling.scaler import Look, Scaler, Traffic
from lb.scaling.simulate.pool import SimulatedPool
from lb.scaling.simulate.trace import Trace

POINTS = 400  # of a plot: more than its pixels say nothing


class Setup(Struct, frozen=True):
    """What is simulated besides the trace. Times in ns; `objective` is from a request to its answer."""

    service: int
    concurrency: int
    start: int
    objective: int
    minimum: int
    maximum: int
    seed: int = 1
    drawn: bool = False  # service times of the exponential distribution instead of all alike


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
    """The trace under this rule, which begins with `setup.minimum` ready replicas.

    Requests left at the trace's end are answered by the replicas there are; replica seconds end with the trace. `wall`
    is the time of its begin, in seconds since the epoch.
    """
    pool = SimulatedPool(
        trace.counts, trace.width, setup.service, setup.concurrency, setup.start, setup.objective, setup.minimum,
        setup.seed, setup.drawn,
    )  # fmt: skip
    tick = min(SECOND, scaler.interval)
    wanted = peak = setup.minimum
    requests = late = changes = 0
    paid = 0.0
    plot = _Plot(trace.length)
    decided = now = 0
    while now < trace.length:
        span = min(tick, trace.length - now)
        now += span
        pool.forget()
        pool.advance(now)
        requests, late, paid = requests + pool.arrived, late + pool.late, paid + pool.paid
        plot.add(now, span, pool)
        scaler.see(looked(pool, setup, now, span, wanted, wall))
        if now - decided >= scaler.interval:
            decided = now
            replicas = scaler.decide(now).replicas
            if replicas != wanted:
                wanted, peak, changes = replicas, max(peak, replicas), changes + 1
                pool.scale_to(wanted)
    pool.forget()
    pool.finish()
    late += pool.late
    return Result(requests, late, round(paid / SECOND, 3), changes, peak, plot.points())


def looked(pool: SimulatedPool, setup: Setup, now: int, span: int, wanted: int, wall: float) -> Look:
    """A look at the pool after `span` ns in which it did what it counts now."""
    traffic = Traffic(
        span, pool.arrived, pool.answered, 0, 0, int(pool.waited), int(pool.served), pool.busy / span,
        pool.waiting / span,
    )  # fmt: skip
    return Look(
        now, wanted, pool.ready, setup.minimum, setup.maximum, wall + now / SECOND, traffic,
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
    """Sums by part of the length."""

    def __init__(self, length: int) -> None:
        self._width = max(1, -(-length // POINTS))
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
