"""What a benchmark found, whole: raw samples, configurations, versions and the machine, as JSON and back."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.errors import BenchError

FORMAT = 3
# How the warning ends that a sample has whose load, and not the proxy, had no core left.
LOADS_RATE = "the rate is not the proxy's limit"


def directory() -> Path:
    """Where results are kept: `results` beside this file, or what TIDEGATE_BENCH_RESULTS says."""
    return Path(os.environ.get("TIDEGATE_BENCH_RESULTS") or Path(__file__).parent / "results")


@dataclass(frozen=True)
class Metric:
    """A figure of a sample. `digits` are those after the point in a table; `ratio` is whether a ratio makes sense."""

    key: str
    title: str
    better: Literal["lower", "higher"]
    digits: int = 0
    ratio: bool = True


@dataclass(frozen=True)
class Limit:
    """What the project asks of itself: a ratio to the best of `peers`, or (none given) a value.

    `metric` is the key of the metric that it is about, "" is the headline. `bound` is the most that is allowed where
    less of the metric is better, and the least where more is.
    """

    bound: float
    peers: tuple[str, ...] = ()
    metric: str = ""


@dataclass
class Sample:
    """One run: its figures by the metric's key, what makes it doubtful, and everything that was counted."""

    values: dict[str, float]
    warnings: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    round: int = 0


@dataclass
class Subject:
    """One proxy in one scenario. It has samples, or `cannot`/`failed` says why not (a failure may follow samples)."""

    config: str = ""
    cannot: str = ""
    failed: str = ""
    samples: list[Sample] = field(default_factory=list)

    def by_round(self, key: str) -> dict[int, float]:
        return {sample.round: sample.values[key] for sample in self.samples if key in sample.values}


@dataclass
class Outcome:
    """One scenario with all its subjects by the proxy's name, in the order they ran.

    What a report needs of the scenario is kept with it, so that a scenario that has gone can still be reported;
    `metrics[0]` is the headline, `note` says what differs between the work of the subjects. Raises ValueError for a
    limit of a metric that there is not.
    """

    scenario: str
    subjects: dict[str, Subject] = field(default_factory=dict)
    title: str = ""
    metrics: tuple[Metric, ...] = ()
    limits: tuple[Limit, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        for limit in self.limits:
            self.metric_of(limit)

    def metric_of(self, limit: Limit) -> Metric:
        """The metric that a limit is about. Raises ValueError if there is none."""
        for metric in self.metrics:
            if limit.metric in ("", metric.key):
                return metric
        raise ValueError(f"the scenario {self.scenario} has no metric {limit.metric!r} for its limit")


@dataclass
class Results:
    """A whole run of the suite. `started` is ISO 8601 in UTC; `skipped` has why a proxy was left out."""

    started: str
    commit: str
    machine: dict[str, Any]
    versions: dict[str, str]
    options: dict[str, Any]
    skipped: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0


def save(results: Results, where: Path | None = None) -> Path:
    """Writes a new file, named by the time of the start; returns its path."""
    where = where or directory()
    where.mkdir(parents=True, exist_ok=True)
    path = where / f"{results.started.replace(':', '').replace('-', '')}.json"
    path.write_text(json.dumps({"format": FORMAT, **asdict(results)}, indent=1) + "\n")
    return path


def load(path: Path) -> Results:
    """Raises BenchError if the file is not one of ours."""
    try:
        data = json.loads(path.read_text())
        if (found := data.pop("format")) != FORMAT:
            raise BenchError(f"{path}: is of format {found}, this bench reads {FORMAT}: run the bench again")
        outcomes = [_outcome(**outcome) for outcome in data.pop("outcomes")]
        return Results(**data, outcomes=outcomes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path}: no result of the bench: {error}") from error


def _outcome(
    subjects: dict[str, Any], metrics: list[dict[str, Any]], limits: list[dict[str, Any]], **plain: str
) -> Outcome:
    if not metrics:
        raise ValueError(f"the scenario {plain['scenario']} has no metric")
    return Outcome(
        **plain,
        subjects={
            name: Subject(**{**s, "samples": [Sample(**sample) for sample in s["samples"]]})
            for name, s in subjects.items()
        },
        metrics=tuple(Metric(**metric) for metric in metrics),
        limits=tuple(map(_limit, limits)),
    )


def _limit(given: dict[str, Any]) -> Limit:
    # Results from before there were limits of other metrics than the headline call the bound so.
    bound = given["at_most"] if "at_most" in given else given["bound"]
    return Limit(bound, tuple(given["peers"]), given.get("metric", ""))


def newest(where: Path | None = None) -> Path:
    """The newest result. Raises BenchError if there is none."""
    where = where or directory()
    found = sorted(where.glob("*.json"))
    if not found:
        raise BenchError(f"no results in {where}: run the bench first")
    return found[-1]
