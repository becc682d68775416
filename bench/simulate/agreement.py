"""Simulated runs beside real ones: the bench's scenarios, with the same servers, requests and configuration in both.

Nothing is asserted: a real run has the machine's part in it, which the simulation leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from bench.bed import Timing
from bench.errors import BenchError
from bench.peers import Task
from bench.results import Sample
from bench.runner import Progress
from bench.runner import run as run_suite
from bench.scenarios import SCENARIOS as REAL
from bench.simulate.result import Result
from bench.simulate.run import simulate
from bench.simulate.scenarios import SCENARIOS

# Scenario of the bench -> the simulated one, and the seconds that the bench measures.
TWINS: Final = {
    "uneven-endpoints": ("uneven", 10.0),
    "mixed-batches": ("mixed-batches", 10.0),
    "mixed-batches-counted": ("mixed-batches", 10.0),
    "stalling-endpoint": ("stalling", 15.0),
    "stalling-endpoint-hedged": ("stalling", 15.0),
    "overload": ("overload", 10.0),
    "overload-classes": ("classes-prioritised", 6.0),
    "untuned-uneven": ("uneven", 10.0),
    "untuned-stalling": ("stalling", 15.0),
    "untuned-mixed-batches": ("mixed-batches", 10.0),
    "untuned-overload": ("overload", 10.0),
    "untuned-classes": ("classes", 6.0),
    "untuned-concurrent": ("concurrent-8", 10.0),
    "untuned-batching": ("batching", 10.0),
    "untuned-cold-server": ("cold", 12.0),
}


@dataclass(frozen=True)
class Agreement:
    """A figure of a row of a scenario in real runs and in simulated ones."""

    scenario: str
    row: str
    figure: str
    real: tuple[float, ...]
    simulated: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Of the medians, simulated to real; 0 where the real one is 0."""
        return median(self.simulated) / median(self.real) if median(self.real) else 0.0


def measure(names: Sequence[str], runs: int, progress: Progress) -> list[Agreement]:
    """Runs each scenario of the bench `runs` times, with all rows that are ours, and as often in simulated time. Raises
    BenchError."""
    found = []
    results = run_suite([REAL[name] for name in names], [], runs, Timing(), progress)
    for outcome in results.outcomes:
        for row, subject in outcome.subjects.items():
            if subject.failed:
                raise BenchError(f"{outcome.scenario}, {row}: {subject.failed}")
            found += _compared(outcome.scenario, row, subject.samples)
    return found


def _compared(scenario: str, row: str, samples: Sequence[Sample]) -> list[Agreement]:
    task = REAL[scenario].row(row).task
    simulated = [_figures(one) for one in _simulated(scenario, task, len(samples))]
    return [
        Agreement(
            scenario, row, name, tuple(sample.values[name] for sample in samples), tuple(one[name] for one in simulated)
        )
        for name in simulated[0]
        if all(name in sample.values for sample in samples)
    ]


def _simulated(scenario: str, task: Task, runs: int) -> list[Result]:
    twin, seconds = TWINS[scenario]
    return [
        simulate(SCENARIOS[twin], json.dumps(_pool(task)), seconds, seed, route=json.dumps(_route(task)))
        for seed in range(1, runs + 1)
    ]


def _pool(task: Task) -> dict[str, Any]:
    """What bench.peers.tidegate says of the pool."""
    found: dict[str, Any] = {}
    if task.policy or not task.untuned:
        found["policy"] = task.policy or task.balance
    if task.cost:
        found["cost"] = task.cost
    if task.endpoint_limit:
        found["max_in_flight"] = task.endpoint_limit
    return found


def _route(task: Task) -> dict[str, Any]:
    return {"hedge": {"after": task.hedge}} if task.hedge else {}


def _figures(result: Result) -> dict[str, float]:
    """By the keys that samples of the bench have."""
    late = 100 * (1 - result.goodput * result.seconds / len(result.counted))
    found = {
        "p50_ms": result.percentile(50),
        "p99_ms": result.percentile(99),
        "p999_ms": result.percentile(99.9),
        "goodput": result.goodput,
        "late_pct": late,
    }
    for name, kind in result.by_kind().items():
        if name:
            found[f"{name}_goodput"] = kind["in_time"] * kind["requests"] / result.seconds
            found[f"{name}_p99_ms"] = kind["p99_ms"]
    return found


def show(agreements: Sequence[Agreement], console: Console) -> None:
    """A line for each figure: medians with their ranges, and the ratio."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("scenario", "row", "figure"):
        table.add_column(title, overflow="fold")
    for title in ("real", "simulated", "ratio"):
        table.add_column(title, justify="right")
    for one in agreements:
        ratio = f"{one.ratio:.2f}" if one.ratio else "-"
        table.add_row(one.scenario, one.row, one.figure, _spread(one.real), _spread(one.simulated), ratio)
    console.print(table)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"
