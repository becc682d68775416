"""Which problems are told when: each once it has lasted, again while it goes on, and its end once it has stayed away.

Synchronous: `decide` is given the problems of now and gives the message to send, if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from lb.config.schema.alerts import AlertsConfig
from lb.control.watch.problems import Problem, verdict

_LISTED = 50  # of a kind, in a message
_LINES = 10  # of its text


class _Seen(Struct):
    """A problem that is there, or was of late. Times are monotonic ns."""

    problem: Problem
    since: int
    since_wall: float  # Unix seconds
    told: int | None = None
    gone: int | None = None  # since when it is away


class Alerts:
    """The problems of a daemon that are known. They do not outlive it: what lasts is told again after a restart."""

    def __init__(self, daemon: str) -> None:
        self._daemon = daemon
        self._seen: dict[tuple[str, ...], _Seen] = {}

    @property
    def firing(self) -> int:
        """Problems that were told and have not ended."""
        return sum(seen.told is not None for seen in self._seen.values())

    def decide(
        self, problems: Sequence[Problem], options: AlertsConfig, now: int, wall: float
    ) -> dict[str, Any] | None:
        """The message to send at `now` (monotonic ns; `wall` is Unix time), None where there is nothing to tell:
        {type, timestamp, daemon, verdict, text, firing: [{name, severity, subject, text, since}], resolved: [the same],
        left_out}."""
        wanted = [p for p in problems if options.conditions is None or p.name in options.conditions]
        self._meet(wanted, now, wall)
        firing = [seen for seen in self._seen.values() if _is_due(seen, options, now)]
        ended = [key for key, seen in self._seen.items() if _has_ended(seen, options, now)]
        resolved = [seen for key in ended if (seen := self._seen.pop(key)).told is not None]
        for seen in firing:
            seen.told = now
        if not firing and not resolved:
            return None
        firing.sort(key=lambda seen: seen.problem.severity != "critical")
        return {
            "type": "tidegate.alert",
            "timestamp": wall,
            "daemon": self._daemon,
            "verdict": verdict(wanted),
            "text": self._text(firing, resolved),
            "firing": [_described(seen) for seen in firing[:_LISTED]],
            "resolved": [_described(seen) for seen in resolved[:_LISTED]],
            "left_out": max(0, len(firing) - _LISTED) + max(0, len(resolved) - _LISTED),
        }

    def sample(self, by: str, wall: float) -> dict[str, Any]:
        """A message that tells of nothing, for receivers to be tried with; `by` asked for it."""
        return {
            "type": "tidegate.alert",
            "test": True,
            "timestamp": wall,
            "daemon": self._daemon,
            "verdict": "well",
            "text": f"Tidegate on {self._daemon}\ntest alert, asked for by {_plain(by)}: nothing is wrong",
            "firing": [],
            "resolved": [],
            "left_out": 0,
        }

    def _meet(self, problems: Sequence[Problem], now: int, wall: float) -> None:
        there = {problem.key: problem for problem in problems}
        for key, problem in there.items():
            seen = self._seen.get(key)
            if seen is None:
                self._seen[key] = _Seen(problem, now, wall)
                continue
            if seen.problem.severity != problem.severity and problem.severity == "critical":
                seen.told = None  # it has become worse, which is news
            seen.problem, seen.gone = problem, None
        for key in [key for key in self._seen if key not in there]:
            seen = self._seen[key]
            if seen.told is None:
                del self._seen[key]
            elif seen.gone is None:
                seen.gone = now

    def _text(self, firing: Sequence[_Seen], resolved: Sequence[_Seen]) -> str:
        lines = [f"{seen.problem.severity.upper()}: {_line(seen)}" for seen in firing[:_LINES]]
        lines += [f"resolved: {_line(seen)}" for seen in resolved[: max(0, _LINES - len(lines))]]
        more = len(firing) + len(resolved) - len(lines)
        return "\n".join([f"Tidegate on {self._daemon}", *lines, *([f"and {more} more"] if more else [])])


def _is_due(seen: _Seen, options: AlertsConfig, now: int) -> bool:
    if seen.gone is not None:
        return False
    if seen.told is None:
        return now - seen.since >= options.after
    return now - seen.told >= options.repeat


def _has_ended(seen: _Seen, options: AlertsConfig, now: int) -> bool:
    return seen.gone is not None and now - seen.gone >= options.after


def _line(seen: _Seen) -> str:
    problem = seen.problem
    subject = ", ".join(f"{kind.replace('_', ' ')} {_plain(name)}" for kind, name in problem.subject.items())
    return " ".join(
        filter(None, (problem.name.replace("_", " "), f"({subject})" if subject else "", "-", problem.text))
    )


def _plain(name: str) -> str:
    """On one line: clients choose the names of models."""
    return name if name.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _described(seen: _Seen) -> dict[str, Any]:
    return {**asdict(seen.problem), "since": seen.since_wall}
