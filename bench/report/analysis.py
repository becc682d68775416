"""What the samples say: medians, the best peer, ratios, rankings and limits. Every form of the report asks here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from bench.peers import OURS
from bench.results import LOADS_RATE, Limit, Metric, Outcome, Results, Subject
from bench.stats import Ranking, Summary, paired_ratio, ranking, summarize

_RATES = ("rps", "gbit")


@dataclass(frozen=True)
class Versus:
    """Ours against one peer in one metric; `ratio` is None where the metric has none."""

    peer: str
    ratio: Summary | None
    ranking: Ranking


@dataclass(frozen=True)
class Verdict:
    """Ours against one of the project's limits, of `metric`: `found` is the ratio to `peer`, or the value, in question;
    None if it is missing."""

    limit: Limit
    metric: Metric
    peer: str | None
    found: Summary | None

    @property
    def met(self) -> bool | None:
        return None if self.found is None else self._used <= 1

    @property
    def need(self) -> tuple[int, float]:
        """Grows with what is left to do: a limit that is kept, one that was not measured, one that is missed; among
        those that were measured by the share of the bound that is used up."""
        return {True: 0, None: 1, False: 2}[self.met], self._used

    @property
    def _used(self) -> float:
        """1 at the bound, less where there is something to spare."""
        if self.found is None:
            return 1.0
        small, large = self.found.median, self.limit.bound
        if self.metric.better == "higher":
            small, large = large, small
        if large == 0:
            return 1.0 if small == 0 else inf
        return small / large


@dataclass(frozen=True)
class Line:
    """One scenario in the summary: its headline metric, ours, the best peer, and what comes of it.

    `peer`, `theirs` and `versus` are None together, where no peer was measured; `versus` also where ours was not.
    """

    outcome: Outcome
    metric: Metric
    ours: Summary | None
    peer: str | None
    theirs: Summary | None
    versus: Versus | None
    verdict: Verdict | None
    doubtful: bool


def values(outcome: Outcome, name: str, metric: Metric) -> dict[int, float]:
    """A proxy's figures by round; empty if it has none."""
    subject = outcome.subjects.get(name)
    if subject is None:
        return {}
    return {s.round: s.values[metric.key] for s in subject.samples if metric.key in s.values}


def figure(outcome: Outcome, name: str, metric: Metric) -> Summary | None:
    """A proxy's median; None if it has no figures."""
    found = values(outcome, name, metric)
    return summarize(list(found.values())) if found else None


def peers(outcome: Outcome) -> list[str]:
    return [name for name in outcome.subjects if name != OURS]


def ours_first(outcome: Outcome) -> list[str]:
    return [OURS] * (OURS in outcome.subjects) + peers(outcome)


def best_peer(outcome: Outcome, metric: Metric, among: tuple[str, ...] = ()) -> str | None:
    """The peer (of `among`, or any) with the best median; None if none was measured."""
    medians = {
        name: found.median
        for name in peers(outcome)
        if (not among or name in among) and (found := figure(outcome, name, metric)) is not None
    }
    if not medians:
        return None
    choose = min if metric.better == "lower" else max
    return choose(medians, key=lambda name: medians[name])


def loads_rate(outcome: Outcome, metric: Metric, name: str) -> bool:
    """Whether the metric is a rate that was the load's limit in a run of the proxy: it says nothing of the proxy."""
    subject = outcome.subjects.get(name)
    samples = subject.samples if subject is not None and metric.key in _RATES else []
    return any(warning.endswith(LOADS_RATE) for sample in samples for warning in sample.warnings)


def versus(outcome: Outcome, metric: Metric, peer: str) -> Versus | None:
    """Ours against a peer by the rounds that both have; None if there are none, or for rates that were the load's."""
    if loads_rate(outcome, metric, OURS) or loads_rate(outcome, metric, peer):
        return None
    ours, theirs = values(outcome, OURS, metric), values(outcome, peer, metric)
    found = ranking(ours, theirs, metric.better)
    if found is None:
        return None
    return Versus(peer, paired_ratio(ours, theirs) if metric.ratio else None, found)


def verdicts(outcome: Outcome) -> list[Verdict]:
    """Ours against each of the scenario's limits."""
    return [_verdict(outcome, limit) for limit in outcome.limits]


def verdict(outcome: Outcome) -> Verdict | None:
    """The limit that is missed by most; if none is, one that was not measured, else the one with least to spare. None
    if the scenario has no limit."""
    return max(verdicts(outcome), key=lambda one: one.need, default=None)


def _verdict(outcome: Outcome, limit: Limit) -> Verdict:
    metric = outcome.metric_of(limit)
    if not limit.peers:
        return Verdict(limit, metric, None, figure(outcome, OURS, metric))
    peer = best_peer(outcome, metric, limit.peers)
    compared = versus(outcome, metric, peer) if peer else None
    return Verdict(limit, metric, peer, compared.ratio if compared else None)


def summary(results: Results) -> Iterator[Line]:
    """One line per scenario."""
    for outcome in results.outcomes:
        metric = outcome.metrics[0]
        peer = best_peer(outcome, metric)
        yield Line(
            outcome,
            metric,
            figure(outcome, OURS, metric),
            peer,
            figure(outcome, peer, metric) if peer else None,
            versus(outcome, metric, peer) if peer else None,
            verdict(outcome),
            any(
                s.warnings for name in (OURS, peer) if name in outcome.subjects for s in outcome.subjects[name].samples
            ),
        )


def missing(subject: Subject | None) -> str:
    """A word or two for why a proxy has no figures; a run in which it answered nothing has no latencies."""
    if subject is None:
        return "not run"
    if subject.cannot or subject.failed:
        return "cannot" if subject.cannot else "failed"
    return "none" if subject.samples else "no runs"


def counts(results: Results) -> dict[Ranking, int]:
    """In how many scenarios the headline stands how."""
    found = [line.versus.ranking for line in summary(results) if line.versus]
    return {kind: found.count(kind) for kind in Ranking if kind in found}
