"""The last changes of what endpoints are taken for: when, which, from what to what, and why. In memory, and bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

KEPT = 1000


class Change(Struct, frozen=True):
    """One change; `what` is health, admin, weight, max_in_flight, or `model NAME` for the readiness of one."""

    at: float  # Unix seconds
    pool: str
    endpoint: str
    what: str
    before: str
    after: str
    reason: str

    def describe(self) -> dict[str, Any]:
        """As the admin API shows it: `before` and `after` are called `from` and `to` there."""
        plain = asdict(self)
        return {{"before": "from", "after": "to"}.get(key, key): value for key, value in plain.items()}


class TransitionLog:
    """Keeps the last `kept` changes, and tells `follow`ers of each. What does not change anything is not taken."""

    def __init__(self, kept: int = KEPT, clock: Callable[[], float] = time.time) -> None:
        self._changes: deque[Change] = deque(maxlen=kept)
        self._clock = clock
        self._followers: list[Callable[[Change], None]] = []

    def follow(self, follower: Callable[[Change], None]) -> None:
        self._followers.append(follower)

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, pool: str, endpoint: str, what: str, before: object, after: object, reason: str) -> None:
        if before != after:
            change = Change(self._clock(), pool, endpoint, what, str(before), str(after), reason)
            self._changes.append(change)
            for follower in self._followers:
                follower(change)

    def last(self, count: int, pool: str | None = None, endpoint: str | None = None) -> list[Change]:
        """The newest `count`, newest first; of one pool or endpoint if that is given."""
        found: list[Change] = []
        for change in reversed(self._changes):
            if len(found) >= count:
                break
            if pool in (None, change.pool) and endpoint in (None, change.endpoint):
                found.append(change)
        return found
