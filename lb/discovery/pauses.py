"""Pauses between looks that fail in a row."""

from __future__ import annotations

from lb.config.units import SECOND

FIRST = SECOND
_DOUBLINGS = 16  # the longest pause is shorter by far


class Pauses:
    """A second, then twice as long each time, up to `longest` ns."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._in_row = 0

    def next(self) -> int:
        """After one more failure, in ns."""
        pause = min(FIRST << min(self._in_row, _DOUBLINGS), self._longest)
        self._in_row += 1
        return pause

    def reset(self) -> None:
        """A look went well."""
        self._in_row = 0
