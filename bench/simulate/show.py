"""Results of simulated runs as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.simulate.result import Result

COLUMNS = ("p50 ms", "p99", "p99.9", "in time/s", "of able", "worst s", "failed", "attempts", "in flight")


def figures(result: Result) -> dict[str, float]:
    """The figures of a run by their names; shares are of 1."""
    return {
        "p50_ms": result.percentile(50),
        "p99_ms": result.percentile(99),
        "p999_ms": result.percentile(99.9),
        "goodput": result.goodput,
        "of_capacity": result.goodput / result.scenario.capacity,
        "least_second": min(result.shares_of_capacity()),
        "failed": result.failed_share,
        "attempts": result.attempts,
    }


def document(named: Sequence[tuple[str, Sequence[Result]]]) -> list[dict[str, Any]]:
    """All that is known of each run, for JSON."""
    return [
        {
            "scenario": result.scenario.name,
            "policy": name,
            "seed": result.seed,
            "sent": result.sent,
            "counted": len(result.answers),
            **figures(result),
            "per_second": result.per_second(),
            "shares_of_capacity": result.shares_of_capacity(),
            "errors": dict(result.errors),
            "shares": result.shares,
            "most_in_flight": list(result.most_in_flight),
            "kinds": result.by_kind(),
        }
        for name, results in named
        for result in results
    ]


def show(named: Sequence[tuple[str, Sequence[Result]]], console: Console) -> None:
    """A table of one scenario: a line for each policy, medians over its runs."""
    scenario = named[0][1][0].scenario
    console.print()
    console.print(Text(f"{scenario.name}: {scenario.title}", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("policy", overflow="fold", min_width=min(23, max(len(name) for name, _ in named)))
    for column in COLUMNS:
        table.add_column(column, justify="right")
    table.add_column("errors", overflow="fold")
    for name, results in named:
        table.add_row(name, *_cells(results))
    console.print(table)


def show_endpoints(named: Sequence[tuple[str, Sequence[Result]]], console: Console) -> None:
    """For each server, the part of the requests that it got in the last run and the most that it had in flight."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("server", justify="right")
    for name, _ in named:
        table.add_column(name, justify="right")
    for number in range(len(named[0][1][0].scenario.services)):
        last = [results[-1] for _, results in named]
        cells = [f"{one.shares[number]:.1%}, {one.most_in_flight[number]}" for one in last]
        table.add_row(str(number), *cells)
    console.print(table)


def _cells(results: Sequence[Result]) -> list[str]:
    each = [figures(result) for result in results]
    found = {name: median(one[name] for one in each) for name in each[0]}
    last = results[-1]
    return [
        *(f"{found[name]:,.1f}" for name in ("p50_ms", "p99_ms", "p999_ms")),
        f"{found['goodput']:,.0f}",
        *(f"{found[name]:.1%}" for name in ("of_capacity", "least_second")),
        f"{found['failed']:.2%}",
        f"{found['attempts']:.3f}",
        str(max(last.most_in_flight)),
        ", ".join(f"{name} {count}" for name, count in last.errors.most_common()),
    ]
