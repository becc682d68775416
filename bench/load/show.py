"""A report as a small table for people."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bench.load.report import HistogramName, Report

QUANTILES = (50.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0)
_ROWS: tuple[tuple[HistogramName, str], ...] = (
    ("latency", "latency"),
    ("service", "service"),
    ("lateness", "lateness"),
    ("failure", "failed"),
)


def milliseconds(us: float) -> str:
    """To three digits or so."""
    ms = us / 1000
    return f"{ms:,.3f}" if ms < 1 else f"{ms:,.2f}" if ms < 100 else f"{ms:,.0f}"


def show(report: Report, console: Console) -> None:
    """Percentiles in ms, rates, and what makes them doubtful."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ms")
    for q in QUANTILES:
        table.add_column("max" if q == 100 else f"p{q:g}", justify="right")
    for which, title in _ROWS:
        if report.histogram(which).get_total_count():
            values = [milliseconds(us) for us in report.percentiles(QUANTILES, which)]
            table.add_row(title, *values, style="red" if which == "failure" else None)
    seconds = report.duration_ns / 1e9
    rates = Text(
        f"{report.sent:,} requests in {seconds:.1f} s: {report.offered_rate:,.1f}/s offered, "
        f"{report.completed_rate:,.1f}/s answered well; {report.bytes_out / 1e6 / seconds:,.2f} MB/s out, "
        f"{report.bytes_in / 1e6 / seconds:,.2f} MB/s in"
    )
    doubts = [Text(f"! {line}", style="yellow") for line in report.doubts()]
    note = Text(
        "latency: from the intended time to the answer; service: from the sending; lateness: the generator's own",
        style="dim",
    )
    console.print(Group(table, rates, *doubts, note))
