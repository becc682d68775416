"""What a reload takes over from the load before it.

A large configuration changes little from one load to the next. What each part of it became is remembered by what it
was made of, for one load; the parts that are the same are not made again. All that is remembered is immutable, and a
function of its key, so a load that remembers gives what a fresh one gives.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import msgpack
from msgspec import Struct, field

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """The results of the last round by their keys, and those of the round under way."""

    def __init__(self) -> None:
        self._last: dict[K, V] = {}
        self._next: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._last)

    def get(self, key: K) -> V | None:
        """What this round or the last one had for `key`; this round has it, too, then."""
        found = self._next.get(key)
        if found is None and (found := self._last.get(key)) is not None:
            self._next[key] = found
        return found

    def put(self, key: K, value: V) -> V:
        self._next[key] = value
        return value

    def keep(self) -> None:
        """Ends a round: what it had no use for is forgotten."""
        self._last, self._next = self._next, {}

    def drop(self) -> None:
        """Ends a round that came to nothing: what is remembered is what was before it."""
        self._next = {}


class FileMemory(Struct, frozen=True):
    """Of one configuration file, which stays where it is: its routes, and one of each form (lb.config.forms), by the
    bytes of what the file says of them.

    Values are compared as msgpack: in Python 1, 1.0 and True are equal.
    """

    routes: Memory[bytes, Any] = field(default_factory=Memory)
    forms: Memory[bytes, Any] = field(default_factory=Memory)
    _pack: Callable[[Any], bytes] = field(default_factory=lambda: msgpack.Packer().pack)

    def key(self, value: Any) -> bytes | None:
        """What `value`, which a file's parser gave, is remembered by; None if it cannot be."""
        try:
            return self._pack(value)
        except (ValueError, TypeError, OverflowError):
            return None

    def keep(self) -> None:
        self.routes.keep()
        self.forms.keep()

    def drop(self) -> None:
        self.routes.drop()
        self.forms.drop()
