"""How a worker takes a plan: bit by bit, so that it serves its clients meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator

from lb.clock import Clock
from lb.config.pause import collector_paused

SLICE_NS = 1_000_000  # of work between two looks at the sockets; one step, the least there is, may be longer


class Adoption:
    """Runs `steps` on the loop, a slice at a time, from its next turn on. `done` is called once, with what `steps`
    raised or None at its end; never after `cancel`.

    No garbage is collected meanwhile: a plan is made of very many objects, all of which stay.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        steps: Iterator[None],
        done: Callable[[Exception | None], None],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._steps = _collecting_nothing(steps)
        self._done = done
        self._next = loop.call_soon(self._slice)

    def cancel(self) -> None:
        """Everything stays as it was; `done` is not called any more."""
        self._next.cancel()
        self._steps.close()

    def _slice(self) -> None:
        end = self._clock.now() + SLICE_NS
        try:
            for _ in self._steps:
                if self._clock.now() >= end:
                    self._next = self._loop.call_soon(self._slice)
                    return
        except Exception as error:
            self._done(error)
        else:
            self._done(None)


def _collecting_nothing(steps: Iterator[None]) -> Generator[None]:
    with collector_paused():
        yield from steps
