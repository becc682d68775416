"""What a scaling rule sees of a managed pool: its traffic, and a reading of each signal over the replicas."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from lb.clock import Clock
from lb.config.schema.file import SignalConfig
from lb.config.schema.pools.signals import QUANTILE, TIMEOUT
from lb.config.units import SECOND
from lb.control.servers.polled import Polled
from lb.control.servers.traffic import Counts, TrafficMeter
from lb.scaling.gpu import Use
from lb.scaling.propose import Reading
from lb.scaling.scaler import Traffic
from lb.shared.words import BOUNDS_US

LATENCY_SPAN = 15 * SECOND  # of the requests that a quantile is of
REPORT_AGE = 15 * SECOND  # of a load report: an older one is missing


class Source(Struct, frozen=True):
    """Where the signals of one pool come from. `counts` gives None where nothing is counted. By address: `pids` the
    processes, `cpu` their percent of one core, `memory` their resident bytes, `report` what it last said of its
    utilization and when (monotonic ns; 0: never). `wall` gives the seconds since the epoch. `whole` makes of this
    daemon's traffic that of all daemons that share the pool, or None while it is not known. `jobs` are those for the
    pool that are not over, None while that is not known."""

    inflight: Callable[[str], int]
    waiting: Callable[[], int]
    counts: Callable[[], Counts | None]
    pids: Callable[[], Mapping[str, int]]
    cpu: Callable[[], Mapping[str, float]]
    memory: Callable[[], Mapping[str, float]]
    report: Callable[[str], tuple[float, int]]
    wall: Callable[[], float] = time.time
    whole: Callable[[Traffic], Traffic | None] = lambda own: own
    jobs: Callable[[], float | None] = lambda: None


class Signals:
    """Reads the signals of one pool; call `read` from look to look. `asked` are those that cost something to read, or
    have options: the others are always there. `start`, `follow` and `stop` belong to the running loop."""

    def __init__(self, source: Source, asked: Sequence[SignalConfig], clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._meter = TrafficMeter()
        self._latencies = Latencies()
        self._asked = tuple(asked)
        self._polled: dict[str, Polled[Any]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._running = False

    def start(self) -> None:
        """Begin to ask for what takes time."""
        self._running = True
        self.follow(self._asked)

    def follow(self, asked: Sequence[SignalConfig]) -> None:
        """Read these from now on. What was asked for with the same options goes on."""
        self._asked = tuple(asked)
        if not self._running:
            return
        wanted = {key: signal for signal in asked if (key := _polled_by(signal))}
        for key in self._polled.keys() - wanted.keys():
            task = asyncio.create_task(self._polled.pop(key).stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        for key in wanted.keys() - self._polled.keys():
            self._polled[key] = self._poll(wanted[key])
            self._polled[key].start()

    async def stop(self) -> None:
        """Ask no more."""
        self._running = False
        polled, self._polled = list(self._polled.values()), {}
        await asyncio.gather(*(one.stop() for one in polled), *self._ending)

    def read(self, ready: Sequence[str], unready: int, now: int) -> tuple[Traffic | None, dict[str, Reading]]:
        """The traffic since the last call, and the readings of the replicas at the addresses `ready`; `unready` more
        are wanted. `now` is monotonic ns. A signal that is missing has no reading."""
        own = self._meter.look(self._source.counts(), now)
        self._latencies.add(self._meter.durations if own is not None else None, now)
        traffic = self._source.whole(own) if own is not None else None
        if not ready:
            return traffic, {}
        # Endpoints with a limit never have more than that, however many are wanted: those who wait are load, too.
        share = self._source.waiting() / len(ready)
        found: dict[str, Mapping[str, float] | float | None] = {
            "in_flight": {a: self._source.inflight(a) + share for a in ready},
            **(_of(traffic, len(ready)) if traffic is not None else {}),
        }
        for signal in self._asked:
            if signal.signal not in found:
                found[signal.signal] = self._value(signal, traffic, ready, now)
        return traffic, {name: _reading(value, ready, unready) for name, value in found.items() if value is not None}

    def describe(self, now: int) -> dict[str, dict[str, Any]]:
        """{age_s, error} of what is asked for again and again, by name."""
        return {one.name: one.describe(now) for one in self._polled.values()}

    def _value(
        self, signal: SignalConfig, traffic: Traffic | None, ready: Sequence[str], now: int
    ) -> Mapping[str, float] | float | None:
        """By address, or one for each replica; None: missing."""
        if signal.type == "cpu":
            return self._source.cpu()
        if signal.type == "memory":
            return self._source.memory()
        if signal.type == "latency":
            return self._latencies.quantile(signal.quantile or QUANTILE, traffic)
        if signal.type == "jobs":
            jobs = self._source.jobs()
            return None if jobs is None else jobs / len(ready)
        if signal.type == "utilization":
            reports = {address: self._source.report(address) for address in ready}
            return {a: used for a, (used, at) in reports.items() if at and now - at <= REPORT_AGE}
        polled = self._polled.get(_polled_by(signal))
        value: Any = polled.value(now) if polled is not None else None
        if value is None or signal.type == "batch_occupancy":
            return value  # type: ignore[no-any-return]
        if signal.type == "prometheus":
            return float(value) if signal.shared is False else value / len(ready)
        uses: Mapping[str, Use] = value
        return {a: use.busy if signal.type == "gpu" else float(use.memory) for a, use in uses.items()}

    def _poll(self, signal: SignalConfig) -> Polled[Any]:
        # Loaded by the pools that need it: a start waits for nothing else.
        if signal.type == "batch_occupancy":
            from lb.control.servers.batches import BatchOccupancy

            return Polled("batch_occupancy", BatchOccupancy(lambda: list(self._source.pids())).ask, self._clock)
        if signal.type == "prometheus":
            from lb.control.servers import prometheus

            url, query, timeout = signal.url or "", signal.query or "", signal.timeout or TIMEOUT
            return Polled(signal.signal, lambda: prometheus.ask(url, query, timeout), self._clock)
        from lb.control.servers.gpus import GpuSignals

        return Polled("gpu", GpuSignals(self._source.pids).ask, self._clock)


class Latencies:
    """Quantiles of the durations of the last 15 s."""

    def __init__(self) -> None:
        self._spans: deque[tuple[int, tuple[int, ...]]] = deque()  # until when, counts by the buckets of BOUNDS_US

    def add(self, durations: tuple[int, ...] | None, now: int) -> None:
        """Durations counted since the last call; None: not known."""
        if durations is not None:
            self._spans.append((now, durations))
        while self._spans and self._spans[0][0] <= now - LATENCY_SPAN:
            self._spans.popleft()

    def quantile(self, part: float, traffic: Traffic | None) -> float | None:
        """Seconds, between the bounds of a bucket in proportion; 0 where there was nothing to do, None where nothing
        has come of what there is."""
        if traffic is None:
            return None
        counts = [sum(column) for column in zip(*(spans for _, spans in self._spans), strict=True)]
        total = sum(counts)
        if not total:
            return None if traffic.in_flight or traffic.waiting else 0.0
        return quantile_of(counts, part)


def quantile_of(counts: Sequence[int], part: float) -> float:
    """The `part` quantile (0 to 1) in seconds of durations counted by the buckets of BOUNDS_US, at least one; what is
    above the last bound counts as that."""
    rank, below, low = part * sum(counts), 0, 0
    for n, high in zip(counts, BOUNDS_US, strict=False):
        if n and below + n >= rank:
            return (low + (high - low) * max(0.0, rank - below) / n) / 1e6
        below, low = below + n, high
    return BOUNDS_US[-1] / 1e6


def _polled_by(signal: SignalConfig) -> str:
    """What has to be asked for again and again for a signal, with its options; "": nothing."""
    if signal.type in ("gpu", "gpu_memory"):
        return "gpu"
    if signal.type == "prometheus":
        return f"{signal.url} {signal.timeout} {signal.query}"
    return signal.type if signal.type == "batch_occupancy" else ""


def _reading(value: Mapping[str, float] | float, ready: Sequence[str], unready: int) -> Reading:
    if isinstance(value, int | float):
        return Reading((value,) * len(ready), 0, unready)
    known = tuple(value[address] for address in ready if address in value)
    return Reading(known, len(ready) - len(known), unready)


def _of(traffic: Traffic, ready: int) -> dict[str, float]:
    """The signals that traffic alone gives, for each of `ready` replicas or of the whole pool."""
    dispatched = traffic.arrived - traffic.refused
    if dispatched > 0 and traffic.waited > 0:
        wait = traffic.waited / dispatched
    else:  # those who wait have not got anywhere yet (Little's law)
        wait = traffic.waiting * traffic.span / max(1, traffic.arrived)
    return {
        "requests_per_second": traffic.arrived * SECOND / traffic.span / ready,
        "queue_length": traffic.waiting / ready,
        "queue_wait": wait / SECOND,
    }
