"""Results as a terminal table and as Markdown: ratios first, absolute figures marked as the machine's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.peers import OURS
from bench.results import Outcome, Results, Subject
from bench.scenarios import SCENARIOS, Metric, Scenario
from bench.stats import Summary, paired_ratio, summarize


@dataclass(frozen=True)
class Verdict:
    """Ours against a limit: `text` is the headline, `met` is None where there is nothing to compare."""

    text: str
    limit: str
    met: bool | None


def best_peer(outcome: Outcome, metric: Metric, among: tuple[str, ...] = ()) -> str | None:
    """The peer (of `among`, or any) with the best median; None if none was measured."""
    medians = {
        name: summarize(list(subject.by_round(metric.key).values())).median
        for name, subject in outcome.subjects.items()
        if name != OURS and subject.samples and (not among or name in among)
    }
    if not medians:
        return None
    choose = min if metric.better == "lower" else max
    return choose(medians, key=lambda name: medians[name])


def ratio(outcome: Outcome, metric: Metric, peer: str | None) -> Summary | None:
    """Ours to the peer's, round by round; None if either is missing."""
    ours = outcome.subjects.get(OURS)
    if ours is None or peer is None:
        return None
    return paired_ratio(ours.by_round(metric.key), outcome.subjects[peer].by_round(metric.key))


def verdict(scenario: Scenario, outcome: Outcome) -> Verdict:
    """The headline against the project's limit for this scenario."""
    limit, metric = scenario.limit, scenario.headline
    if not limit.peers:
        ours = outcome.subjects.get(OURS)
        values = list(ours.by_round(metric.key).values()) if ours else []
        wanted = f"≤ {limit.at_most:,.{metric.digits}f}"
        if not values:
            return Verdict("-", wanted, None)
        middle = summarize(values).median
        return Verdict(f"{middle:,.{metric.digits}f}", wanted, middle <= limit.at_most)
    peer = best_peer(outcome, metric, limit.peers)
    found = ratio(outcome, metric, peer)
    wanted = f"≤ {limit.at_most:g} x {' or '.join(limit.peers)}"
    if found is None:
        return Verdict("-", wanted, None)
    return Verdict(f"{_range(found)} x {peer}", wanted, found.median <= limit.at_most)


def value(summary: Summary, metric: Metric) -> str:
    """`12.34 ±5%`: the median and the farthest run's distance from it, if there was more than one."""
    spread = f" ±{summary.spread:.0%}" if summary.count > 1 else ""
    return f"{summary.median:,.{metric.digits}f}{spread}"


def _range(found: Summary) -> str:
    return f"{found.median:.2f}" + (f" ({found.low:.2f} to {found.high:.2f})" if found.count > 1 else "")


def _word(subject: Subject) -> str:
    return "cannot" if subject.cannot else "failed"


def _cells(scenario: Scenario, outcome: Outcome, name: str) -> list[str]:
    """A proxy's figures, ours with the ratio to the best peer of each."""
    subject = outcome.subjects[name]
    cells = []
    for metric in scenario.metrics:
        text = value(summarize(list(subject.by_round(metric.key).values())), metric)
        if name == OURS and (found := ratio(outcome, metric, best_peer(outcome, metric))) is not None:
            text += f" ({found.median:.2f}x)"
        cells.append(text)
    return cells


def notes(results: Results) -> Iterator[str]:
    """What a reader has to know before he believes the figures."""
    for name, reason in sorted(results.skipped.items()):
        yield f"{name} was skipped: {reason}"
    if results.machine["work_file_system"] != "tmpfs":
        yield f"files, nginx's cache among them, were on {results.machine['work_file_system']}, not in memory"
    for outcome in results.outcomes:
        for name, subject in outcome.subjects.items():
            if subject.cannot:
                yield f"{outcome.scenario}: {name} cannot: {subject.cannot}"
            if subject.failed:
                yield f"{outcome.scenario}: {name} failed after {len(subject.samples)} runs: {subject.failed}"
            seen: dict[str, list[int]] = {}
            for sample in subject.samples:
                for warning in sample.warnings:
                    seen.setdefault(warning, []).append(sample.round)
            for warning, rounds in seen.items():
                yield f"{outcome.scenario}: {name}, run {', '.join(map(str, rounds))}: {warning}"


def conditions(results: Results) -> str:
    """One paragraph: the machine, the versions, the options."""
    m, o = results.machine, results.options
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return (
        f"{m['cpu']}, {m['cpus']} CPUs ({m['architecture']}), {m['system']}, Linux {m['kernel']}; proxy on CPU "
        f"{m['proxy_core']}, load and servers on CPU {', '.join(map(str, m['load_cores']))}. {versions}"
        f"{', commit ' + results.commit if results.commit else ''}. {o['runs']} runs of {o['duration']} s each, after "
        f"{o['warmup']} s of warm-up, interleaved; {results.started}."
    )


EXPLANATION = (
    "Medians of the runs, ± the farthest run; in brackets the ratio to the best peer of that column, by pairs of runs "
    "that followed each other. Absolute figures belong to this machine; the ratios are what compares."
)


def show(results: Results, console: Console) -> None:
    """The tables on a terminal."""
    for outcome in results.outcomes:
        scenario = SCENARIOS[outcome.scenario]
        console.print(Text(f"{scenario.name}: {scenario.title}", style="bold"))
        table = Table()
        table.add_column("")
        for metric in scenario.metrics:
            table.add_column(metric.title, justify="right")
        for name, subject in outcome.subjects.items():
            if subject.samples:
                table.add_row(name, *_cells(scenario, outcome, name), style="bold" if name == OURS else "")
            else:
                table.add_row(name, Text(_word(subject), style="red" if subject.failed else "dim"))
        console.print(table)
        found = verdict(scenario, outcome)
        style = {True: "green", False: "red", None: "yellow"}[found.met]
        word = {True: "met", False: "missed", None: "nothing to compare"}[found.met]
        line = Text(f"{scenario.headline.title}: {found.text}", style=f"bold {style}")
        console.print(line.append(f"   (limit {found.limit}: {word})\n", style=style))
    for note in notes(results):
        console.print(Text(f"! {note}", style="yellow"))
    console.print(Text(EXPLANATION, style="dim"))
    console.print(Text(conditions(results), style="dim"))


def markdown(results: Results) -> str:
    """The same as Markdown: one table of headlines, then the figures of each scenario."""
    lines = ["| scenario | headline | Tidegate | limit | |", "|---|---|---|---|---|"]
    for outcome in results.outcomes:
        scenario, found = SCENARIOS[outcome.scenario], verdict(SCENARIOS[outcome.scenario], outcome)
        word = {True: "met", False: "**missed**", None: "not measured"}[found.met]
        lines.append(f"| `{scenario.name}` | {scenario.headline.title} | {found.text} | {found.limit} | {word} |")
    for outcome in results.outcomes:
        scenario = SCENARIOS[outcome.scenario]
        lines += ["", f"**{scenario.name}**: {scenario.title}", ""]
        lines += ["| | " + " | ".join(metric.title for metric in scenario.metrics) + " |"]
        lines += ["|---" + "|---:" * len(scenario.metrics) + "|"]
        for name, subject in outcome.subjects.items():
            cells = _cells(scenario, outcome, name) if subject.samples else [_word(subject)]
            cells += [""] * (len(scenario.metrics) - len(cells))
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if found_notes := list(notes(results)):
        lines += ["", *(f"- {note}" for note in found_notes)]
    return "\n".join([*lines, "", EXPLANATION, "", conditions(results)]) + "\n"
