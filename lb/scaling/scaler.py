"""What a scaling rule sees and says, and the interface that each rule has. Pure: time is an argument, nothing waits.

A loop takes a `Look` at the pool each second or more often and hands it to `see`; it asks `decide` once per `interval`
and carries the decision out. The daemon (`lb.control.servers.autoscaler`) and the simulator drive the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct, field

from lb.scaling.propose import Reading


class Traffic(Struct, frozen=True):
    """Requests of a pool over one span of time, summed over all workers (and over all daemons that share the pool)."""

    span: int  # ns
    arrived: int = 0
    answered: int = 0
    failed: int = 0  # answered with an error by an endpoint, or not at all
    refused: int = 0  # given up by the pool's queue: no place, or no time
    waited: int = 0  # ns, sum over the answered requests: time in the pool's queue
    served: int = 0  # ns, sum over the answered requests: time at an endpoint
    in_flight: float = 0.0  # requests at endpoints, mean over the span
    waiting: float = 0.0  # requests in the pool's queue, mean over the span


class Look(Struct, frozen=True):
    """A pool at `at` (monotonic ns). `readings` are by signal; an absent one is missing, never zero."""

    at: int
    wanted: int  # replicas asked for last
    ready: int  # replicas that serve
    minimum: int
    maximum: int
    wall: float = 0.0  # seconds since the epoch: for schedules and seasons
    traffic: Traffic | None = None  # since the look before; None where it is unknown or stale
    readings: Mapping[str, Reading] = field(default_factory=dict)
    start_time: int | None = None  # ns from the start of a replica to ready, as seen last; None before the first


class Decision(Struct, frozen=True):
    """Replicas from now on, within the limits, and why. `recommended` is before windows, steps and limits; `foreseen`
    are those that are to be there before their requests come, as by a forecast: they alone start a pool at zero."""

    replicas: int
    recommended: int
    reason: str
    detail: Mapping[str, Any] = field(default_factory=dict)  # per signal or recommender: what it saw and asks for
    foreseen: int = 0


class Scaler(Protocol):
    """A rule with its memory. Every member passes `tests/scaling/scaling_contract.py`."""

    @property
    def name(self) -> str:
        """The rule's name in the configuration."""

    @property
    def interval(self) -> int:
        """ns between two decisions."""

    def see(self, look: Look) -> None:
        """Take note of a look; they come in the order of their times."""

    def decide(self, now: int) -> Decision:
        """The decision at `now` (monotonic ns), not before the last look. Guarantees: within the last look's limits;
        never fewer replicas while a signal is missing or stale."""

    def learned(self) -> Mapping[str, Any]:
        """What the rule believes of the pool, by name, with units in the names: for status and `scaling explain`."""

    def memory(self) -> bytes:
        """What is worth keeping over a restart; empty where there is nothing."""

    def restore(self, memory: bytes) -> None:
        """Take over what `memory` gave in an earlier process. Raises ValueError for bytes that cannot be read."""
