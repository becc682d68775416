"""The course of one canary: which share it gets, and why. Decides without I/O; time is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from lb.config.schema.routes.canary import CanaryConfig
from lb.control.canary.analysis import Finding, Observed, Tally, judge

Phase = Literal["waiting", "progressing", "promoted", "aborted"]
Action = Literal["promote", "abort", "retry"]

_WANTED: dict[Action, Phase] = {"promote": "promoted", "abort": "aborted", "retry": "waiting"}

_KEPT = 100  # entries of a history
_WINDOW = 50  # answers from which on an interval is long enough to be judged for itself


class Entry(Struct, frozen=True):
    """A line of a canary's history. `at` is Unix seconds, `percent` what the canary gets from then on."""

    at: float
    phase: Phase
    percent: float
    reason: str


class Kept(Struct):
    """What outlives the daemon: the pools between which it goes, and how far it has come."""

    baseline: str
    canary: str
    phase: Phase
    step: int
    history: list[Entry]


class Rollout:
    """Of one route. `waiting`: the canary gets nothing until one of its endpoints takes requests; then come the steps.

    A step lasts for the interval at least, and until the canary has given enough answers that leave nothing to doubt.
    What happens in a step is judged as a whole, and what happened since the last interval for itself, so that a long
    good time does not hide a bad one that follows."""

    def __init__(self, config: CanaryConfig, baseline: str, kept: Kept | None, wall: float) -> None:
        self.config = config
        self.baseline = baseline
        self._since: int | None = None  # when the step, or its last interval, began; monotonic ns
        self._step_seen = self._seen = Observed()
        self._before = Tally()  # of the baseline in earlier steps
        self.findings: list[Finding] = []
        if kept is not None and (kept.baseline, kept.canary) == (baseline, config.pool):
            self.phase: Phase = "waiting" if kept.phase == "progressing" else kept.phase
            self.step = min(kept.step, len(config.steps) - 1)
            self.history = list(kept.history)
        else:
            self.phase, self.step, self.history = "waiting", 0, []
            self._note(wall, "a new canary")

    @property
    def percent(self) -> float:
        """The share of the requests that the canary gets."""
        if self.phase == "progressing":
            return self.config.steps[self.step]
        return 100.0 if self.phase == "promoted" else 0.0

    def configure(self, config: CanaryConfig) -> None:
        """Other limits or steps for the same pools: goes on with what has been seen, at the last step that is not above
        the share of now."""
        percent = self.config.steps[self.step]
        self.config = config
        self.step = max((i for i, each in enumerate(config.steps) if each <= percent), default=0)

    def kept(self) -> Kept:
        return Kept(self.baseline, self.config.pool, self.phase, self.step, self.history)

    def look(self, seen: Observed, usable: bool, now: int, wall: float) -> bool:
        """What happened since the last look, and whether an endpoint of the canary takes requests. Returns whether the
        phase or the step is another one."""
        if self.phase == "waiting":
            if usable:
                self._go(now, wall, "progressing", self.step, "its endpoints take requests")
            return usable
        if self.phase != "progressing":
            return False
        if self._since is None:
            self._since = now
        self._step_seen += seen
        self._seen += seen
        if not usable:
            self._go(now, wall, "aborted", self.step, "none of its endpoints takes requests")
            return True
        wide, narrow = (judge(each, self.config, self._before) for each in (self._step_seen, self._seen))
        self.findings = wide
        proven = [finding.text for finding in (*wide, *narrow) if finding.proven]
        if proven:
            self._go(now, wall, "aborted", self.step, "; ".join(dict.fromkeys(proven)))
            return True
        if now - self._since < self.config.interval:
            return False
        if wide or narrow or self._step_seen.canary.requests < self.config.min_requests:
            if self._seen.canary.requests >= min(self.config.min_requests, _WINDOW):
                self._since, self._seen = now, Observed()
            return False
        self._advance(now, wall)
        return True

    def act(self, action: Action, now: int, wall: float, by: str) -> bool:
        """What an operator wants; whether that changes anything."""
        if not self.would_change(action):
            return False
        step = 0 if action == "retry" else self.step
        self._go(now, wall, _WANTED[action], step, f"{action} by {by}")
        return True

    def would_change(self, action: Action) -> bool:
        """Whether that action is of any effect now."""
        return self.phase != _WANTED[action] and (action, self.phase) != ("retry", "progressing")

    def describe(self) -> dict[str, Any]:
        """For status and the admin API; without the history."""
        seen = self._step_seen
        return {
            "pool": self.config.pool,
            "baseline": self.baseline,
            "phase": self.phase,
            "percent": self.percent,
            "step": self.step + 1,
            "steps": list(self.config.steps),
            "reason": self.history[-1].reason,
            "since": self.history[-1].at,
            "waits_for": self._waits_for(),
            "observed": {
                "requests": seen.canary.requests,
                "errors": seen.canary.errors,
                "baseline_requests": seen.baseline.requests,
                "baseline_errors": seen.baseline.errors,
                "compared": seen.compared.answers,
                "different": seen.compared.different,
            },
        }

    def _waits_for(self) -> str | None:
        if self.phase == "waiting":
            return "an endpoint that takes requests"
        if self.phase != "progressing":
            return None
        if self.findings:
            return "more answers: " + "; ".join(finding.text for finding in self.findings)
        missing = self.config.min_requests - self._step_seen.canary.requests
        return f"{missing} more answers" if missing > 0 else "the end of the interval"

    def _advance(self, now: int, wall: float) -> None:
        seen = self._step_seen.canary
        text = f"step {self.step + 1} of {len(self.config.steps)} went well: {seen.errors} errors in {seen.requests}"
        if self.step + 1 < len(self.config.steps):
            self._go(now, wall, "progressing", self.step + 1, f"{text} answers")
        else:
            self._go(now, wall, "promoted", self.step, f"{text} answers")

    def _go(self, now: int, wall: float, phase: Phase, step: int, reason: str) -> None:
        self._before = self._step_seen.baseline if self._step_seen.baseline.requests else self._before
        self.phase, self.step = phase, step
        self._since, self._step_seen, self._seen, self.findings = now, Observed(), Observed(), []
        self._note(wall, reason)

    def _note(self, wall: float, reason: str) -> None:
        self.history.append(Entry(wall, self.phase, self.percent, reason))
        del self.history[:-_KEPT]


def history_of(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Newest first, as plain data."""
    return [msgspec.structs.asdict(entry) for entry in reversed(entries)]
