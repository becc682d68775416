"""Endpoints that a reload or discovery has removed, and that finish what they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lb.clock import Clock
from lb.control.registry import ADMIN, HEALTH, Registry
from lb.errors import ConfigError
from lb.shared.segment import Segment

_SECOND = 1e9


class LeavingError(ConfigError):
    """What is wanted of an endpoint has no effect, as it is leaving."""


class Leaving:
    """They are known until their records are freed (Registry.sweep). `sequences` gives the open ones by slot."""

    def __init__(
        self, segment: Segment, registry: Registry, sequences: Callable[[], Mapping[int, int]], clock: Clock
    ) -> None:
        self._segment = segment
        self._registry = registry
        self._sequences = sequences
        self._clock = clock

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """By pool, those that still have something to do: requests in flight, or open sequences."""
        found: dict[str, list[dict[str, Any]]] = {}
        for pool, row in self._rows():
            if row["in_flight"] or row["sequences"]:
                found.setdefault(pool, []).append(row)
        return found

    def _rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self._registry.draining():
            return
        segment, now, open_ = self._segment, self._clock.now(), self._sequences()
        for pool, address, slot, since in self._registry.retired():
            yield (
                pool,
                {
                    "address": address,
                    "weight": segment.weight(slot),
                    "health": HEALTH.get(segment.health(slot), "unknown"),
                    "admin": ADMIN.get(segment.admin(slot), "unknown"),
                    "in_flight": segment.inflight(slot),
                    "outstanding_cost": segment.outstanding(slot),
                    "sequences": open_.get(slot, 0),
                    "leaving_for_s": max(0, now - since) / _SECOND,
                },
            )

    def refuse(self, pool: str, address: str) -> None:
        """Raises LeavingError when it is leaving: nobody can have it back but a plan that names it again."""
        for name, row in self._rows():
            if (name, row["address"]) == (pool, address):
                left = f"{_count(row['in_flight'], 'request')} in flight"
                if row["sequences"]:
                    left += f" and {_count(row['sequences'], 'sequence')}"
                said = f"endpoint {address!r} of pool {pool!r} is leaving: a reload, discovery or scaling removed it"
                raise LeavingError([f"{said}, it gets no new requests, and still has {left}"])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
