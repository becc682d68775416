"""What the scenarios at a fixed rate share: requests by Poisson arrivals to emulated model servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.bed import Answer, Bed
from bench.emulator.client import ControlClient
from bench.load.report import Report
from bench.open_loop import Open, raw_of, report_of, share_above
from bench.results import Metric, Sample
from bench.scenarios.base import Measure
from bench.scenarios.inference import json_request
from bench.scenarios.measures import Expect, swept

REQUEST = json_request(700)
NOTE = "Tidegate speaks gRPC to the model servers, the peers HTTP/1.1; the same process answers both."
WARMUP_SECONDS = 1.0

P50 = Metric("p50_ms", "p50 ms", "lower", 1)
P99 = Metric("p99_ms", "p99 ms", "lower", 1)
P999 = Metric("p999_ms", "p99.9 ms", "lower", 1)
FAILED = Metric("failed_pct", "failed %", "lower", 2, ratio=False)
RATE = Metric("rate", "answers/s", "higher")
IN_TIME_SHARE = Metric("capacity_pct", "in time, % of capacity", "higher", 1, ratio=False)

# The peers that take an endpoint's load into account.
BALANCERS = ("haproxy", "nginx", "envoy")


def answered(answer: Answer) -> bool:
    return answer.status == 200 and b"outputs" in answer.body


CHECK = Expect(REQUEST, answered)


def latencies(report: Report) -> dict[str, float]:
    """P50, P99 and P999 of the answers; none where there was none."""
    if not report.completed:
        return {}
    p50, p99, p999 = report.percentiles([50, 99, 99.9])
    return {P50.key: p50 / 1e3, P99.key: p99 / 1e3, P999.key: p999 / 1e3}


@dataclass(frozen=True)
class Goodput:
    """Answers count within `deadline_ms`, and are held against `capacity`, the requests/s that the servers can do."""

    deadline_ms: float
    capacity: float

    def values(self, report: Report) -> dict[str, float]:
        """`late_pct` is the share of requests that failed or were answered later, `goodput` the others per second, and
        `capacity_pct` is that in percent of the capacity."""
        in_time = report.completed * (1 - share_above(report.histogram(), self.deadline_ms * 1e3))
        rate = in_time * 1e9 / report.duration_ns
        return {
            "late_pct": 100 * (1 - in_time / report.sent),
            "goodput": rate,
            IN_TIME_SHARE.key: 100 * rate / self.capacity,
        }


def fixed_rate(
    pace: Open,
    seconds: float,
    *,
    goodput: Goodput | None = None,
    sweep: Sequence[float] = (),
    sweep_seconds: float = 2.0,
) -> Measure:
    """Poisson arrivals for so long, from the moment from which the servers' windows count."""

    def measure(bed: Bed) -> Sample:
        CHECK(bed)
        control = ControlClient(bed.control_ports[0])
        bed.drive(pace, WARMUP_SECONDS)
        control.start()
        counted, usage = bed.drive(pace, seconds)
        report = report_of(counted)
        failed = sum(report.failed.values())
        sample = Sample(
            values=latencies(report) | {"failed_pct": 100 * failed / report.sent, "rate": report.completed_rate},
            warnings=[doubt for doubt in report.doubts() if "failed" not in doubt],
            raw=raw_of(report) | {"usage": vars(usage), "servers": control.stats()},
        )
        if goodput is not None:
            sample.values |= goodput.values(report)
        if sweep:
            sample.raw["sweep"] = swept(bed, pace, sweep, sweep_seconds)
        return sample

    return measure
