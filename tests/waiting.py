"""Waiting for what other processes, threads or tasks bring about.

The limits are for failures: a busy machine takes many times as long as an idle one, and no test goes by the time that
something took.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LIMIT = 60.0  # s

# What a probe raises that looks too early: nobody listens yet; a list is empty, a key is missing, a field is None, a
# line of a file is half written.
TOO_EARLY = (
    OSError,
    AssertionError,
    LookupError,
    StopIteration,
    TypeError,
    ValueError,
    http.client.HTTPException,
)


class Waiting:
    """Looks at `probe` until its result is true, for `seconds`."""

    def __init__(self, probe: Callable[[], T], what: str, seconds: float) -> None:
        self.probe, self.what, self.seconds = probe, what, seconds
        self.deadline = time.monotonic() + seconds

    def look(self) -> Any:
        """The result of the probe; it is false where it is too early.

        Raises AssertionError when the time is over.
        """
        late = time.monotonic() >= self.deadline
        error: BaseException | None = None
        found: Any = None
        try:
            found = self.probe()
        except TOO_EARLY as raised:
            error = raised
        if late and not found:
            last = repr(error if error is not None else found)
            raise AssertionError(f"{self.what}: not within {self.seconds} s, last: {last}") from error
        return found


def eventually(probe: Callable[[], T], what: str = "waited in vain", seconds: float = LIMIT) -> T:
    """The first true result of `probe`, which may raise one of TOO_EARLY until then. The thread sleeps meanwhile."""
    waiting = Waiting(probe, what, seconds)
    while not (found := waiting.look()):
        time.sleep(0.02)
    return found  # type: ignore[no-any-return]


async def until(probe: Callable[[], T], what: str = "waited in vain", seconds: float = LIMIT) -> T:
    """`eventually` for a probe that does not block, on the event loop."""
    waiting = Waiting(probe, what, seconds)
    while not (found := waiting.look()):
        await asyncio.sleep(0.005)
    return found  # type: ignore[no-any-return]


async def until_in_thread(probe: Callable[[], T], what: str = "waited in vain", seconds: float = LIMIT) -> T:
    """`eventually` for a probe that blocks, such as a question to a daemon: the event loop goes on meanwhile."""
    return await asyncio.to_thread(eventually, probe, what, seconds)


def logged(path: Path, enough: Callable[[list[dict[str, Any]]], Any]) -> list[dict[str, Any]]:
    """The lines of the access log `path` as soon as they are `enough`.

    Each worker writes its lines in batches: those of one worker may come after later ones of another.
    """

    def look() -> list[dict[str, Any]] | None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return lines if enough(lines) else None

    return eventually(look, f"the lines of {path.name}")  # type: ignore[return-value]
