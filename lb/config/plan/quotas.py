"""Of the plan, how much clients may ask for in windows of the calendar."""

from __future__ import annotations

import hashlib

import msgpack
from msgspec import Struct

from lb.config.plan.wire import plain
from lb.config.windows import Per


class QuotaPlan(Struct, frozen=True):
    """A quota that routes name."""

    name: str
    requests: int
    per: Per
    key: str  # identity | header | source | all
    header: str = ""  # lower case
    overrides: tuple[tuple[str, int], ...] = ()  # clients with a number of their own
    fields: str = "standard"  # standard | off

    @property
    def digest(self) -> str:
        """Of all its content: another one tells workers that routes with it are new."""
        return hashlib.sha256(msgpack.packb(plain(self))).hexdigest()
