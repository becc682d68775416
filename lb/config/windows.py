"""Windows of the calendar, in UTC: the minutes, hours, days and months in which quotas are counted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

Per = Literal["minute", "hour", "day", "month"]

_SPANS: dict[str, int] = {"minute": 1, "hour": 60, "day": 1440, "month": 31 * 1440}


class Window(Struct, frozen=True):
    """From minute `start` since 1970 up to minute `end`; `span` are the minutes of the longest window of its kind."""

    start: int
    end: int
    span: int


def window(per: Per, wall: float) -> Window:
    """The window in which the Unix time `wall`, in seconds, is."""
    span = _SPANS[per]
    minute = int(wall // 60)
    if per != "month":
        start = minute - minute % span
        return Window(start, start + span, span)
    now = datetime.fromtimestamp(minute * 60, UTC)
    first = datetime(now.year, now.month, 1, tzinfo=UTC)
    following = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    return Window(int(first.timestamp()) // 60, int(following.timestamp()) // 60, span)
