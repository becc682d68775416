"""Looks at pools that are not there: what a loop would hand to a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from lb.scaling.propose import Reading
from lb.scaling.scaler import Decision, Look, Scaler, Traffic

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
START = 1_000 * SECOND


def traffic(in_flight: float, waiting: float = 0.0, per_second: float = 0.0, span: int = SECOND) -> Traffic:
    arrived = round(per_second * span / SECOND)
    return Traffic(span, arrived=arrived, answered=arrived, in_flight=in_flight, waiting=waiting)


class Pool:
    """A pool whose replicas are ready at once, with a rule that scales it. `load` is the requests at it at once, of
    which each takes a replica `service` seconds; all signals follow from it. None: every signal is missing."""

    def __init__(self, rule: Scaler, wanted: int = 1, minimum: int = 1, maximum: int = 1000) -> None:
        self.rule = rule
        self.wanted = wanted
        self.minimum = minimum
        self.maximum = maximum
        self.now = START
        self.decided = START
        self.changes: list[int] = []

    def look(self, load: float | None, ready: int | None = None) -> Look:
        ready = self.wanted if ready is None else ready
        look = Look(self.now, self.wanted, ready, self.minimum, self.maximum)
        if load is None:
            return look
        return replace(look, traffic=traffic(load, per_second=load), readings=readings(load, ready, self.wanted))

    def second(self, load: float | None) -> Decision | None:
        """One second of `load`; the decision, if it is time for one."""
        self.now += SECOND
        self.rule.see(self.look(load))
        if self.now - self.decided < self.rule.interval:
            return None
        self.decided = self.now
        decision = self.rule.decide(self.now)
        if decision.replicas != self.wanted:
            self.changes.append(decision.replicas)
        self.wanted = decision.replicas
        return decision

    def run(self, seconds: int, load: float | None) -> int:
        """So many seconds of the same load; the replicas that are wanted then."""
        for _ in range(seconds):
            self.second(load)
        return self.wanted


def readings(load: float, ready: int, wanted: int) -> Mapping[str, Reading]:
    """Each replica has its share of `load` requests at once, and is busy for as many cores."""
    unready = max(0, wanted - ready)

    def shared(total: float) -> Reading:
        return Reading((total / ready,) * ready, unready=unready) if ready else Reading(unready=unready)

    return {
        "in_flight": shared(load),
        "cpu": shared(100 * load),
        "requests_per_second": shared(load),
        "queue_length": shared(0.0),
        "queue_wait": Reading((0.0,) * ready, unready=unready),
    }


def of(rule: Scaler, look: Look, now: int | None = None, **changes: Any) -> Decision:
    """The decision of a rule on one look."""
    look = replace(look, **changes)
    rule.see(look)
    return rule.decide(look.at if now is None else now)
