"""What a reader has to know beside the figures: where Tidegate loses, what was doubtful, and the conditions."""

from __future__ import annotations

from collections.abc import Iterator

from bench.peers import OURS
from bench.report import words
from bench.report.analysis import Versus, figure, peers, summary, verdicts, versus
from bench.results import Metric, Outcome, Results
from bench.stats import CONFIDENCE, Ranking


def losses(results: Results) -> list[str]:
    """Everything in which Tidegate is not the better one, by scenario: what it cannot do, what failed, each metric in
    which it is behind a peer beyond the spread, and limits that are missed."""
    return [f"{outcome.scenario}: {text}" for outcome in results.outcomes for text in _losses(outcome)]


def _losses(outcome: Outcome) -> Iterator[str]:
    ours = outcome.subjects.get(OURS)
    if ours is None:
        yield "Tidegate was not run"
        return
    if ours.cannot:
        yield f"Tidegate cannot: {ours.cannot}"
    if ours.failed:
        yield f"Tidegate failed after {_runs(len(ours.samples))}: {ours.failed}"
    for metric in outcome.metrics:
        found = [v for peer in peers(outcome) if (v := versus(outcome, metric, peer)) is not None]
        if behind := [_against(outcome, metric, v) for v in found if v.ranking is Ranking.BEHIND]:
            yield f"{metric.title} ({words.direction(metric)}): behind {', '.join(behind)}"
        if worse := [_against(outcome, metric, v) for v in found if _worse_once(metric, v)]:
            yield f"{metric.title} ({words.direction(metric)}): worse in the only run than {', '.join(worse)}"
    for one in verdicts(outcome):
        if one.met is False:
            yield f"limit: {words.against_limit(one)}"


def _against(outcome: Outcome, metric: Metric, found: Versus) -> str:
    """`nginx 1.20x (1.10 to 1.30)`, or both medians where there is no ratio."""
    if found.ratio is not None:
        return f"{found.peer} {words.full_ratio(found)}"
    ours, theirs = figure(outcome, OURS, metric), figure(outcome, found.peer, metric)
    return f"{found.peer} ({words.value(ours, metric)} against {words.value(theirs, metric)})"


def _worse_once(metric: Metric, found: Versus) -> bool:
    if found.ranking is not Ranking.ONCE or found.ratio is None:
        return False
    return found.ratio.median > 1 if metric.better == "lower" else found.ratio.median < 1


def notes(results: Results) -> Iterator[str]:
    """What a reader has to know before he believes the figures."""
    for name, reason in sorted(results.skipped.items()):
        yield f"{name} was skipped: {reason}"
    if (kept_on := results.machine.get("work_file_system", "tmpfs")) != "tmpfs":
        yield f"files, caches among them, were on {kept_on}, not in memory"
    for outcome in results.outcomes:
        for text in scenario_notes(outcome):
            yield f"{outcome.scenario}: {text}"


def scenario_notes(outcome: Outcome) -> Iterator[str]:
    """The same for one scenario: who cannot, what failed, which runs are doubtful."""
    for name, subject in outcome.subjects.items():
        if subject.cannot:
            yield f"{name} cannot: {subject.cannot}"
        if subject.failed:
            yield f"{name} failed after {_runs(len(subject.samples))}: {subject.failed}"
        seen: dict[str, list[int]] = {}
        for sample in subject.samples:
            for warning in sample.warnings:
                seen.setdefault(warning, []).append(sample.round)
        for warning, rounds in seen.items():
            yield f"{name}, run{'s' * (len(rounds) > 1)} {', '.join(map(str, rounds))}: {warning}"


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def confidence(results: Results) -> str:
    """What the interval beside a ratio means."""
    found = {line.versus.ratio.count for line in summary(results) if line.versus and line.versus.ratio}
    text = (
        f"The interval is Student's, at {CONFIDENCE:.0%}, of the mean logarithm of the paired ratios: wide where there "
        "are few runs, or they differ. Two results agree on a ratio if their intervals overlap (`compare`)."
    )
    return text + (" Where there is a single run no interval is claimed." if 1 in found or found == set() else "")


EXPLANATION = (
    "A ratio is Tidegate's figure divided by the peer's, by pairs of runs that followed each other; the median of them "
    "is shown. “ahead” and “behind” mean better or worse in every pair, “even” neither, “one run” "
    "that nothing can be said; a rate that was the load's limit has no ratio. ± is the farthest run's distance from "
    "the median. Absolute figures belong to this machine; the ratios are what compares."
)


def conditions(results: Results) -> str:
    """One paragraph: the machine, the versions, the options."""
    m, o = results.machine, results.options
    parts = [
        f"{m.get('cpu', 'unknown CPU')}, {m.get('cpus', '?')} CPUs ({m.get('architecture', '?')}), "
        f"{m.get('system', 'unknown system')}, Linux {m.get('kernel', '?')}; proxy on CPU {m.get('proxy_core', '?')}, "
        f"load and servers on CPU {', '.join(map(str, m.get('load_cores', '?')))}.",
        ", ".join(f"{name} {version}" for name, version in results.versions.items())
        + (f", commit {results.commit}." if results.commit else "."),
        f"{o.get('runs', '?')} runs of {o.get('duration', '?')} s each, after {o.get('warmup', '?')} s of warm-up, "
        f"interleaved; started {results.started}, took {results.seconds:.0f} s.",
    ]
    return " ".join(parts)
