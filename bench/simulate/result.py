"""What came of a simulated run: a line for each request, and figures over those that count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bench.simulate.scenario import SECOND, Scenario, capacity_per_second

CUT, GONE = -1, 499

# As bench.simulate._engine writes them.
RECORD = np.dtype(
    [
        ("intended", "<i8"),
        ("ended", "<i8"),
        ("status", "<i4"),
        ("reason", "<i4"),
        ("kind", "<i4"),
        ("server", "<i4"),
        ("attempts", "<i4"),
        ("unused", "<i4"),
    ]
)
Records = np.ndarray[Any, np.dtype[Any]]


class Answer(NamedTuple):
    """A request that is over: when it was to be sent and when its answer was with the client (ns), the HTTP status that
    it was told (CUT: none, the connection broke; GONE: its client had left), the number of the reason of a failure, of
    its kind, of the server that was asked last (-1: none was), and its attempts."""

    intended: int
    ended: int
    status: int
    reason: int
    kind: int
    server: int
    attempts: int

    @property
    def good(self) -> bool:
        return 200 <= self.status < 400


@dataclass(frozen=True)
class Result:
    """A run of `scenario`. `began` is the end of its warm-up (ns); requests that were to be sent in its `seconds` from
    there on count. `sent` are all, what ran before and after included, and `records` those of them that are over, as
    RECORD has it. `most_in_flight` is for each server, from the end of the warm-up on."""

    scenario: Scenario
    seed: int
    began: int
    seconds: float
    sent: int
    records: Records
    reasons: Sequence[str]
    most_in_flight: tuple[int, ...]

    @cached_property
    def counted(self) -> Records:
        """The records of the requests that count."""
        until = self.began + round(self.seconds * SECOND)
        intended = self.records["intended"]
        return self.records[(intended >= self.began) & (intended < until)]

    @property
    def answers(self) -> list[Answer]:
        """The requests that count, one by one."""
        return answers_of(self.counted)

    @cached_property
    def latencies(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Of good answers, ascending, ns."""
        found = self.counted[_good(self.counted)]
        return np.sort(found["ended"] - found["intended"])

    def percentile(self, percent: float) -> float:
        """Of the latency of good answers, in ms; 0 without any."""
        return _percentile(self.latencies, percent)

    @property
    def mean_ms(self) -> float:
        """Of the latency of good answers; 0 without any."""
        return float(self.latencies.mean()) / 1e6 if len(self.latencies) else 0.0

    @cached_property
    def goodput(self) -> float:
        """Answers in time, per second."""
        return int(self._in_time(self.counted).sum()) / self.seconds

    def per_second(self) -> list[int]:
        """Answers in time by the second in which they came, from the end of the warm-up on; whoever sent them when."""
        return self._by_second(self.records[self._in_time(self.records)]["ended"])

    def shares_of_able(self) -> list[float]:
        """The same as shares of what the servers can do in that second, or of what was asked in it if that is less."""
        able, asked = capacity_per_second(self.scenario), self._by_second(self.records["intended"])
        counts = zip(self.per_second(), able, asked, strict=True)
        return [done / max(1.0, min(most, wanted)) for done, most, wanted in counts]

    def by_kind(self) -> dict[str, dict[str, float]]:
        """For each name of a kind: requests, the share in time, and the 99th percentile of good answers in ms."""
        found = {}
        for name in dict.fromkeys(kind.name for kind in self.scenario.kinds):
            numbers = [i for i, kind in enumerate(self.scenario.kinds) if kind.name == name]
            own = self.counted[np.isin(self.counted["kind"], numbers)]
            good = own[_good(own)]
            found[name] = {
                "requests": len(own),
                "in_time": int(self._in_time(own).sum()) / max(1, len(own)),
                "p99_ms": _percentile(np.sort(good["ended"] - good["intended"]), 99),
            }
        return found

    @cached_property
    def errors(self) -> Counter[str]:
        """Requests without a good answer: by the reason of ours, or else the status of the server."""
        found: Counter[str] = Counter()
        bad = self.counted[~_good(self.counted)]
        pairs, counts = np.unique(bad[["reason", "status"]], return_counts=True)
        for (reason, status), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            found[self.reasons[reason] or str(status)] += count
        return found

    @property
    def failed_share(self) -> float:
        return sum(self.errors.values()) / max(1, len(self.counted))

    @cached_property
    def shares(self) -> list[float]:
        """Of the requests that reached a server, the part that each was asked last."""
        reached = self.counted["server"][self.counted["server"] >= 0]
        counts = np.bincount(reached, minlength=len(self.scenario.services))
        return [count / max(1, len(reached)) for count in counts.tolist()]

    @property
    def attempts(self) -> float:
        """For each request, on average."""
        return float(self.counted["attempts"].mean()) if len(self.counted) else 0.0

    def _in_time(self, records: Records) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which of them are good answers within the deadline of their kind."""
        deadlines = np.array([1e18 if k.deadline_ms is None else k.deadline_ms * 1e6 for k in self.scenario.kinds])
        found: np.ndarray[Any, np.dtype[np.bool_]] = _good(records) & (
            records["ended"] - records["intended"] <= deadlines[records["kind"]]
        )
        return found

    def _by_second(self, times: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
        count = round(self.seconds)
        seconds = (times - self.began) // SECOND
        counts: list[int] = np.bincount(seconds[(seconds >= 0) & (seconds < count)], minlength=count).tolist()
        return counts


def answers_of(records: Records) -> list[Answer]:
    """The records one by one."""
    return [Answer(*record[:-1]) for record in records.tolist()]


def _good(records: Records) -> np.ndarray[Any, np.dtype[np.bool_]]:
    found: np.ndarray[Any, np.dtype[np.bool_]] = (records["status"] >= 200) & (records["status"] < 400)
    return found


def _percentile(ascending: np.ndarray[Any, np.dtype[np.int64]], percent: float) -> float:
    """In ms, of durations in ns."""
    if not len(ascending):
        return 0.0
    return int(ascending[min(int(len(ascending) * percent / 100), len(ascending) - 1)]) / 1e6
