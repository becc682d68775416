"""What changes in a run, and nobody tells the proxy: half of the capacity goes, a crowd comes, a cold server joins.

Of the first two each second counts: the answers within the deadline, against what was possible, which is what came or
what the servers could do, whichever is less. The worst second counts, apart from the first one and from the two after
each change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.bed import Bed
from bench.emulated import Emulated
from bench.emulator.client import ControlClient
from bench.emulator.control import SlowNow
from bench.emulator.spec import Normal, Serial, Service
from bench.load.arrivals import Steps
from bench.load.report import Report
from bench.open_loop import Open, raw_of, report_of
from bench.peers import Task
from bench.results import Limit, Metric, Sample
from bench.scenarios.base import Measure, Scenario
from bench.scenarios.latency import CHECK, FAILED, NOTE, P50, P99, P999, REQUEST, WARMUP_SECONDS, latencies
from bench.scenarios.overload import DEADLINE
from bench.scenarios.uneven_endpoints import SERVERS
from bench.scenarios.untuned import NOTE as DEFAULTS
from bench.scenarios.untuned import tuned, untuned

SETTLING = 2.0  # seconds after a change that do not count
LATE = Metric("late_pct", "late or failed %", "lower", 1)
WORST = Metric("worst_second_pct", "worst second, % of what was possible", "higher", 1, ratio=False)
MEAN = Metric("mean_second_pct", "mean second, % of what was possible", "higher", 1, ratio=False)
CAPACITY = SERVERS.capacity
TUNED = Task("http", balance="least_request", endpoint_limit=1, queue_timeout=DEADLINE - 0.05)


@dataclass(frozen=True)
class Phase:
    """From the second `start` of the run on the servers can do `capacity` requests/s."""

    start: float
    capacity: float


def shares(report: Report, phases: Sequence[Phase]) -> list[float | None]:
    """By whole second: the answers in time as a share of what was possible; None soon after a phase has begun.

    `report` is of a run with a deadline. Answers count when they come, requests when they are due. In the first second
    some answers are to requests of the warm-up, which nobody counts: None as well.
    """
    series, size = report.series, round(1e9 / report.series.bin_ns)
    found: list[float | None] = []
    for second in range(report.duration_ns // 1_000_000_000):
        part = slice(second * size, (second + 1) * size)
        begun = [phase for phase in phases if phase.start < second + 1]
        if second == 0 or any(phase.start and second < phase.start + SETTLING for phase in begun):
            found.append(None)
            continue
        possible = min(sum(series.sent[part]), begun[-1].capacity)
        found.append(min(1.0, sum(series.in_time[part]) / possible) if possible else 1.0)
    return found


@dataclass(frozen=True)
class Slowdown:
    """All servers take `factor` times as long for `seconds`, from `after` seconds of the load on."""

    after: float
    seconds: float
    factor: float


def each_second(pace: Open, seconds: float, changes: Sequence[float] = (), slowdown: Slowdown | None = None) -> Measure:
    """A run of which each second counts. `changes` are seconds at which the load changes by its own schedule."""

    def measure(bed: Bed) -> Sample:
        CHECK(bed)
        control = ControlClient(bed.control_ports[0])
        bed.drive(replace(pace, schedule=None), WARMUP_SECONDS)
        slowed: list[int] = []

        def slow() -> None:
            if slowdown is not None:
                time.sleep(slowdown.after)
                slowed.append(control.plan(SlowNow(slowdown.factor, for_ms=slowdown.seconds * 1000)))

        counted, usage = bed.drive(pace, seconds, during=slow)
        report = report_of(counted)
        phases = [Phase(at, CAPACITY) for at in (0, *changes)]
        for at_ns in slowed:
            assert slowdown is not None
            at = (at_ns - report.began_ns) / 1e9
            phases += [Phase(at, CAPACITY / slowdown.factor), Phase(at + slowdown.seconds, CAPACITY)]
        by_second = shares(report, phases)
        counting = [share for share in by_second if share is not None]
        return Sample(
            values={
                LATE.key: 100 * (1 - sum(report.series.in_time) / report.sent),
                WORST.key: 100 * min(counting),
                MEAN.key: 100 * sum(counting) / len(counting),
            },
            warnings=[doubt for doubt in report.doubts() if "failed" not in doubt],
            raw=raw_of(report) | {"usage": vars(usage), "servers": control.stats(), "shares": by_second},
        )

    return measure


def scenario(name: str, title: str, pace: Open, measure: Measure) -> Scenario:
    """A scenario of which each second counts."""
    return Scenario(
        name=f"untuned-{name}",
        title=f"without tuning: {title}, due within {DEADLINE * 1000:.0f} ms",
        task=untuned("oip", DEADLINE),
        peer_task=untuned("http", DEADLINE),
        servers={"http": SERVERS, "grpc": SERVERS},
        measure=measure,
        metrics=(LATE, WORST, MEAN),
        generators=(pace,),
        limits=(Limit(90, metric=WORST.key),),
        note=f"{NOTE} {DEFAULTS}",
        rows=tuned(TUNED),
        max_rounds=3,
    )


HALVING = Slowdown(5, 20, 2)
HALVED_PACE = Open(REQUEST, 700, "poisson", connections=2000, timeout=2.0, deadline=DEADLINE, warmup=1.0, cooldown=1.0)
CAPACITY_HALVED = scenario(
    "capacity-halved",
    f"twelve model servers take twice as long for {HALVING.seconds:.0f} s, {HALVED_PACE.rate:.0f} requests/s of "
    f"{CAPACITY:.0f} and then of {CAPACITY / HALVING.factor:.0f}",
    HALVED_PACE,
    each_second(HALVED_PACE, HALVING.after + HALVING.seconds + 5, slowdown=HALVING),
)

USUAL, CROWD = 300.0, 1500.0
BEFORE, CROWDED, AFTER = 5.0, 6.0, 5.0  # seconds
CROWD_PACE = Open(
    REQUEST,
    USUAL,
    "poisson",
    connections=2000,
    timeout=2.0,
    deadline=DEADLINE,
    schedule=Steps(((USUAL, BEFORE), (CROWD, CROWDED), (USUAL, AFTER))),
)
FLASH_CROWD = scenario(
    "flash-crowd",
    f"{USUAL:.0f} requests/s, and {CROWD:.0f} for {CROWDED:.0f} s, to twelve model servers that do {CAPACITY:.0f}",
    CROWD_PACE,
    each_second(CROWD_PACE, BEFORE + CROWDED + AFTER, changes=(BEFORE, BEFORE + CROWDED)),
)

# A server joins by a reload and takes ten times as long for its first seconds.
WARM, JOINS_AFTER, COLD_SECONDS, COLD_FACTOR = 7, 3.0, 5.0, 10.0
JOINED_SECONDS = 12.0
COLD_PACE = Open(REQUEST, 550, "poisson", connections=1000)
COLD_SERVERS = Emulated((Service(Serial(Normal(10, 0.2))),) * (WARM + 1))


def cold(bed: Bed) -> Sample:
    """The latencies while the last server joins."""
    CHECK(bed)
    control = ControlClient(bed.control_ports[0])
    control.start()
    bed.drive(COLD_PACE, WARMUP_SECONDS)
    joined: list[int] = []

    def join() -> None:
        time.sleep(JOINS_AFTER)
        control.plan(SlowNow(COLD_FACTOR, servers=(WARM,), for_ms=COLD_SECONDS * 1000))
        bed.serve_by(bed.server_ports)
        joined.append(time.monotonic_ns())

    counted, usage = bed.drive(COLD_PACE, JOINED_SECONDS, steady=False, during=join)
    report = report_of(counted)
    return Sample(
        values=latencies(report) | {FAILED.key: 100 * sum(report.failed.values()) / report.sent},
        warnings=[doubt for doubt in report.doubts() if "failed" not in doubt],
        raw=raw_of(report) | {"usage": vars(usage), "servers": control.stats(), "joined_ns": joined},
    )


COLD_SERVER = Scenario(
    name="untuned-cold-server",
    title=f"without tuning: an eighth model server joins, {COLD_FACTOR:.0f} times slower for {COLD_SECONDS:.0f} s, "
    f"{COLD_PACE.rate:.0f} requests/s of the {WARM * 100} that the others can do",
    task=untuned("oip", endpoints=WARM),
    peer_task=untuned("http", endpoints=WARM),
    servers={"http": COLD_SERVERS, "grpc": COLD_SERVERS},
    measure=cold,
    metrics=(P99, P50, P999, FAILED),
    generators=(COLD_PACE,),
    note=f"{NOTE} {DEFAULTS}",
    rows=tuned(Task("http", balance="least_request", serial=True, endpoints=WARM)),
    max_rounds=3,
)
