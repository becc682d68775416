"""A worker's place among the workers of a master, and what is published to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from lb.config.plan.plan import Plan
from lb.config.units import SECOND
from lb.control.workers.backoff import Restarts
from lb.control.workers.channel import Channel
from lb.control.workers.process import WorkerProcess


class Publication(Struct, frozen=True):
    """What workers get: a plan, the listening sockets it needs, and how to log."""

    plan: Plan
    sockets: Sequence[Mapping[str, tuple[int, int]]]  # for each worker: listener -> (id of the socket, descriptor)
    log_level: str
    wire: Mapping[str, Any]  # the plan as plain types: made once, not for each worker


class Member(Struct):
    """One worker's place, which outlives its processes.

    States: starting (no frame yet), idle (no plan yet), running, stopping, stopped, backoff, crash_loop.
    """

    index: int
    restarts: Restarts
    state: str = "backoff"
    process: WorkerProcess | None = None
    channel: Channel | None = None
    started: int = 0
    last_beat: int = 0
    generation: int = 0  # acknowledged
    sent: int = 0  # generation of the last plan sent
    busy: int = 0
    killed: bool = False  # because it hung
    served: bool = False  # it has taken a plan, so that its end is no failure to start
    stats: dict[str, int | str] = field(default_factory=dict)
    tier: dict[str, Any] | None = None  # how its cache tier is; None: it has none, or has not said it yet
    last_exit: str = ""
    known: set[int] = field(default_factory=set)  # ids of the sockets it holds
    asked: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)  # explanations and counts, by number
    # Of the publication under way: "" when it is taken, what went wrong, or None when nobody is here to take it.
    answer: asyncio.Future[str | None] | None = None
    lost: int = 0  # processes that had the publication under way, and died before it was through

    @property
    def awaited(self) -> bool:
        """Whether the publication under way waits for this worker."""
        return self.answer is not None and not self.answer.done()

    def settle(self, outcome: str | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(outcome)

    def describe(self, now: int) -> dict[str, Any]:
        return {
            "index": self.index,
            "pid": (self.process.pid or None) if self.process else None,
            "state": self.state,
            "restarts": self.restarts.count,
            "generation": self.generation,
            "busy": self.busy,
            "last_exit": self.last_exit,
            "beat_age_s": round((now - self.last_beat) / SECOND, 3) if self.process else None,
            "stats": self.stats,
        }
