"""Simulated runs as pictures: p99 of each policy in each scenario, and answers in time by the second."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import median

from bench.errors import BenchError
from bench.report.plots import canvas
from bench.report.plots.palette import LOOKS, OUR_LOOK, Look
from bench.simulate.show import Figures

OURS = ("auto", "default")


def write(found: Sequence[Figures], folder: Path) -> list[Path]:
    """Writes `simulated-p99.svg` for all of `found`, whose runs of a scenario follow each other, and
    `simulated-NAME.svg` for each scenario; returns the paths. Raises BenchError if a file cannot be written."""
    scenarios = [list(runs) for _, runs in groupby(found, lambda one: one.scenario)]
    looks = _looks(list(dict.fromkeys(one.policy for one in found)))
    pictures = {"simulated-p99": _percentiles(scenarios, looks)}
    for runs in scenarios:
        pictures[f"simulated-{runs[0].scenario}"] = _seconds(runs, looks)
    paths = []
    for name, svg in pictures.items():
        path = folder / f"{name}.svg"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(canvas.standalone(svg))
        except OSError as error:
            raise BenchError(f"cannot write the plot {path}: {error}") from error
        paths.append(path)
    return paths


def _looks(policies: Sequence[str]) -> dict[str, Look]:
    others = iter(LOOKS * len(policies))
    return {policy: OUR_LOOK if policy in OURS else next(others) for policy in policies}


def _percentiles(scenarios: Sequence[Sequence[Figures]], looks: dict[str, Look]) -> str:
    """A row for each scenario, a mark for each policy: p99 over that of the best policy there."""
    rows: dict[str, dict[str, float]] = {}
    for runs in scenarios:
        p99 = {policy: median([one.p99_ms for one in runs if one.policy == policy]) for policy in looks}
        best = min(p99.values())
        rows[runs[0].scenario] = {policy: value / best for policy, value in p99.items() if best > 0}

    def paint(page: canvas.Canvas, axes: list[canvas.Axes]) -> None:
        (ax,) = axes
        for policy, look in reversed(looks.items()):
            ax.plot(
                [row.get(policy, float("nan")) for row in rows.values()], range(len(rows)), linestyle="none",
                marker=look.marker, color=look.ink.light, markersize=8 if look is OUR_LOOK else 5.5,
            )  # fmt: skip
        ax.set_xscale("log")
        ax.set_xticks([1, 1.5, 2, 3, 5, 10], ["1", "1.5", "2", "3", "5", "10"])
        ax.minorticks_off()
        ax.set_xlim(0.93, 1.1 * max(times for row in rows.values() for times in row.values()))
        ax.set_xlabel("p99, times that of the best policy")
        ax.set_yticks(range(len(rows)), list(rows))
        ax.set_ylim(len(rows) - 0.5, -0.5)
        canvas.legend(page, looks, markers=True)

    said = "; ".join(
        f"{name}: " + ", ".join(f"{policy} {times:.2f}" for policy, times in row.items()) for name, row in rows.items()
    )
    return canvas.draw(
        1.3 + 0.3 * len(rows), (1,), paint, "simulated-p99", "p99 by policy and scenario",
        f"Times that of the best policy. {said}",
    )  # fmt: skip


def _seconds(runs: Sequence[Figures], looks: dict[str, Look]) -> str:
    """Answers in time by the second, of the first run of each policy."""
    first = {policy: next(one for one in runs if one.policy == policy) for policy in looks}

    def paint(page: canvas.Canvas, axes: list[canvas.Axes]) -> None:
        (ax,) = axes
        for policy, one in first.items():
            ax.plot(range(len(one.per_second)), one.per_second, **canvas.line(looks[policy]))
        ax.set_ylabel("in time/s")
        ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
        ax.set_xlabel("seconds")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        canvas.legend(page, looks)

    name = runs[0].scenario
    said = "; ".join(f"{policy}: {one.goodput:,.0f} in time/s" for policy, one in first.items())
    return canvas.draw(2.6, (1,), paint, f"simulated-{name}", runs[0].title, f"Answers in time by the second. {said}")
