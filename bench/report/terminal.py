"""Results on a terminal of 100 columns: the summary, then each scenario, then the notes. Colour only repeats words."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.peers import OURS
from bench.report import words
from bench.report.analysis import Line, figure, missing, ours_first, summary, verdicts, versus
from bench.report.notes import EXPLANATION, conditions, confidence, losses, notes
from bench.results import Metric, Outcome, Results
from bench.stats import Ranking

STYLES = {Ranking.AHEAD: "green", Ranking.EVEN: "yellow", Ranking.BEHIND: "red", Ranking.ONCE: "dim"}
_MET = {True: "green", False: "red", None: "yellow"}


def show(results: Results, console: Console) -> None:
    """Everything of a result, in the order in which it is read."""
    console.print(_summary(results))
    for outcome in results.outcomes:
        console.print()
        console.print(Text(f"{outcome.scenario}: {outcome.title}", style="bold"))
        if outcome.note:
            console.print(Text(outcome.note, style="dim"))
        console.print(_details(outcome))
        for one in verdicts(outcome):
            text = f"limit: {words.against_limit(one)}"
            console.print(Text(text, style=_MET[one.met]))
    console.print()
    if found := losses(results):
        console.print(Text("Where Tidegate loses", style="bold"))
        for text in found:
            console.print(Text(f"- {text}", style="red"))
    for note in notes(results):
        console.print(Text(f"! {note}", style="yellow"))
    for text in (EXPLANATION, confidence(results), conditions(results)):
        console.print(Text(text, style="dim"))


def _summary(results: Results) -> Table:
    lines = list(summary(results))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("scenario", overflow="fold")
    table.add_column("headline", overflow="fold")
    table.add_column("Tidegate", justify="right")
    table.add_column("best peer", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("")
    table.add_column("range", no_wrap=True)
    table.add_column("limit")
    for line in lines:
        table.add_row(*_row(line))
    if any(line.doubtful for line in lines):
        table.caption = "!: with doubtful runs, see the notes below"
        table.caption_justify = "left"
    return table


def _row(line: Line) -> list[str | Text]:
    metric, found = line.metric, line.versus
    style = STYLES[found.ranking] if found else ""
    ours = words.number(line.ours.median, metric) if line.ours else missing(line.outcome.subjects.get(OURS))
    peer = f"{line.peer} {words.number(line.theirs.median, metric)}" if line.peer and line.theirs else words.NOTHING
    limit = Text(words.met(line.verdict), style=_MET[line.verdict.met] if line.verdict else "dim")
    if other := words.aside(line.verdict, metric):
        limit.append(f"\n{other}", style="dim")
    return [
        Text(line.outcome.scenario + (" !" if line.doubtful else ""), style="bold"),
        Text(metric.title),
        Text(ours, style="" if line.ours else "red"),
        Text(peer),
        Text(words.ratio(found) if found else words.NOTHING, style=f"bold {style}".strip()),
        Text(found.ranking if found else "", style=style),
        words.interval(found.ratio) if found else "",
        limit,
    ]


def _details(outcome: Outcome) -> Table:
    """Metrics by proxies: each cell a median, and below it the ratio of ours to that peer."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    names = ours_first(outcome)
    for name in names:
        table.add_column(Text(name), justify="right", style="bold" if name == OURS else "")
    for metric in outcome.metrics:
        title = Text(metric.title).append(f"\n({words.direction(metric)})", style="dim")
        table.add_row(title, *(_cell(outcome, name, metric) for name in names))
    return table


def _cell(outcome: Outcome, name: str, metric: Metric) -> Text:
    found = figure(outcome, name, metric)
    if found is None:
        subject = outcome.subjects[name]
        return Text(missing(subject), style="red" if subject.failed else "dim")
    text = Text(words.value(found, metric))
    if name != OURS and (compared := versus(outcome, metric, name)) is not None:
        ratio = f"{words.ratio(compared)} " if compared.ratio else ""
        text.append(f"\n{ratio}{compared.ranking}", style=STYLES[compared.ranking])
    return text
