"""Results as one HTML page that needs nothing else: no script, no network, styles and plots inline, light and dark."""

from __future__ import annotations

import json
from importlib import resources

from bench.peers import OURS
from bench.report import plots, words
from bench.report.analysis import (
    Line,
    counts,
    figure,
    missing,
    ours_first,
    summary,
    verdicts,
    versus,
)
from bench.report.figures import figures
from bench.report.markup import Markup, element, join
from bench.report.notes import EXPLANATION, conditions, confidence, losses, notes, scenario_notes
from bench.report.plots import palette
from bench.results import Metric, Outcome, Results
from bench.stats import Ranking


def html(results: Results) -> str:
    """The whole page. Raises BenchError if raw samples cannot be read."""
    style = resources.files("bench.report").joinpath("page.css").read_text()
    dark = f"@media (prefers-color-scheme: dark) {{ {palette.dark_rules()} }}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"Tidegate benchmarks, {results.started[:10]}"),
        element("style", Markup(style + dark)),
    )
    body = element(
        "main",
        _opening(results),
        _summary(results),
        _list("Where Tidegate loses", losses(results), "Nowhere in these scenarios beyond the spread."),
        *(_scenario(outcome, results) for outcome in results.outcomes),
        _list("Notes", list(notes(results)), "Nothing was doubtful."),
        _conditions(results),
    )
    return f"<!doctype html>\n{element('html', head, element('body', body), lang='en')}\n"


def _opening(results: Results) -> Markup:
    found = counts(results)
    parts = [f"{kind} in {found[kind]}" for kind in Ranking if kind in found]
    limits = [one for outcome in results.outcomes for one in verdicts(outcome)]
    lead = (
        f"{len(results.outcomes)} scenarios; the headline against the best peer: {', '.join(parts) or 'not measured'}"
    )
    if limits:
        lead += f"; limits met: {sum(v.met is True for v in limits)} of {len(limits)}"
    return element(
        "header",
        element("h1", "Tidegate benchmarks"),
        element("p", lead + ".", class_="lead"),
        element("p", EXPLANATION, class_="muted"),
        element("p", confidence(results), class_="muted"),
    )


def _summary(results: Results) -> Markup:
    lines = list(summary(results))
    columns = {
        "Scenario": "",
        "Ratio to the best peer": "",
        "Headline": "",
        "Tidegate": "n",
        "Best peer": "n",
        "Limit": "",
    }
    head = element("tr", *(element("th", text, scope="col", class_=kind) for text, kind in columns.items()))
    caption = f"Absolute figures belong to this machine: {_machine(results)}."
    if any(line.doubtful for line in lines):
        caption += " (!): with doubtful runs, see the notes."
    rows = element("tbody", *(_row(line) for line in lines))
    table = _table("The headline of each scenario", head, rows)
    return element("section", element("h2", "Summary"), table, element("p", caption, class_="muted"))


def _row(line: Line) -> Markup:
    metric, found, name = line.metric, line.versus, line.outcome.scenario
    ours: str | Markup = words.number(line.ours.median, metric) if line.ours else _badge(_missing(line.outcome, OURS))
    peer: list[str | Markup] = [words.NOTHING]
    if line.theirs and line.peer:
        peer = [words.number(line.theirs.median, metric), element("small", line.peer)]
    ratio: list[str | Markup] = [words.NOTHING]
    if found:
        ratio = [element("strong", words.ratio(found)), " ", _badge(found.ranking)]
        ratio.append(element("small", words.interval(found.ratio)))
    limit = [_badge(words.met(line.verdict))]
    if line.verdict:
        limit.append(element("small", words.wanted_beside(line.verdict, metric)))
    mark = " (!)" if line.doubtful else ""
    return element(
        "tr",
        element("th", element("a", name, href=f"#{_anchor(line.outcome)}"), mark, scope="row"),
        element("td", ratio, class_="nowrap"),
        element("td", metric.title, element("small", words.direction(metric))),
        element("td", ours, class_="n"),
        element("td", peer, class_="n"),
        element("td", limit),
    )


def _scenario(outcome: Outcome, results: Results) -> Markup:
    names = ours_first(outcome)
    head = element("tr", element("th", "Metric", scope="col"), *(_proxy(name) for name in names))
    rows = [
        element(
            "tr",
            element("th", metric.title, element("small", words.direction(metric)), scope="row"),
            *(_cell(outcome, name, metric) for name in names),
        )
        for metric in outcome.metrics
    ]
    caption = f"Medians, and below them Tidegate's ratio to that peer. Absolute figures: {_machine(results)} only."
    table = _table(f"All figures of {outcome.scenario}", head, element("tbody", *rows))
    drawn = [
        element("figure", Markup(plots.draw(outcome, f)), element("figcaption", f.caption[0].upper() + f.caption[1:]))
        for f in figures(outcome)
    ]
    own_notes = list(scenario_notes(outcome))
    return element(
        "section",
        element("h2", outcome.scenario),
        element("p", outcome.title, ". " if outcome.note else "", outcome.note),
        *(element("p", "Limit: ", words.against_limit(one), class_="muted") for one in verdicts(outcome)),
        table,
        element("p", caption, class_="muted"),
        element("div", *drawn, class_="plots") if drawn else "",
        element("ul", *(element("li", note) for note in own_notes), class_="muted") if own_notes else "",
        *(_configuration(name, outcome.subjects[name].config) for name in names if outcome.subjects[name].config),
        id=_anchor(outcome),
    )


def _table(caption: str, head: Markup, body: Markup) -> Markup:
    """A table that scrolls by itself where the page is narrow; its caption is for those who cannot see the heading."""
    inner = element("table", element("caption", caption), element("thead", head), body)
    return element("div", inner, class_="scroll", role="region", aria_label=caption, tabindex="0")


def _proxy(name: str) -> Markup:
    return element("th", name, scope="col", class_="n ours" if name == OURS else "n")


def _cell(outcome: Outcome, name: str, metric: Metric) -> Markup:
    found = figure(outcome, name, metric)
    style = "n ours" if name == OURS else "n"
    if found is None:
        return element("td", _badge(_missing(outcome, name)), class_=style)
    parts: list[str | Markup] = [words.value(found, metric)]
    if name != OURS and (compared := versus(outcome, metric, name)) is not None:
        if compared.ratio:
            parts.append(element("small", words.full_ratio(compared)))
        parts.append(element("small", _badge(compared.ranking)))
    return element("td", *parts, class_=style)


def _configuration(name: str, config: str) -> Markup:
    return element("details", element("summary", f"Configuration of {name}"), element("pre", config))


def _list(title: str, texts: list[str], nothing: str) -> Markup:
    found = element("ul", *(element("li", text) for text in texts)) if texts else element("p", nothing)
    return element("section", element("h2", title), found)


def _conditions(results: Results) -> Markup:
    def pairs(title: str, given: dict[str, str]) -> Markup:
        items = [join([element("dt", key), element("dd", value)]) for key, value in given.items()]
        return element("details", element("summary", title), element("dl", *items))

    def written(given: dict[str, object]) -> dict[str, str]:
        return {key: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for key, v in given.items()}

    return element(
        "section",
        element("h2", "Conditions"),
        element("p", conditions(results)),
        pairs("Machine", written(results.machine)),
        pairs("Versions", dict(results.versions)),
        pairs("Options", written(results.options)),
    )


def _badge(word: str) -> Markup:
    return element("span", word, class_=f"ranking {word.replace(' ', '-')}")


def _missing(outcome: Outcome, name: str) -> str:
    return missing(outcome.subjects.get(name))


def _machine(results: Results) -> str:
    return f"{results.machine.get('cpu', 'unknown CPU')}, {results.machine.get('cpus', '?')} CPUs"


def _anchor(outcome: Outcome) -> str:
    return f"scenario-{outcome.scenario}"
