"""What a reload takes over from the load before it.

A large configuration changes little from one load to the next. What each part of it became is remembered by what it
was made of, for one load; the parts that are the same are not made again. All that is remembered is immutable, and a
function of its key, so a load that remembers gives what a fresh one gives.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgpack

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
        """What the last round had for `key`; this round has it, too, then."""
        found = self._last.get(key)
        if found is not None:
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


@dataclass(frozen=True, slots=True)
class FileMemory:
    """Of one configuration file, which stays where it is: its routes, by the bytes of what the file says of them."""

    routes: Memory[bytes, Any] = field(default_factory=Memory)
    _pack: Callable[[Any], bytes] = field(default_factory=lambda: msgpack.Packer().pack)

    def route(self, value: Any, make: Callable[[Any], Any]) -> Any:
        """`make(value)`, or what it gave for the same value last time. `value` is what a file's parser gives.

        Values are compared as msgpack: in Python 1, 1.0 and True are equal.
        """
        try:
            key = self._pack(value)
        except (ValueError, TypeError, OverflowError):
            return make(value)
        found = self.routes.get(key)
        return self.routes.put(key, make(value)) if found is None else found

    def keep(self) -> None:
        self.routes.keep()

    def drop(self) -> None:
        self.routes.drop()
