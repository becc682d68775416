"""A scenario over time: what was sent, answered and lost, the worst latency, and the number of servers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.analysis import ours_first
from bench.report.figures import Figure
from bench.report.plots import canvas
from bench.report.plots.palette import MUTED, look
from bench.results import Outcome, Sample

# More than a plot of this width can show; longer series are put into wider bins.
_BINS = 150


@dataclass(frozen=True)
class Panel:
    """One quantity over the common time: how bins are joined, and whether it is a rate, steps, or on a log axis."""

    key: str
    label: str
    join: Callable[[Sequence[float]], float]
    rate: bool = False
    log: bool = False
    steps: bool = False


PANELS = (
    Panel("completed", "answered/s", sum, rate=True),
    Panel("failed", "failed/s", sum, rate=True),
    Panel("max_us", "worst latency", max, log=True),
    Panel("servers", "servers", max, steps=True),
)


def draw(outcome: Outcome, wanted: Figure) -> str:
    """The panels as SVG, of each proxy the run whose headline is the median."""
    found = {name: run for name in ours_first(outcome) if (run := typical(outcome, name)) is not None}
    series: dict[str, dict[str, Any]] = {name: run.raw["series"] for name, run in found.items()}
    panels = [p for p in PANELS if any(any(s.get(p.key) or ()) for s in series.values())] or [PANELS[0]]

    def paint(page: canvas.Canvas, axes: list[canvas.Axes]) -> None:
        for ax, panel in zip(axes, panels, strict=True):
            for name, one in series.items():
                _line(ax, one, panel, **canvas.line(look(name)))
            if panel.key == "completed" and series:
                longest = max(series.values(), key=lambda one: len(one["sent"]) * one["bin_s"])
                _line(ax, {**longest, "completed": longest["sent"]}, panel, color=MUTED.light, linewidth=1, zorder=1)
            if panel.log:
                canvas.log_durations(ax, panel.label, decades=True)
            else:
                ax.set_ylabel(panel.label)
                ax.set_ylim(bottom=0)
                ax.yaxis.set_major_locator(canvas.MaxNLocator(3, integer=True))
                ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes[-1].set_xlabel("seconds; the thin grey line is what was sent")
        axes[-1].set_xlim(left=0)
        page.align_ylabels(axes)
        canvas.legend(page, {name: look(name) for name in found})

    said = "; ".join(
        f"{name} (run {found[name].round}): {sum(s['sent']):,} sent, {sum(s['completed']):,} answered, "
        f"{sum(s['failed']):,} failed, worst latency {canvas.duration(max(s['max_us'], default=0))}"
        for name, s in series.items()
    )
    return canvas.draw(
        0.9 + 1.05 * len(panels), (1,) * len(panels), paint, wanted.name, wanted.title, f"Over time. {said}"
    )


def typical(outcome: Outcome, name: str) -> Sample | None:
    """The run with a series whose headline is the median (the lower of two in the middle); None if there is none."""
    key = outcome.metrics[0].key
    runs = sorted(
        (s for s in outcome.subjects[name].samples if s.raw.get("series") and key in s.values),
        key=lambda s: s.values[key],
    )
    return runs[(len(runs) - 1) // 2] if runs else None


def points(series: dict[str, Any], panel: Panel) -> tuple[list[float], list[float]]:
    """Times in s (the start of a bin) and what the panel shows of them, of at most 150 bins.

    A quantity may have bins of its own length, `KEY_bin_s`. A bin without a latency is not a number, so that the line
    has a gap there.
    """
    values, width = list(series.get(panel.key) or ()), float(series.get(f"{panel.key}_bin_s", series["bin_s"]))
    several = math.ceil(len(values) / _BINS)
    joined = [panel.join(values[i : i + several]) for i in range(0, len(values), several or 1)]
    if panel.log:
        joined = [v if v > 0 else math.nan for v in joined]
    if panel.rate:
        lengths = [len(values[i : i + several]) * width for i in range(0, len(values), several or 1)]
        joined = [v / length for v, length in zip(joined, lengths, strict=True)]
    return [i * several * width for i in range(len(joined))], joined


def _line(ax: canvas.Axes, series: dict[str, Any], panel: Panel, **style: Any) -> None:
    ax.plot(*points(series, panel), **style, drawstyle="steps-post" if panel.steps else "default")
