"""Schedules of scaling: times at which a pool has floors and ceilings of its own."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, Field

from lb.config.schema.base import Integer, Model, problem
from lb.config.units import DAY, SECOND, Duration

INFINITY = float("inf")


def _cron(value: str) -> str:
    from cronsim import CronSim, CronSimError  # for a file that has one

    try:
        next(CronSim(value, datetime(2024, 1, 1)))
    except CronSimError as error:
        advice = "; write minute, hour, day of month, month, day of week, such as 0 8 * * 1-5"
        raise problem("cron", f"{value!r} is no cron expression: {str(error).lower()}{advice}") from None
    except StopIteration:
        raise problem("cron", f"{value!r} never comes") from None
    return value


def _zone(value: str) -> str:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(value)
    except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
        raise problem("timezone", f"{value!r} is no time zone; write a name such as Europe/Berlin or UTC") from None
    except KeyError:
        raise problem(
            "timezone", f"there is no time zone {value!r}; write a name such as Europe/Berlin or UTC (package tzdata)"
        ) from None
    return value


def _moment(value: str) -> str:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise problem("date", f"{value!r} is no date; write 2026-12-24, or 2026-12-24 18:00") from None
    return value


Moment = Annotated[str, AfterValidator(_moment)]
"""A date, or a date with a time of day (ISO 8601)."""


class ScheduleConfig(Model):
    """A time with a floor or a ceiling of its own: each time that `cron` comes, for `duration`; or from one date until
    another; or both, which is when the cron expression counts."""

    cron: Annotated[str, AfterValidator(_cron)] | None = None
    """When it begins: minute, hour, day of month, month, day of week, as Debian's cron has them (`MON-FRI`, `*/15`,
    `L` for the last day, `MON#1` for the first Monday). At a change of the clocks as there: what would begin in the
    hour that is left out begins right after, and what would begin in the hour that comes twice begins once."""
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """The time zone of `cron`, `from` and `until`."""
    duration: Duration | None = Field(default=None, ge=60 * SECOND, le=31 * DAY)
    """How long it lasts each time. Hours are hours: over a change of the clocks it ends an hour earlier or later by the
    clock on the wall. Needed with `cron`."""
    from_: Moment | None = Field(default=None, alias="from")
    """When it begins, or from when on `cron` counts: `2026-12-24`, or `2026-12-24 18:00`."""
    until: Moment | None = None
    """When it ends. A date alone is meant with all of its day."""
    min: Integer | None = Field(default=None, ge=0, le=100_000)
    """Fewest model servers in that time, whatever the rule wishes; never more than `max` of `serve`. They are started
    ahead, by the time that a start takes."""
    max: Integer | None = Field(default=None, ge=0, le=100_000)
    """Most model servers in that time; never fewer than `min` of `serve`, or than the floor of a schedule."""

    def begins(self) -> float:
        """`from` as seconds since the epoch."""
        return -INFINITY if self.from_ is None else self._seconds(datetime.fromisoformat(self.from_))

    def ends(self) -> float:
        """`until` as seconds since the epoch."""
        if self.until is None:
            return INFINITY
        at = datetime.fromisoformat(self.until)
        if at.date() == date.max:  # "for ever", as databases write it; no day follows
            return INFINITY
        return self._seconds(at + timedelta(days=1) if len(self.until) == len("2026-12-24") else at)

    def _seconds(self, at: datetime) -> float:
        from zoneinfo import ZoneInfo

        return (at if at.tzinfo is not None else at.replace(tzinfo=ZoneInfo(self.timezone))).timestamp()
