"""How a run is measured: at full load for what a request costs, and at a fixed rate for how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench.bed import Answer, Bed, warnings
from bench.generator import Generator
from bench.load.request import Request
from bench.open_loop import Open, raw_of, report_of
from bench.results import Metric, Sample
from bench.scenarios.base import Measure

Check = Callable[[Bed], None]

# Of every scenario at full load and then at a fixed rate.
LOAD_METRICS = (
    Metric("cpu_us", "CPU µs/request", "lower", 2),
    Metric("rps", "requests/s", "higher"),
    Metric("p50_us", "p50 µs", "lower"),
    Metric("p99_us", "p99 µs", "lower"),
)
SATURATION_METRICS = LOAD_METRICS[:2]
PACED_SECONDS = 1.0
# Latency at several rates makes a plot, not a ratio: these rounds are enough.
SWEEP_ROUNDS = 2
SWEEP_SECONDS = 1.0


@dataclass(frozen=True)
class Expect:
    """A check of one answer by HTTP/1.1: the proxy has `seconds` to get it right."""

    request: Request
    right: Callable[[Answer], bool]
    seconds: float = 5.0

    def __call__(self, bed: Bed) -> None:
        bed.ask_until(self.request, self.right, self.seconds)


def full_load(generator: Generator, check: Check, pace: Open | None = None, sweep: Sequence[float] = ()) -> Measure:
    """At full load: CPU per operation and the rate; then, at the pace's fixed rate, the latency free of coordinated
    omission; then the latency at each rate of the sweep. The answer is checked before and after.
    """

    def measure(bed: Bed) -> Sample:
        check(bed)
        bed.drive(generator, bed.timing.warmup)
        counted, usage = bed.drive(generator, bed.timing.duration)
        sample = Sample(
            values={"rps": counted.rate, "cpu_us": (usage.proxy or 0) / 1e3 / counted.operations},
            warnings=warnings(bed.cores, usage, counted.errors),
            raw={"usage": vars(usage), **counted.raw},
        )
        if pace is not None:
            paced(bed, pace, sample, PACED_SECONDS)
        if pace is not None and sweep:
            sample.raw["sweep"] = swept(bed, pace, sweep, SWEEP_SECONDS)
        check(bed)
        return sample

    return measure


def paced(bed: Bed, pace: Open, sample: Sample, seconds: float) -> None:
    """Enters latencies at a fixed rate into `sample`; a failure or a generator that was late is a warning there."""
    report = report_of(bed.drive(pace, seconds)[0])
    sample.values["p50_us"], sample.values["p99_us"] = report.percentiles([50, 99])
    raw = raw_of(report)
    del raw["series"]  # nothing happens over this time
    sample.raw |= raw
    sample.warnings += [f"at the fixed rate, {doubt}" for doubt in report.doubts()]


def swept(bed: Bed, pace: Open, rates: Sequence[float], seconds: float) -> list[dict[str, object]]:
    """Latency against load; nothing in later rounds."""
    return [_at_rate(bed, replace(pace, rate=rate), seconds) for rate in rates] if bed.round <= SWEEP_ROUNDS else []


def _at_rate(bed: Bed, pace: Open, seconds: float) -> dict[str, object]:
    report = report_of(bed.drive(pace, seconds)[0])
    failed = sum(report.failed.values())
    return {"rate": pace.rate, "latency": report.latency, "sent": report.sent, "failed": failed}
