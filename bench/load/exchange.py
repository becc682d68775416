"""One request on its way, and the two sides that handle it: the engine that keeps time, the client that sends."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from bench.load.request import Request


class Exchange:
    """Times are nanoseconds of CLOCK_MONOTONIC. `connection` is the client's own, None while it waits for one."""

    __slots__ = (
        "connection",
        "deadline",
        "done",
        "intended",
        "recorded",
        "request",
        "retried",
        "sent",
        "stream",
        "which",
    )

    def __init__(self, request: Request, which: int, intended: int, deadline: int, recorded: bool) -> None:
        self.request = request
        self.which = which  # the request's index
        self.intended = intended
        self.deadline = deadline
        self.recorded = recorded
        self.sent = 0  # 0: not yet
        self.done = False
        self.retried = False
        self.stream = 0  # its number on an HTTP/2 connection
        self.connection: Any = None


class Sink(Protocol):
    """What a client tells: the engine, or a fake in a test."""

    waiting: deque[Exchange]

    def finish(self, exchange: Exchange, failure: str | None) -> None:
        """It ended now, well or with a kind of failure. At most once per exchange."""

    def again(self, exchange: Exchange) -> None:
        """It was not looked at and is to be sent once more, before all that wait; `ready` must follow."""

    def ready(self) -> None:
        """There is room for requests that wait."""
