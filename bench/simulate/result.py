"""What came of a simulated run: a line for each request, and figures over those that count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from bench.simulate.scenario import SECOND, Scenario, capacity_per_second

CUT, UNFINISHED, GONE = -1, -2, 499


class Answer(NamedTuple):
    """A request that is over: when it was to be sent and when its answer was with the client (ns), the HTTP status that
    it was told (CUT: none, the connection broke; GONE: its client had left; UNFINISHED), the number of the reason of a
    failure, of its kind, of the server that was asked last (-1: none was), and its attempts."""

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
    """A run of `scenario`. `answers` are those of requests that were to be sent in the measured seconds, by the end;
    `most_in_flight` is for each server, over these and what ran beside them. `sent` counts all, warm-up included."""

    scenario: Scenario
    seed: int
    began: int  # ns: the end of the warm-up
    seconds: float
    answers: Sequence[Answer]
    reasons: Sequence[str]
    most_in_flight: tuple[int, ...]
    sent: int
    all_answers: Sequence[Answer]

    @cached_property
    def latencies(self) -> list[int]:
        """Of good answers, ascending, ns."""
        return sorted(one.ended - one.intended for one in self.answers if one.good)

    def percentile(self, percent: float) -> float:
        """Of the latency of good answers, in ms; 0 without any."""
        found = self.latencies
        return found[min(int(len(found) * percent / 100), len(found) - 1)] / 1e6 if found else 0.0

    @property
    def mean_ms(self) -> float:
        """Of the latency of good answers."""
        return sum(self.latencies) / max(1, len(self.latencies)) / 1e6

    def in_time(self, one: Answer) -> bool:
        """A good answer within the deadline of its kind."""
        deadline = self.scenario.kinds[one.kind].deadline_ms
        return one.good and (deadline is None or one.ended - one.intended <= deadline * 1e6)

    @cached_property
    def goodput(self) -> float:
        """Answers in time, per second."""
        return sum(map(self.in_time, self.answers)) / self.seconds

    def per_second(self) -> list[int]:
        """Answers in time by the second in which they came, from the end of the warm-up on; whoever sent them when."""
        counts = [0] * round(self.seconds)
        for one in self.all_answers:
            second = (one.ended - self.began) // SECOND
            if 0 <= second < len(counts) and self.in_time(one):
                counts[second] += 1
        return counts

    def shares_of_able(self) -> list[float]:
        """The same as shares of what the servers can do in that second, or of what was asked in it if that is less."""
        asked = [0] * round(self.seconds)
        for one in self.all_answers:
            second = (one.intended - self.began) // SECOND
            if 0 <= second < len(asked):
                asked[second] += 1
        able = capacity_per_second(self.scenario)
        counts = zip(self.per_second(), able, asked, strict=True)
        return [done / max(1.0, min(most, wanted)) for done, most, wanted in counts]

    def by_kind(self) -> dict[str, dict[str, float]]:
        """For each name of a kind: requests, the share in time, and the 99th percentile of good answers in ms."""
        found = {}
        for name in {kind.name for kind in self.scenario.kinds}:
            own = [one for one in self.answers if self.scenario.kinds[one.kind].name == name]
            latencies = sorted(one.ended - one.intended for one in own if one.good)
            found[name] = {
                "requests": len(own),
                "in_time": sum(map(self.in_time, own)) / max(1, len(own)),
                "p99_ms": latencies[int(0.99 * len(latencies))] / 1e6 if latencies else 0.0,
            }
        return found

    @cached_property
    def errors(self) -> Counter[str]:
        """Requests without a good answer: by the reason of ours, or else the status of the server."""
        found: Counter[str] = Counter()
        for one in self.answers:
            if not one.good:
                found[self.reasons[one.reason] or str(one.status)] += 1
        return found

    @property
    def failed_share(self) -> float:
        return sum(self.errors.values()) / max(1, len(self.answers))

    @cached_property
    def shares(self) -> list[float]:
        """Of the requests that reached a server, the part that each was asked last."""
        counts = Counter(one.server for one in self.answers if one.server >= 0)
        total = max(1, sum(counts.values()))
        return [counts[i] / total for i in range(len(self.scenario.services))]

    @property
    def attempts(self) -> float:
        """For each request, on average."""
        return sum(one.attempts for one in self.answers) / max(1, len(self.answers))
