"""Latency by percentile at a fixed rate, and latency against load; a proxy's runs are merged as HDR histograms."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from hdrh.histogram import HdrHistogram

from bench.report.analysis import ours_first
from bench.report.figures import Figure
from bench.report.histograms import curve, merged
from bench.report.plots import canvas
from bench.report.plots.palette import SURFACE, look
from bench.results import Outcome

# Above this share of failed requests a point is hollow: its latency is that of the few that came through.
FAILING = 0.01


@dataclass(frozen=True)
class Point:
    """One rate: p99 in µs of all runs together, with the lowest and highest p99 of a run."""

    rate: float
    p99: float
    low: float
    high: float
    failing: bool


def distribution(outcome: Outcome, wanted: Figure) -> str:
    """The percentile plot as SVG. Raises BenchError if a histogram cannot be read."""
    found = histograms(outcome)
    rates = sorted({s.raw["rate"] for subject in outcome.subjects.values() for s in subject.samples if "rate" in s.raw})

    def paint(page: canvas.Canvas, axes: list[canvas.Axes]) -> None:
        ax = axes[0]
        decades = 1
        for name, histogram in found.items():
            x, y = curve(histogram)
            ax.plot(x, y, **canvas.line(look(name)), label=name)
            decades = max(decades, len(str(histogram.get_total_count() - 1)))
        ax.set_xscale("log")
        places = [10**n for n in range(decades + 1)]
        ax.set_xticks([1, 2, *places[1:]], ["0%", "50%", *map(_percentile, places[1:])])
        ax.set_xlim(1, places[-1])
        ax.tick_params(axis="x", which="minor", length=0)
        canvas.log_durations(ax, "latency")
        ax.set_xlabel(f"percentile, at {_rates(rates)}" if rates else "percentile")
        canvas.legend(page, {name: look(name) for name in found})

    said = "; ".join(
        f"{name} p50 {h.get_value_at_percentile(50):,} µs, p99 {h.get_value_at_percentile(99):,} µs, highest "
        f"{h.get_max_value():,} µs"
        for name, h in found.items()
    )
    return canvas.draw(3.5, (1,), paint, wanted.name, wanted.title, f"Latency by percentile at a fixed rate. {said}")


def histograms(outcome: Outcome) -> dict[str, HdrHistogram]:
    """All runs of each proxy merged; only those that have any."""
    found = {}
    for name in ours_first(outcome):
        texts = [s.raw["latency"] for s in outcome.subjects[name].samples if s.raw.get("latency")]
        if (histogram := merged(texts, f"{outcome.scenario}, {name}")) is not None:
            found[name] = histogram
    return found


def against_load(outcome: Outcome, wanted: Figure) -> str:
    """p99 over the rate as SVG. Raises BenchError if a histogram cannot be read."""
    found = {name: points for name in ours_first(outcome) if (points := sweep(outcome, name))}

    def paint(page: canvas.Canvas, axes: list[canvas.Axes]) -> None:
        ax = axes[0]
        for name, points in found.items():
            style = look(name)
            x, y = [p.rate for p in points], [p.p99 for p in points]
            ax.plot(x, y, **canvas.line(style))
            ax.vlines(x, [p.low for p in points], [p.high for p in points], color=style.ink.light, linewidth=1)
            for failing in (False, True):
                some = [p for p in points if p.failing == failing]
                ax.scatter(
                    [p.rate for p in some],
                    [p.p99 for p in some],
                    s=26,
                    marker=style.marker,
                    color=SURFACE.light if failing else style.ink.light,
                    edgecolors=style.ink.light,
                    zorder=3,
                )
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        canvas.log_durations(ax, "p99")
        hollow = any(p.failing for points in found.values() for p in points)
        ax.set_xlabel("requests/s offered" + (f"; hollow: more than {FAILING:.0%} of them failed" if hollow else ""))
        canvas.legend(page, {name: look(name) for name in found}, markers=True)

    said = "; ".join(
        f"{name} " + ", ".join(f"{p.p99:,.0f} µs at {p.rate:,.0f}/s" + " (failing)" * p.failing for p in points)
        for name, points in found.items()
    )
    return canvas.draw(3.4, (1,), paint, wanted.name, wanted.title, f"99th percentile of latency over the rate. {said}")


def sweep(outcome: Outcome, name: str) -> list[Point]:
    """A proxy's points by rising rate; a rate at which no request was answered has none."""
    by_rate: dict[float, list[dict[str, object]]] = {}
    for sample in outcome.subjects[name].samples:
        for entry in sample.raw.get("sweep", ()):
            if entry["latency"]:
                by_rate.setdefault(entry["rate"], []).append(entry)
    points = []
    for rate, entries in sorted(by_rate.items()):
        what = f"{outcome.scenario}, {name} at {rate:g}/s"
        each = [h for e in entries if (h := merged([str(e["latency"])], what)) is not None and h.get_total_count()]
        whole = merged([str(e["latency"]) for e in entries], what)
        if whole is None or not each:
            continue
        p99s = [float(h.get_value_at_percentile(99)) for h in each]
        sent, failed = (sum(int(str(e[key])) for e in entries) for key in ("sent", "failed"))
        p99 = float(whole.get_value_at_percentile(99))
        points.append(Point(rate, p99, min(p99s), max(p99s), failed > FAILING * sent))
    return points


def _percentile(x: int) -> str:
    nines = len(str(x)) - 1
    return "90%" if nines == 1 else "99%" if nines == 2 else f"99.{'9' * (nines - 2)}%"


def _rates(rates: list[float]) -> str:
    """The rates that were offered, as one where no run was a hundredth off."""
    if rates[-1] <= 1.01 * rates[0]:
        return f"{median(rates):,.0f} requests/s"
    return f"{rates[0]:,.0f} to {rates[-1]:,.0f} requests/s"
