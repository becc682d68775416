"""What the workers have found by comparing answers of mirrors with those of the originals, added up by route."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from lb.config.forms import members_of
from lb.config.schema.base import did_you_mean
from lb.config.schema.file import Config
from lb.errors import ConfigError

_MOST_TENSORS = 1000  # of a route; the others are one
_SAMPLES = 50  # of a route, the last ones


class _Route:
    """`tensors`: by model and output the answers, those that differ, and the largest absolute and relative
    difference."""

    def __init__(self) -> None:
        self.counts = [0, 0, 0]  # equal, different, skipped
        self.tensors: dict[tuple[str, str], list[Any]] = {}
        self.samples: deque[dict[str, Any]] = deque(maxlen=_SAMPLES)

    def add(self, found: dict[str, Any]) -> None:
        self.counts = [a + b for a, b in zip(self.counts, found["counts"], strict=True)]
        for model, output, answers, different, absolute, relative in found["tensors"]:
            key = model, output
            if key not in self.tensors and len(self.tensors) >= _MOST_TENSORS:
                key = "", ""
            row = self.tensors.setdefault(key, [0, 0, 0.0, 0.0])
            row[0] += answers
            row[1] += different
            row[2], row[3] = max(row[2], absolute), max(row[3], relative)
        self.samples.extend(found["samples"])


class Comparisons:
    """Of a daemon since its start, or since the route came with it."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}

    def follow(self, config: Config) -> None:
        """Takes the routes of a configuration that is in force; what was found of others is forgotten."""
        named = {
            member.name or f"{listener}/{i}"
            for listener, section in config.listeners.items()
            for i, member in enumerate(members_of(section.routes))
            if member.first.mirror is not None and member.first.mirror.compare is not None
        }
        self._routes = {name: self._routes.get(name) or _Route() for name in sorted(named)}

    def add(self, found: Sequence[dict[str, Any]]) -> None:
        """What a worker has found since it told the last time (lb.proxy.exchange.mirror.report)."""
        for row in found:
            route = self._routes.get(row["route"])
            if route is not None:
                route.add(row)

    def counts(self, route: str) -> tuple[int, int]:
        """Answers of the route that were compared, and those of them that differ."""
        found = self._routes.get(route)
        return (found.counts[0] + found.counts[1], found.counts[1]) if found is not None else (0, 0)

    def status(self) -> list[dict[str, Any]]:
        """For the status document: {route, equal, different, skipped} of each route."""
        return [{"route": name, **_counts(route)} for name, route in self._routes.items()]

    def report(self, route: str | None = None) -> list[dict[str, Any]]:
        """The same with `tensors`, those that differ most often first, and the last `samples` of answers that differ,
        newest first. Raises ConfigError for a route that compares nothing."""
        if route is not None and route not in self._routes:
            raise ConfigError([f"there is no route {route!r} that compares answers{did_you_mean(route, self._routes)}"])
        return [
            {
                "route": name,
                **_counts(each),
                "tensors": [
                    {
                        "model": model,
                        "output": output,
                        "answers": row[0],
                        "different": row[1],
                        "largest_absolute": row[2],
                        "largest_relative": row[3],
                    }
                    for (model, output), row in sorted(each.tensors.items(), key=lambda item: (-item[1][1], item[0]))
                ],
                "samples": list(reversed(each.samples)),
            }
            for name, each in self._routes.items()
            if route in (None, name)
        ]


def _counts(route: _Route) -> dict[str, int]:
    return dict(zip(("equal", "different", "skipped"), route.counts, strict=True))
