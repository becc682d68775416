"""Results as Markdown, for a terminal without colour and for a page of the documentation."""

from __future__ import annotations

import re

from bench.peers import OURS
from bench.report import words
from bench.report.analysis import Line, figure, missing, ours_first, summary, verdicts, versus
from bench.report.figures import figures
from bench.report.notes import EXPLANATION, conditions, confidence, losses, notes
from bench.results import Metric, Outcome, Results


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line and within a table's cell."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")


def table(head: list[str], rows: list[list[str]], align: str) -> list[str]:
    """A Markdown table; `align` has l or r for each column. Cells are Markdown already."""
    rule = "|".join("---:" if side == "r" else "---" for side in align)
    return [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]


def markdown(results: Results, plots: str = "") -> str:
    """The whole report. `plots` is where the files of `plots.write_all` lie, relative to the page; "" for no plots."""
    lines = _summary(results)
    lines += ["", "### Where Tidegate loses", ""]
    lines += [f"- {plain(text)}" for text in losses(results)] or ["Nowhere in these scenarios beyond the spread."]
    for outcome in results.outcomes:
        lines += ["", *_scenario(outcome, plots)]
    if found := list(notes(results)):
        lines += ["", "### Notes", "", *(f"- {plain(note)}" for note in found)]
    lines += ["", "### Conditions", "", plain(conditions(results)), "", EXPLANATION, "", confidence(results)]
    return "\n".join(lines) + "\n"


def _summary(results: Results) -> list[str]:
    lines = list(summary(results))
    head = ["scenario", "headline", "Tidegate", "best peer", "ratio", "", "range", "limit"]
    text = table(head, [_row(line) for line in lines], "llrrrlll")
    if any(line.doubtful for line in lines):
        text += ["", "(!) with doubtful runs, see the notes."]
    return text


def _row(line: Line) -> list[str]:
    metric, found = line.metric, line.versus
    limit = words.met(line.verdict)
    if line.verdict:
        wanted = plain(words.wanted_beside(line.verdict, metric))
        limit = f"{'**missed**' if line.verdict.met is False else limit} ({wanted})"
    return [
        f"`{line.outcome.scenario}`" + (" (!)" if line.doubtful else ""),
        plain(metric.title),
        words.number(line.ours.median, metric) if line.ours else missing(line.outcome.subjects.get(OURS)),
        f"{plain(line.peer)} {words.number(line.theirs.median, metric)}"
        if line.peer and line.theirs
        else words.NOTHING,
        f"**{words.ratio(found)}**" if found else words.NOTHING,
        found.ranking if found else "",
        words.interval(found.ratio) if found else "",
        limit,
    ]


def _scenario(outcome: Outcome, plots: str) -> list[str]:
    names = ours_first(outcome)
    rows = [
        [f"{plain(metric.title)} ({words.direction(metric)})", *(_cell(outcome, name, metric) for name in names)]
        for metric in outcome.metrics
    ]
    lines = [f"### {plain(outcome.scenario)}", "", plain(outcome.title) + "."]
    if outcome.note:
        lines[-1] += " " + plain(outcome.note)
    lines += ["", *table(["", *map(plain, names)], rows, "l" + "r" * len(names))]
    for one in verdicts(outcome):
        lines += ["", f"Limit: {plain(words.against_limit(one))}."]
    if plots and (found := figures(outcome)):
        lines += ["", *(f"![{plain(f.title)}]({plots.rstrip('/')}/{f.name}.svg)" for f in found)]
    return lines


def _cell(outcome: Outcome, name: str, metric: Metric) -> str:
    found = figure(outcome, name, metric)
    if found is None:
        return missing(outcome.subjects[name])
    text = words.value(found, metric)
    if name != OURS and (compared := versus(outcome, metric, name)) is not None:
        text += f"<br>{f'{words.full_ratio(compared)} ' if compared.ratio else ''}{compared.ranking}"
    return text
