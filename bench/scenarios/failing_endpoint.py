"""One of eight model servers fails, and fast: how many requests fail with it?

It answers 500, 503 or 429 at once, or resets connections, in four phases of a run, one for each. A phase has seven
servers that are well and one that fails: one that was well before (`late`), one of a new fleet (`start`), or one that
has just joined the others (`joining`). A phase's first second does not count, and the worst phase is the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

from bench.bed import Bed
from bench.emulated import Emulated
from bench.emulator.client import ControlClient
from bench.emulator.control import FailNow
from bench.emulator.spec import Failure, Normal, Serial, Service
from bench.errors import BenchError
from bench.load.report import Report
from bench.open_loop import Open, raw_of, report_of
from bench.peers import Task
from bench.results import Limit, Metric, Sample
from bench.scenarios.base import Scenario
from bench.scenarios.latency import CHECK, NOTE, REQUEST, WARMUP_SECONDS
from bench.scenarios.untuned import NOTE as DEFAULTS
from bench.scenarios.untuned import tuned, untuned

When = Literal["late", "start", "joining"]
Kind = Literal["error", "unavailable", "limited", "reset"]
KINDS: Mapping[Kind, str] = {"error": "500", "unavailable": "503", "limited": "429", "reset": "resets"}
FLEET = 8
PHASE, SETTLING, PAUSE = 4.0, 1.0, 1.0  # seconds
SECONDS = len(KINDS) * (PHASE + PAUSE) + 1
PACE = Open(REQUEST, 400, "poisson", connections=512, timeout=5.0)
WELL = Service(Serial(Normal(10, 0.2)))
ERRORS = Metric("errors_pct", "errors %, worst kind", "lower", 2, ratio=False)
BY_KIND = {kind: Metric(f"errors_{kind}_pct", f"{name} %", "lower", 2, ratio=False) for kind, name in KINDS.items()}
HOUR_MS = 3_600_000.0

TITLES: Mapping[When, str] = {
    "late": "one of eight model servers begins to fail",
    "start": "of eight new model servers one fails from the start",
    "joining": "an eighth model server joins, and fails",
}


def failing(kind: Kind) -> Service:
    """One that fails from the start of its windows on."""
    return Service(WELL.execution, failures=(Failure(0, HOUR_MS, how=kind),))


def fleet(when: When) -> Emulated:
    """All servers of a run; the first FLEET or, where one joins, one less are those of the beginning."""
    if when == "late":
        return Emulated((WELL,) * FLEET)
    if when == "joining":
        return Emulated((WELL,) * (FLEET - 1) + tuple(map(failing, KINDS)))
    phases = [service for kind in KINDS for service in (*(WELL,) * (FLEET - 1), failing(kind))]
    return Emulated((WELL,) * FLEET + tuple(phases))


def begin(bed: Bed, when: When, number: int) -> None:
    """Begins phase `number`, counted from 0; returns once the proxy goes by its file."""
    if when == "late":
        change = FailNow((number,), tuple(KINDS)[number], for_ms=PHASE * 1000)
        ControlClient(bed.control_ports[0]).plan(change)
    elif when == "joining":
        bed.serve_by((*bed.server_ports[: FLEET - 1], bed.server_ports[FLEET - 1 + number]))
    else:
        bed.serve_by(bed.server_ports[FLEET * (number + 1) : FLEET * (number + 2)])


def errors_pct(report: Report, begun_ns: int) -> float:
    """Failed requests in percent of those sent, in the part of a phase that counts; it began at `begun_ns`."""
    size = report.series.bin_ns
    since = begun_ns - report.began_ns
    if since < 0 or since + PHASE * 1e9 > report.duration_ns:
        raise BenchError("a phase was not within the measured time")
    part = slice(round((since + SETTLING * 1e9) / size), round((since + PHASE * 1e9) / size))
    return 100 * sum(report.series.failed[part]) / max(1, sum(report.series.sent[part]))


def measure(when: When) -> Callable[[Bed], Sample]:
    """A run of all phases."""

    def run(bed: Bed) -> Sample:
        CHECK(bed)
        control = ControlClient(bed.control_ports[0])
        bed.drive(PACE, WARMUP_SECONDS)
        control.start()
        begun: list[int] = []

        def phases() -> None:
            for number in range(len(KINDS)):
                began = time.monotonic()
                begin(bed, when, number)
                begun.append(time.monotonic_ns())
                time.sleep(max(0.0, began + PHASE + PAUSE - time.monotonic()))

        counted, usage = bed.drive(PACE, SECONDS, steady=False, during=phases)
        report = report_of(counted)
        found = {BY_KIND[kind].key: errors_pct(report, at) for kind, at in zip(KINDS, begun, strict=True)}
        return Sample(
            values={ERRORS.key: max(found.values()), **found},
            warnings=[doubt for doubt in report.doubts() if "failed" not in doubt],
            raw=raw_of(report) | {"usage": vars(usage), "servers": control.stats(), "begun_ns": begun},
        )

    return run


def scenario(when: When) -> Scenario:
    """One of the ways in which a server comes to fail."""
    servers = fleet(when)
    first = FLEET - 1 if when == "joining" else FLEET
    return Scenario(
        name="untuned-failing" if when == "late" else f"untuned-failing-{when}",
        title=f"without tuning: {TITLES[when]}, {PACE.rate:.0f} requests/s",
        task=untuned("oip", endpoints=first),
        peer_task=untuned("http", endpoints=first),
        servers={"http": servers, "grpc": servers},
        measure=measure(when),
        metrics=(ERRORS, *BY_KIND.values()),
        generators=(PACE,),
        limits=(Limit(1, metric=ERRORS.key),),
        note=f"{NOTE} {DEFAULTS}",
        rows=tuned(Task("http", balance="least_request", checks=True, failover=True, endpoints=first)),
        max_rounds=3,
    )


LATE, START, JOINING = scenario("late"), scenario("start"), scenario("joining")
