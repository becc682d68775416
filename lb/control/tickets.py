"""The keys that seal TLS session tickets: made by the master, the same in all workers, changed in time.

A session can be resumed with any worker, and after a reload, since the keys are part of the plan. They live in memory
only: a key on disk would open recorded connections of TLS 1.2 for whoever finds it.
"""

from __future__ import annotations

import secrets

SIZE = 80  # name (16), AES-256 key (32), HMAC-SHA-256 key (32)
KEPT = 3  # a ticket is good for 12 hours (lb.net.tls.context); the oldest key is then 16 to 24 hours old
PERIOD_NS = 8 * 3600 * 1_000_000_000


class TicketRing:
    """The keys at a time, newest first: the first seals, all of them open. `now` is monotonic nanoseconds."""

    def __init__(self, now: int) -> None:
        self.keys: tuple[bytes, ...] = (secrets.token_bytes(SIZE),)
        self._made = now

    def rotate(self, now: int) -> bool:
        """Makes a new key when the newest has served its time; returns whether it did."""
        if now - self._made < PERIOD_NS:
            return False
        self._made = now
        self.keys = (secrets.token_bytes(SIZE), *self.keys)[:KEPT]
        return True
