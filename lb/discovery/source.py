"""Where the endpoints of a pool come from: the interface of discovery.

A source is asked again and again by a Watch, which keeps the last good set, spaces out the questions and reports what
changed: a source only answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from msgspec import Struct
from pydantic import BaseModel, ConfigDict

from lb.config.plan.plan import EndpointSpec
from lb.config.schema.file import PoolConfig
from lb.errors import TidegateError
from lb.failure import BY_NAME


class Found(Struct, frozen=True):
    """An answer: the endpoints there are now, with literal addresses, each once, in an order that stays the same while
    they do. None at all is an answer too, and empties the pool: a source that merely knows nothing raises."""

    endpoints: tuple[EndpointSpec, ...]
    refresh_ns: int | None  # time until the next look; None = this stays so for ever
    missing: str = ""  # why these are not all, in one line for the operator; a source says so while it knows no better


class DiscoveryError(TidegateError):
    """No usable answer, in one line for the operator: the last good set stays. `retry_ns` is the time until the next
    look; None leaves it to the Watch, which waits longer with each failure."""

    failure = BY_NAME["no-endpoint"]

    def __init__(self, message: str, retry_ns: int | None = None) -> None:
        super().__init__(message)
        self.retry_ns = retry_ns


class SourceOptions(BaseModel):
    """Base of the options of a plug-in's source: closed, immutable, documented by its attributes' docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Source(ABC):
    """One source for one pool, in the master. Made anew when its part of the configuration changes.

    `Options` is the closed model of its options, an instance of which is the second argument of the constructor:
    `Source(name of the pool, options, configuration of the pool)`. The constructor neither waits nor raises.
    """

    Options: ClassVar[type[BaseModel]] = SourceOptions

    def __init__(self, pool: str, options: Any, config: PoolConfig) -> None:
        self.pool = pool
        self.options = options
        self.config = config

    @abstractmethod
    async def look(self) -> Found:
        """The endpoints there are. May wait as long as it likes (a long poll), without blocking the loop, and may be
        cancelled meanwhile. Raises DiscoveryError; anything else counts as a defect and is logged in full."""

    def describe(self) -> str:
        """What is asked, in few words, for status."""
        return ""

    async def close(self) -> None:
        """Gives back what it holds; no look is under way. Does not raise."""
        return
