"""A pool on demand: without requests it has no model server, and the next request starts one (`serve: {min: 0}`).

Between one model server and `max` the `scaling` section decides, here only whether there is any. What the autoscaler
scales goes through this, so that a schedule or a forecast can start model servers before requests come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct, field

from lb.clock import Clock
from lb.config.units import SECOND, format_duration

log = logging.getLogger("tidegate.scaling")

LOOK_INTERVAL = SECOND  # between two looks at whether a pool is used; shorter where idle_timeout is short


class Target(Protocol):
    """The model servers of a pool; `lb.control.servers.supervisor.Supervisor` is one."""

    @property
    def wanted(self) -> int: ...
    def scale_to(self, n: int) -> None: ...


class Use(Struct, frozen=True):
    """What a pool has to do."""

    waiting: int = 0  # requests that wait for an endpoint
    busy: int = 0  # requests at model servers, sequences that will go on there, and first starts
    begun: Mapping[str, int] = field(default_factory=dict)  # address -> requests that have got this endpoint so far
    kept: int = 0  # model servers that are wanted without any request, by a schedule


class OnDemand:
    """Whether `target`, the model servers of `pool`, is asleep (at zero) or awake.

    `use()` gives what the pool has to do; `turned()` is called when it has fallen asleep or woken. Times are monotonic
    ns.
    """

    def __init__(
        self,
        pool: str,
        target: Target,
        idle_timeout: int,
        *,
        use: Callable[[], Use],
        turned: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.pool = pool
        self._target = target
        self._idle_timeout = idle_timeout
        self._use = use
        self._turned = turned
        self._clock = clock
        self._used_at = self._since = clock.now()
        self._begun: Mapping[str, int] = {}
        self._wakes = 0
        self._task: asyncio.Task[None] | None = None
        self.asleep = target.wanted == 0

    @property
    def floor(self) -> int:
        """The fewest model servers now."""
        return 0 if self.asleep else 1

    def start(self) -> None:
        """Begin to look whether the pool is used, in the running loop."""
        if self._task is None:
            self._used_at = self._clock.now()
            self._task = asyncio.create_task(self._run(), name=f"on demand {self.pool}")

    async def stop(self) -> None:
        """Look no more; what runs stays."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def follow(self, idle_timeout: int) -> None:
        """From now on the pool falls asleep after this time."""
        self._idle_timeout = idle_timeout

    def scale_to(self, n: int) -> None:
        """What `scaling` asks for. More than none wakes the pool; that none are left is for `look` to say."""
        if self.asleep and n > 0:
            self._used_at = self._clock.now()  # it is to be there for those who come
            self._turn(False, self._used_at, "scaling asks for model servers, which wakes it")
            self._wakes += 1
        self._target.scale_to(max(n, self.floor))

    def wake(self) -> None:
        """Requests wait for a model server."""
        self._used_at = self._clock.now()
        if self.asleep:
            self._turn(False, self._used_at, "a request came, which wakes it")
            self._wakes += 1
        if self._target.wanted == 0:
            self._target.scale_to(1)  # again, where an engine could not take it

    def look(self) -> None:
        """Wake the pool where requests wait, and let it fall asleep where there have been none for `idle_timeout`."""
        use, now = self._use(), self._clock.now()
        if self.asleep and self._target.wanted > 0:  # another daemon has woken it, or it was never at zero
            self._used_at = now
            self._turn(False, now, "it has model servers")
        elif not self.asleep and self._target.wanted == 0 and not use.waiting:
            self._turn(True, now, "it has no model server")
        if use.waiting:
            self.wake()
        if use.busy or use.kept or any(n > self._begun.get(address, 0) for address, n in use.begun.items()):
            self._used_at = now
        self._begun = use.begun
        if not self.asleep and now - self._used_at >= self._idle_timeout:
            self._turn(True, now, f"no request for {format_duration(self._idle_timeout)}, it goes to zero")
            self._target.scale_to(0)

    def status(self) -> dict[str, Any]:
        """{asleep, since_s, idle_s, idle_timeout_s, wakes}: durations in seconds."""
        now = self._clock.now()
        return {
            "asleep": self.asleep,
            "since_s": (now - self._since) / SECOND,
            "idle_s": (now - self._used_at) / SECOND,
            "idle_timeout_s": self._idle_timeout / SECOND,
            "wakes": self._wakes,
        }

    def _turn(self, asleep: bool, now: int, why: str) -> None:
        self.asleep, self._since = asleep, now
        log.info("pool %s: %s", self.pool, why)
        self._turned()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(min(LOOK_INTERVAL, self._idle_timeout // 5) / SECOND)
            try:
                self.look()
            except Exception:
                # Whatever is wrong, the pool stays as it is, and the next look may do better.
                log.exception("pool %s: could not decide whether it is used", self.pool)
