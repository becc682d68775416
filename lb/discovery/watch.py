"""Follows one source: keeps the last good set, spaces out the questions, says what changed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from lb.clock import Clock
from lb.config.plan.plan import EndpointSpec
from lb.config.units import MILLISECOND, SECOND
from lb.discovery.check import check_specs
from lb.discovery.pauses import Pauses
from lb.discovery.source import DiscoveryError, Found, Source

log = logging.getLogger("tidegate.discovery")

JITTER = 0.1  # each pause is up to this share longer, so that many daemons do not ask in step
LAST_RETRY = 30 * SECOND
SHORTEST = 10 * MILLISECOND  # whatever a plug-in says
_NAMED = 5  # endpoints of a change that the log names


class Watch:
    """`run` asks `source` for ever; `changed` is called whenever `endpoints` is another set than before.

    `endpoints` is the last good set, None until there is one. What it decides of an answer is decided by `observe`
    and `fail`, which wait for nothing.
    """

    def __init__(
        self,
        kind: str,
        source: Source,
        limit: int,
        changed: Callable[[], None],
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        self.kind = kind
        self.source = source
        self.endpoints: tuple[EndpointSpec, ...] | None = None
        self.error = ""
        self._limit = limit
        self._changed = changed
        self._clock = clock
        self._random = rng or random.Random()  # noqa: S311 - it spreads load, it guards nothing
        self._partial = False
        self._known = asyncio.Event()
        self._pauses = Pauses(LAST_RETRY)
        self._looks = self._failures = self._changes = self._left_out = 0
        self._good_at = self._next_at = 0  # monotonic ns; 0 = not yet, nothing planned

    @property
    def state(self) -> str:
        """`waiting` (nothing known yet), `current`, `partial` (a part of the answer is missing, the rest is in use), or
        `stale` (the last look failed, the last good set stays)."""
        if self.endpoints is None:
            return "waiting"
        return "partial" if self._partial else "stale" if self.error else "current"

    async def run(self) -> None:
        try:
            pause: int | None = 0
            while pause is not None:
                await asyncio.sleep(pause / SECOND)
                self._next_at = 0
                pause = await self._look()
                self._next_at = self._clock.now() + pause if pause is not None else 0
        finally:
            await self._close()

    async def wait_known(self) -> None:
        """Returns when there is a first good set."""
        await self._known.wait()

    def status(self, now: int) -> dict[str, Any]:
        """The source's part of the status document at `now` (monotonic ns)."""
        return {
            "source": self.kind,
            "target": self._target(),
            "state": self.state,
            "endpoints": len(self.endpoints or ()),
            "left_out": self._left_out,
            "age_s": round((now - self._good_at) / SECOND, 3) if self.endpoints is not None else None,
            "next_look_s": round(max(0, self._next_at - now) / SECOND, 3) if self._next_at else None,
            "looks": self._looks,
            "failures": self._failures,
            "changes": self._changes,
            "error": self.error or None,
        }

    def observe(self, found: Found, now: int) -> int | None:
        """Takes an answer; returns the pause until the next look, in ns. Raises DiscoveryError when it is unusable."""
        check_specs(self.source.pool, self.source.config, found.endpoints)
        self._looks += 1
        self._pauses.reset()
        self._good_at = now
        self._partial = bool(found.missing)
        if found.missing and found.missing != self.error:
            log.warning("pool %s: %s: %s; what has answered is used", self.source.pool, self._name(), found.missing)
        elif self.error and not found.missing:
            log.info("pool %s: %s answers again", self.source.pool, self._name())
        self.error = found.missing
        self._take(found.endpoints)
        return None if found.refresh_ns is None else self._spread(max(found.refresh_ns, SHORTEST))

    def fail(self, error: DiscoveryError) -> int:
        """Takes a failure; returns the pause until the next look, in ns."""
        self._looks += 1
        self._failures += 1
        self._partial = False
        pause = self._pauses.next()
        text = str(error)
        if text != self.error:
            known = self.endpoints
            kept = "there are no endpoints yet" if known is None else f"its {len(known)} endpoints stay"
            log.warning("pool %s: %s: %s; %s", self.source.pool, self._name(), text, kept)
            self.error = text
        return self._spread(pause if error.retry_ns is None else max(error.retry_ns, SHORTEST))

    async def _look(self) -> int | None:
        try:
            return self.observe(await self.source.look(), self._clock.now())
        except DiscoveryError as error:
            return self.fail(error)
        except BaseException as error:
            if _meant_for_us(error):
                raise
            # A defect of a source, its sys.exit() included, must not end the watch, nor fill the log.
            text = ": ".join(filter(None, (type(error).__name__, str(error))))
            if text != self.error:
                log.exception("pool %s: %s failed in an unforeseen way", self.source.pool, self._name())
            return self.fail(DiscoveryError(text))

    def _take(self, endpoints: tuple[EndpointSpec, ...]) -> None:
        left_out = max(0, len(endpoints) - self._limit)
        if left_out and not self._left_out:
            text = "pool %s: %s gives %d endpoints, of which max_endpoints (%d) leaves %d out"
            log.warning(text, self.source.pool, self._name(), len(endpoints), self._limit, left_out)
        self._left_out = left_out
        before, self.endpoints = self.endpoints, endpoints[: self._limit]
        self._known.set()
        if self.endpoints != before:
            self._changes += before is not None
            log.info("pool %s: %s: %s", self.source.pool, self._name(), _difference(before or (), self.endpoints))
            self._changed()

    def _name(self) -> str:
        return f"{self.kind} {self._target()}".strip()

    def _target(self) -> str:
        try:
            return str(self.source.describe())
        except BaseException as error:  # a plug-in's; status and log have to go on without it
            return f"({type(error).__name__}: {error})"

    async def _close(self) -> None:
        try:
            await self.source.close()
        except BaseException as error:
            if _meant_for_us(error):
                raise
            log.exception("pool %s: %s could not be closed", self.source.pool, self._name())

    def _spread(self, pause: int) -> int:
        return pause + int(pause * JITTER * self._random.random())


def _meant_for_us(error: BaseException) -> bool:
    """Whether it ends the task that runs. A source may have awaited a task of its own that was cancelled; we are only
    when somebody asked for it."""
    if isinstance(error, asyncio.CancelledError):
        ours = asyncio.current_task()
        return ours is None or ours.cancelling() > 0
    return isinstance(error, GeneratorExit)


def _difference(before: tuple[EndpointSpec, ...], after: tuple[EndpointSpec, ...]) -> str:
    old, new = {e.address: e for e in before}, {e.address: e for e in after}
    parts = [f"{len(new)} endpoints"]
    for word, addresses in (
        ("new", [a for a in new if a not in old]),
        ("gone", [a for a in old if a not in new]),
        ("changed", [a for a in new if a in old and new[a] != old[a]]),
    ):
        if addresses:
            more = f" and {len(addresses) - _NAMED} more" if len(addresses) > _NAMED else ""
            parts.append(f"{word}: {', '.join(addresses[:_NAMED])}{more}")
    return "; ".join(parts)
