"""Floors and ceilings by the clock: the limits of a pool at a time, and a rule that keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from lb.config.schema.file import ScheduleConfig
from lb.config.units import SECOND
from lb.scaling.scaler import Decision, Look, Scaler

_EVER = float("inf")


class Schedule:
    """One schedule. Times are seconds since the epoch."""

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self._zone = ZoneInfo(config.timezone)
        self._from, self._until = config.begins(), config.ends()
        self._known: tuple[float, float, bool] = (_EVER, -_EVER, False)  # from when until when it is so

    def __str__(self) -> str:
        config = self.config
        dates = " ".join(f"{word} {at}" for word, at in (("from", config.from_), ("until", config.until)) if at)
        limits = ", ".join(f"{word} {n}" for word, n in (("min", config.min), ("max", config.max)) if n is not None)
        return f"{' '.join(filter(None, (config.cron, dates)))} ({config.timezone}): {limits}"

    def is_on(self, wall: float) -> bool:
        """Whether its limits hold at `wall`."""
        since, until, known = self._known
        if not since <= wall < until:
            until, known = self._look(wall)
            self._known = (wall, until, known)
        return known

    def _look(self, wall: float) -> tuple[float, bool]:
        """(until when that is so, whether it is on)."""
        if wall < self._from:
            return self._from, False
        if wall >= self._until:
            return _EVER, False
        if self.config.cron is None or self.config.duration is None:
            return self._until, True
        from cronsim import CronSim

        duration = self.config.duration / SECOND
        # Of all beginnings the first that is not over yet.
        begins = next(CronSim(self.config.cron, datetime.fromtimestamp(wall - duration, self._zone)), None)
        if begins is None:
            return _EVER, False
        at = begins.timestamp()
        on = at <= wall
        return min(at + duration if on else at, self._until), on


class Scheduled:
    """A Scaler: another one within the limits of schedules."""

    def __init__(self, rule: Scaler, schedules: Sequence[ScheduleConfig]) -> None:
        self.name = rule.name
        self.interval = rule.interval
        self._rule = rule
        self._floors = [Schedule(s) for s in schedules if s.min is not None]
        # Of their own: floors are asked about two times, which would undo what each remembers.
        self._soon = [Schedule(s) for s in schedules if s.min is not None]
        self._ceilings = [Schedule(s) for s in schedules if s.max is not None]
        self._on: list[str] = []
        self._limits = ""
        self.floor = 0

    def see(self, look: Look) -> None:
        ahead = (look.start_time or 0) / SECOND
        now = [s for s in self._floors if s.is_on(look.wall)]
        soon = [s for s in self._soon if s.is_on(look.wall + ahead)]
        below = [s for s in self._ceilings if s.is_on(look.wall)]
        self._on = list(dict.fromkeys(str(s) for s in (*now, *soon, *below)))
        self.floor = max((s.config.min or 0 for s in (*now, *soon)), default=0)
        minimum = min(max(look.minimum, self.floor), look.maximum)
        maximum = max(minimum, min((s.config.max or 0 for s in below), default=look.maximum))
        maximum = min(maximum, look.maximum)
        self._limits = f"{minimum} to {maximum}"
        self._rule.see(replace(look, minimum=minimum, maximum=maximum))

    def decide(self, now: int) -> Decision:
        decision = self._rule.decide(now)
        if self.floor > decision.foreseen:
            decision = replace(decision, foreseen=self.floor)
        if not self._on:
            return decision
        return replace(decision, reason=f"{decision.reason}; schedule {' and '.join(self._on)}")

    def learned(self) -> Mapping[str, Any]:
        now = {"scheduled_limits": self._limits} if self._on else {}
        return {**self._rule.learned(), "schedules": self._on, **now}

    def memory(self) -> bytes:
        return self._rule.memory()

    def restore(self, memory: bytes) -> None:
        self._rule.restore(memory)
