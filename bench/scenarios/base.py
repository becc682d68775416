"""What a scenario is: a job for the proxies, a server, a way to measure, and the project's own limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.bed import Bed
from bench.peers.base import Job, Upstream
from bench.results import Limit, Metric, Sample
from bench.servers import Server


@dataclass(frozen=True)
class Scenario:
    """`measure` makes one sample on a bed; `metrics[0]` is the headline, a figure of which less is better."""

    name: str
    title: str
    job: Job
    servers: Mapping[Upstream, Server]
    measure: Callable[[Bed], Sample]
    metrics: tuple[Metric, ...]
    limit: Limit | None
    max_rounds: int = 1000
    note: str = ""

    @property
    def headline(self) -> Metric:
        return self.metrics[0]


# Of every scenario that wrk drives.
LOAD_METRICS = (
    Metric("cpu_us", "CPU µs/request", "lower", 2),
    Metric("rps", "requests/s", "higher"),
    Metric("p50_us", "p50 µs", "lower"),
    Metric("p99_us", "p99 µs", "lower"),
)

__all__ = ["LOAD_METRICS", "Limit", "Metric", "Scenario"]
