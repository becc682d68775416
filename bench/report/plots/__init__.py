"""The plots of a result as SVG: one element for the page, or files for the documentation. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError
from bench.report.figures import Figure, figures
from bench.report.plots import bars, canvas, latency, series
from bench.results import Outcome, Results

_DRAW = {"bars": bars.draw, "latency": latency.distribution, "load": latency.against_load, "series": series.draw}


def draw(outcome: Outcome, figure: Figure) -> str:
    """A plot as an `svg` element. Raises BenchError if the samples cannot be read."""
    return _DRAW[figure.kind](outcome, figure)


def write_all(results: Results, directory: Path) -> list[Path]:
    """Writes every plot as a file of its own, which fits light and dark schemes; returns their paths.

    The same result gives the same bytes. Raises BenchError if a file cannot be written.
    """
    paths = []
    for outcome in results.outcomes:
        for figure in figures(outcome):
            path = directory / f"{figure.name}.svg"
            try:
                directory.mkdir(parents=True, exist_ok=True)
                path.write_text(canvas.standalone(draw(outcome, figure)))
            except OSError as error:
                raise BenchError(f"cannot write the plot {path}: {error}") from error
            paths.append(path)
    return paths
