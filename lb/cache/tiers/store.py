"""What a kind of server has to offer to be a cache tier: one module implements it, `registry` names it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from lb.errors import TidegateError

# How long a tag keeps its generation. What is kept under a tag whose generation has ended is a miss.
GENERATION_TTL = 30 * 24 * 3600  # s, the longest that Memcached takes for a time from now

Invalidated = Callable[[bytes | None], None]
"""Is told a tag that has a new generation, or None: any tag may have got one."""


class TierError(TidegateError):
    """No usable answer from the servers of a tier, in one line for the operator."""


class AwayError(TierError):
    """The one server that has to do with the call is left alone for now. It says nothing about the others."""


class TierStore(ABC):
    """The servers of a tier. Keys are 32 bytes, tags up to LONGEST_TAG. Every call raises TierError, and may be
    cancelled without harm to others."""

    @abstractmethod
    async def fetch(self, key: bytes, tags: Sequence[bytes]) -> tuple[bytes | None, list[bytes | None]]:
        """In one round trip what is kept under `key`, and the generation of each tag; None for what is not there."""

    @abstractmethod
    async def begin(self, tag: bytes, generation: bytes) -> bytes | None:
        """Sets the generation of a tag that has none. Returns the one that it has then, which may be another
        daemon's."""

    @abstractmethod
    async def renew(self, tag: bytes, generation: bytes) -> None:
        """Sets the generation of a tag, whatever it was. Returns when the server has it."""

    @abstractmethod
    async def keep(self, items: Sequence[tuple[bytes, bytes, int]]) -> int:
        """Keeps (key, value, time to live in ms) and returns how many; the server may have no room for some."""

    @abstractmethod
    async def claim(self, key: bytes, seconds: int) -> bool:
        """Whether the caller is the first who claims `key` within `seconds`."""

    @abstractmethod
    async def ping(self) -> None:
        """Returns when every server has answered; connects where needed."""

    @abstractmethod
    def describe(self) -> str:
        """Kind and addresses, in few words and without a password."""

    @abstractmethod
    async def close(self) -> None: ...

    async def watch(self, invalidated: Invalidated) -> None:
        """Tells `invalidated` None once it listens, and from then on of new generations. Raises TierError when it
        cannot go on."""
        await asyncio.Event().wait()  # servers that tell nothing
