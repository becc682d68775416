"""Results of simulated runs as figures, for JSON, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.simulate.result import Result

COLUMNS = ("p50 ms", "p99", "p99.9", "in time/s", "of able", "worst s", "failed", "attempts", "in flight")


@dataclass(frozen=True)
class Figures:
    """A run in numbers. Shares are of 1, `per_second` are answers in time; `of_able` is `goodput` as a share of the
    scenario's capacity, `shares_of_able` for each second a share of what could be done in it or was asked, whichever is
    less. `shares` and `most_in_flight` are by server, `kinds` by the name of a kind of request."""

    scenario: str
    title: str
    policy: str
    seed: int
    sent: int
    counted: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    goodput: float
    of_able: float
    worst_second: float
    failed: float
    attempts: float
    per_second: Sequence[int]
    shares_of_able: Sequence[float]
    errors: Mapping[str, int]
    shares: Sequence[float]
    most_in_flight: Sequence[int]
    kinds: Mapping[str, Mapping[str, float]]


def figures(result: Result, policy: str) -> Figures:
    """Those of a run with this policy."""
    able = result.shares_of_able()
    return Figures(
        scenario=result.scenario.name,
        title=result.scenario.title,
        policy=policy,
        seed=result.seed,
        sent=result.sent,
        counted=len(result.counted),
        p50_ms=result.percentile(50),
        p99_ms=result.percentile(99),
        p999_ms=result.percentile(99.9),
        goodput=result.goodput,
        of_able=result.goodput / result.scenario.capacity,
        worst_second=min(able),
        failed=result.failed_share,
        attempts=result.attempts,
        per_second=result.per_second(),
        shares_of_able=able,
        errors=dict(result.errors),
        shares=result.shares,
        most_in_flight=result.most_in_flight,
        kinds=result.by_kind(),
    )


def document(runs: Sequence[Figures]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(one) for one in runs]


def show(runs: Sequence[Figures], console: Console) -> None:
    """A table of one scenario: a line for each policy, medians over its runs."""
    console.print()
    console.print(Text(f"{runs[0].scenario}: {runs[0].title}", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    policies = list(dict.fromkeys(one.policy for one in runs))
    table.add_column("policy", overflow="fold", min_width=min(23, max(map(len, policies))))
    for column in COLUMNS:
        table.add_column(column, justify="right")
    table.add_column("errors", overflow="fold")
    for policy in policies:
        table.add_row(policy, *_cells([one for one in runs if one.policy == policy]))
    console.print(table)


def show_endpoints(runs: Sequence[Figures], console: Console) -> None:
    """For each server, the part of the requests that it got in a policy's last run and the most that it had in
    flight."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("server", justify="right")
    last = {one.policy: one for one in runs}
    for policy in last:
        table.add_column(policy, justify="right")
    for number in range(len(runs[0].shares)):
        cells = [f"{one.shares[number]:.1%}, {one.most_in_flight[number]}" for one in last.values()]
        table.add_row(str(number), *cells)
    console.print(table)


@dataclass(frozen=True)
class Regret:
    """How much worse a policy is in a scenario than the best of all that were compared: 1 = it is the best. By the
    answers in time where requests have a deadline, else by the 99th percentile."""

    scenario: str
    policy: str
    ratio: float


def regrets(runs: Sequence[Figures], deadlines: Mapping[str, bool]) -> list[Regret]:
    """For each scenario and policy, of medians. `deadlines`: whether a scenario's requests have one."""
    found = []
    for name, due in deadlines.items():
        costs = {}
        for policy in dict.fromkeys(one.policy for one in runs):
            own = [one for one in runs if one.scenario == name and one.policy == policy]
            costs[policy] = median(1 / max(one.goodput, 0.1) if due else one.p99_ms for one in own)
        least = min(costs.values())
        found += [Regret(name, policy, cost / least if least else 1.0) for policy, cost in costs.items()]
    return found


def show_regrets(found: Sequence[Regret], console: Console) -> None:
    """A line for each policy: where it is the best or close to it, and where it is the farthest from it."""
    console.print()
    console.print(Text("beside the best policy of each scenario", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("policy", "median", "within 5 %", "worst", "where"):
        table.add_column(title, justify="left" if title in ("policy", "where") else "right", overflow="fold")
    for policy in dict.fromkeys(one.policy for one in found):
        own = sorted((one for one in found if one.policy == policy), key=lambda one: one.ratio)
        close = sum(one.ratio <= 1.05 for one in own)
        where = ", ".join(f"{one.scenario} {one.ratio:.2f}" for one in own[::-1][:3])
        middle = median(one.ratio for one in own)
        table.add_row(policy, f"{middle:.2f}", f"{close} of {len(own)}", f"{own[-1].ratio:.2f}", where)
    console.print(table)


def _cells(runs: Sequence[Figures]) -> list[str]:
    def middle(name: str) -> float:
        return float(median(getattr(one, name) for one in runs))

    return [
        *(f"{middle(name):,.1f}" for name in ("p50_ms", "p99_ms", "p999_ms")),
        f"{middle('goodput'):,.0f}",
        *(f"{middle(name):.1%}" for name in ("of_able", "worst_second")),
        f"{middle('failed'):.2%}",
        f"{middle('attempts'):.3f}",
        str(max(max(one.most_in_flight) for one in runs)),
        ", ".join(f"{name} {count}" for name, count in sorted(runs[-1].errors.items(), key=lambda item: -item[1])),
    ]
