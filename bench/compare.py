"""Two results of the suite side by side: do they agree on every ratio?

Two ratios agree if their intervals (`bench.stats`: Student's, at 99 %) have a point in common. What that is worth:

- Intervals that do not overlap are evidence of a difference. If both results drew their ratios alike, from a log-normal
  distribution, two intervals would lie apart in two to three of ten thousand cases, whatever the number of runs
  (simulated: 0.019 % for three runs each, 0.023 % for five). Of the ratios of a full run none disagrees at random then.
- Intervals that overlap are no proof of equality: a wide interval overlaps with anything. The table shows their width;
  that of five runs is about two of their standard deviations to each side, that of three nearly six.
- Nothing is concluded from a single run, which has no interval, nor of rates that were the load generator's limit: they
  are its own, and move with what else its core has to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.peers import OURS
from bench.report import words
from bench.report.analysis import best_peer, loads_rate, peers, versus
from bench.report.document import plain
from bench.report.document import table as markdown_table
from bench.results import Metric, Outcome, Results
from bench.stats import Summary, overlap

_WORDS = {True: "agree", False: "disagree", None: "cannot say"}
_STYLES = {True: "green", False: "bold red", None: "dim"}


@dataclass(frozen=True)
class Agreement:
    """One ratio in two results; None where a result has no ratio, and `reason` says why nothing can be said.

    `headline` marks the scenario's first metric against a peer that is the best one in either result.
    """

    scenario: str
    metric: Metric
    peer: str
    a: Summary | None
    b: Summary | None
    headline: bool
    reason: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether the intervals overlap; False if a proxy failed in one result only; None if nothing can be said."""
        if self.a is None or self.b is None:
            return False if self.reason.startswith("failed") else None
        if self.reason:
            return None
        return overlap(self.a, self.b)


def compare(a: Results, b: Results) -> list[Agreement]:
    """Every ratio of the scenarios that both results have, in the order of `a`."""
    others = {outcome.scenario: outcome for outcome in b.outcomes}
    found: list[Agreement] = []
    for one in a.outcomes:
        if (other := others.get(one.scenario)) is not None:
            found += _scenario(one, other)
    return found


def disagreements(found: list[Agreement]) -> list[Agreement]:
    """The headlines on which the two results disagree; a comparison with any has failed."""
    return [one for one in found if one.headline and one.agrees is False]


def differences(a: Results, b: Results) -> list[str]:
    """What was not the same in the two: machine, versions, revision, options, scenarios, proxies."""
    found = [
        f"{what} {key}: {one.get(key, 'none')} and {other.get(key, 'none')}"
        for what, one, other in (
            ("machine", a.machine, b.machine),
            ("version", a.versions, b.versions),
            ("option", a.options, b.options),
        )
        for key in dict.fromkeys((*one, *other))
        if one.get(key) != other.get(key) and key != "load_average_at_start"
    ]
    if a.commit != b.commit:
        found.append(f"revision: {a.commit or 'unknown'} and {b.commit or 'unknown'}")
    for name, mine, others in (("first", a, b), ("second", b, a)):
        scenarios = {outcome.scenario for outcome in others.outcomes}
        if only := [o.scenario for o in mine.outcomes if o.scenario not in scenarios]:
            found.append(f"only the {name} has the scenarios {', '.join(only)}")
    return found


def show(found: list[Agreement], a: Results, b: Results, console: Console) -> None:
    """Prints the comparison of two results on a terminal."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("scenario", "metric", "peer"):
        table.add_column(title, overflow="fold")
    for title in ("first", "second"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for one in found:
        *cells, word = _cells(one)
        table.add_row(*map(Text, cells), Text(word, style=_STYLES[one.agrees]), style="bold" if one.headline else "")
    console.print(table)
    for text in differences(a, b):
        console.print(Text(f"! differs: {text}", style="yellow"))
    for text in verdict(found):
        console.print(Text(text, style="red" if disagreements(found) else ""))


def markdown(found: list[Agreement], a: Results, b: Results) -> str:
    """The comparison of two results as Markdown; headlines are bold."""
    rows = []
    for one in found:
        scenario, *cells = map(plain, _cells(one))
        rows.append([f"**{scenario}**" if one.headline else scenario, *cells])
    lines = markdown_table(["scenario", "metric", "peer", "first", "second", ""], rows, "lllrrl")
    if differ := differences(a, b):
        lines += ["", "What differs between the two:", "", *(f"- {plain(text)}" for text in differ)]
    return "\n".join([*lines, "", *map(plain, verdict(found))]) + "\n"


def verdict(found: list[Agreement]) -> Iterator[str]:
    """How many ratios agree, and the headlines that disagree."""
    judged = [one for one in found if one.agrees is not None]
    apart = [one for one in judged if not one.agrees]
    yield (
        f"{len(judged) - len(apart)} of {len(judged)} ratios agree, that is, their 99 % intervals overlap. "
        f"Of {len(found) - len(judged)} nothing can be said."
    )
    for one in disagreements(found):
        yield f"The headline of {one.scenario} disagrees: {one.metric.title} against {one.peer}."


def _scenario(a: Outcome, b: Outcome) -> Iterator[Agreement]:
    known = {metric.key for metric in b.metrics}
    for place, metric in enumerate(m for m in a.metrics if m.ratio and m.key in known):
        best = {best_peer(a, metric), best_peer(b, metric)}
        for peer in dict.fromkeys((*peers(a), *peers(b))):
            one, other = (_ratio(outcome, metric, peer) for outcome in (a, b))
            if one is None and other is None:
                continue
            headline = place == 0 and metric == a.metrics[0] and peer in best
            yield Agreement(a.scenario, metric, peer, one, other, headline, _reason(a, b, metric, one, other, peer))


def _ratio(outcome: Outcome, metric: Metric, peer: str) -> Summary | None:
    found = versus(outcome, metric, peer)
    return found.ratio if found else None


def _reason(a: Outcome, b: Outcome, metric: Metric, one: Summary | None, other: Summary | None, peer: str) -> str:
    """Why nothing can be said of two ratios, "" if something can; a failure comes first."""
    if one is not None and other is not None:
        return "one run has no interval" if min(one.count, other.count) < 2 else ""
    lacking, which = (a, "first") if one is None else (b, "second")
    for name in (OURS, peer):
        subject = lacking.subjects.get(name)
        if subject is not None and subject.failed:
            return f"failed in the {which}: {name}"
        if loads_rate(lacking, metric, name):
            return f"the rate is the load's in the {which}"
    return f"not in the {which}"


def _cells(one: Agreement) -> list[str]:
    word = _WORDS[one.agrees] + (f" ({one.reason})" if one.reason else "")
    return [one.scenario, one.metric.title, one.peer, *(_written(s) for s in (one.a, one.b)), word]


def _written(found: Summary | None) -> str:
    if found is None:
        return words.NOTHING
    between = words.interval(found)
    return f"{words.times(found.median)}x" + (f" ({between})" if between else "")
