"""Which plots a scenario has, by what its samples hold; drawing them is the business of `bench.report.plots`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bench.results import Metric, Outcome

CPU = "cpu_us"
Kind = Literal["bars", "latency", "load", "series"]


@dataclass(frozen=True)
class Figure:
    """A plot to be drawn of a scenario; `name` is unique within a result and fit for a file's name and an XML id."""

    kind: Kind
    name: str
    scenario: str
    caption: str
    metric: Metric | None = None

    @property
    def title(self) -> str:
        return f"{self.scenario}: {self.caption}"


def figures(outcome: Outcome) -> list[Figure]:
    """Bars of the headline and of CPU time, and whatever else some run has the samples for."""
    found: list[Figure] = []

    def add(kind: Kind, key: str, caption: str, metric: Metric | None = None) -> None:
        name = re.sub(r"[^a-z0-9]+", "-", f"{outcome.scenario}-{key}".lower()).strip("-")
        found.append(Figure(kind, name, outcome.scenario, caption, metric))

    if any(subject.samples for subject in outcome.subjects.values()):
        for metric in bar_metrics(outcome):
            add("bars", metric.key, metric.title, metric)
    raw = [sample.raw for subject in outcome.subjects.values() for sample in subject.samples]
    if any(r.get("latency") for r in raw):
        add("latency", "latency", "latency by percentile, at a fixed rate, all runs together")
    if any(r.get("sweep") for r in raw):
        add("load", "load", "latency against load, the lines up and down are the runs")
    if any(r.get("series") for r in raw):
        add("series", "series", "over time, the run with the median headline")
    return found


def bar_metrics(outcome: Outcome) -> list[Metric]:
    """The headline, and CPU time per request where that is another metric."""
    return [m for i, m in enumerate(outcome.metrics) if i == 0 or m.key == CPU]
