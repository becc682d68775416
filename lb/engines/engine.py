"""The interface of engines: what runs the replicas of a pool, and how their number is changed.

An engine only translates. A Keeper asks it again and again, spaces out the questions, says how old what is known is,
and changes the number only by a fresh answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from msgspec import Struct

from lb.config.schema.file import PoolConfig
from lb.config.units import SECOND


class Seen(Struct, frozen=True):
    """What an engine says of a pool's replicas. `number` is how many it is told to run, `running` how many it runs, as
    far as it knows; `version` is whatever `change` needs to notice that somebody else has changed the number since;
    `detail` is more for status."""

    number: int
    running: int
    version: str = ""
    detail: str = ""


class Engine(ABC):
    """One pool's replicas on one platform. `look` and `change` raise lb.platforms.error.PlatformError; anything else
    counts as a defect. The constructor neither waits nor raises: `Engine(pool's name, options, the pool's section)`.

    `interval` is the time between two looks, ns.
    """

    interval: ClassVar[int] = 5 * SECOND

    def __init__(self, pool: str, options: Any, config: PoolConfig) -> None:
        self.pool = pool
        self.options = options
        self.config = config

    @abstractmethod
    async def look(self) -> Seen:
        """What is so now: never from a cache. May be cancelled."""

    @abstractmethod
    async def change(self, number: int, seen: Seen) -> None:
        """Have `number` replicas; `seen` is the last look. Raises ConflictError when the platform tells that `seen` is
        not what is so any more."""

    @abstractmethod
    def describe(self) -> str:
        """What is scaled, in few words, for status."""

    async def drain(self, inflight: Inflight) -> None:
        """After each look, on the daemon that leads: let go of replicas that the platform is ending, once they have
        nothing in flight. Most platforms ask nobody."""
        return

    async def close(self) -> None:
        """Gives back what it holds; no call is under way. Does not raise."""
        return


class Inflight(ABC):
    """How many requests the data path has at an endpoint."""

    @abstractmethod
    def at(self, address: str) -> int:
        """Requests at `IP:PORT` now."""

    @abstractmethod
    def addresses(self) -> tuple[str, ...]:
        """The endpoints of the pool, those included that leave it."""
