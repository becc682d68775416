"""One metric of all proxies: the median as a bar, each run as a dot."""

from __future__ import annotations

from bench.report import words
from bench.report.analysis import figure, missing, ours_first, values
from bench.report.figures import Figure
from bench.report.plots import canvas
from bench.report.plots.palette import MUTED, SURFACE, TEXT, look
from bench.results import Metric, Outcome


def draw(outcome: Outcome, wanted: Figure) -> str:
    """The bars as SVG. Raises ValueError if the figure names no metric."""
    if (metric := wanted.metric) is None:
        raise ValueError("bars need a metric")
    names = ours_first(outcome)

    def paint(_: canvas.Canvas, axes: list[canvas.Axes]) -> None:
        _paint(axes[0], outcome, names, metric)

    text = f"{metric.title}, {words.direction(metric)}. " + "; ".join(_said(outcome, name, metric) for name in names)
    return canvas.draw(0.75 + 0.36 * len(names), (1,), paint, wanted.name, wanted.title, text)


def _paint(ax: canvas.Axes, outcome: Outcome, names: list[str], metric: Metric) -> None:
    highest = max((v for name in names for v in values(outcome, name, metric).values()), default=0.0) or 1.0
    for place, name in enumerate(names):
        found = values(outcome, name, metric)
        middle = figure(outcome, name, metric)
        if middle is None:
            ax.text(
                highest * 0.01, place, missing(outcome.subjects[name]), va="center", color=MUTED.light, style="italic"
            )
            continue
        ax.barh(place, middle.median, height=0.62, color=look(name).ink.light)
        if middle.count > 1:
            dots = list(found.values())
            ax.scatter(
                dots, [place] * len(dots), s=17, color=TEXT.light, edgecolors=SURFACE.light, linewidths=0.8, zorder=3
            )
        end = max(middle.high, middle.median) + highest * 0.025
        ax.text(end, place, words.number(middle.median, metric), va="center")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0, labelcolor=TEXT.light)
    ax.grid(visible=False, axis="y")
    ax.set_xlim(0, highest * 1.16)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    ax.set_xlabel(f"{metric.title}: median, dots are the runs ({words.direction(metric)})")


def _said(outcome: Outcome, name: str, metric: Metric) -> str:
    found = figure(outcome, name, metric)
    return f"{name} {words.value(found, metric) if found else missing(outcome.subjects[name])}"
