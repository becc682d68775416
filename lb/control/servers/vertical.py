"""The loop that gives the servers of one pool the cores or threads that they need: it looks once a minute, asks
lb.scaling.vertical, and has servers with other numbers take the place of those that run, one at a time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Any, Protocol

from lb.clock import Clock
from lb.config.schema.file import ServeConfig, VerticalConfig
from lb.config.units import SECOND
from lb.scaling.vertical import Advice, Vertical, whole_cores

log = logging.getLogger("tidegate.scaling")


class Resizable(Protocol):
    """What is resized; `lb.control.servers.supervisor.Supervisor` is one."""

    @property
    def rolling(self) -> bool: ...
    def cpu(self) -> Mapping[str, float]: ...
    def memory(self) -> Mapping[str, float]: ...
    def roll_to(self, serve: ServeConfig) -> None: ...


class VerticalScaler:
    """`sample` and `step` are the loop's body and read no clock, so that tests can drive them."""

    def __init__(
        self, pool: str, target: Resizable, serve: ServeConfig, settings: VerticalConfig, clock: Clock
    ) -> None:
        self._pool = pool
        self._target = target
        self._settings = settings
        self._clock = clock
        self._rule = Vertical(settings.half_life)
        self._serve = serve  # with what was decided last
        self._since = clock.now()  # when that was
        self._advice: Advice | None = None
        self._advised: int | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def serve(self) -> ServeConfig:
        """The settings that servers are to have now."""
        return self._serve

    def start(self) -> None:
        """Begin, in the running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"vertical scaling {self._pool}")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def sample(self, now: int) -> None:
        """Take one look at every server that serves."""
        cores = {address: percent / 100 for address, percent in self._target.cpu().items()}
        self._rule.see(now, cores, self._target.memory())

    def step(self, now: int) -> None:
        """Decide on what was seen so far, and act on it. While servers are being replaced nothing is decided."""
        self._advice = self._rule.advise(now)
        if self._advice is None or self._target.rolling:
            return
        before = _cores(self._serve)
        most = self._settings.max_cores or len(os.sched_getaffinity(0))
        wanted = whole_cores(self._advice, before, now - self._since, self._settings.min_cores, most)
        self._advised = wanted
        if wanted == before:
            return
        why = f"{self._advice.cores:.2f} cores are needed (within {self._advice.lower:.2f} to {self._advice.upper:.2f})"
        if self._settings.dry_run:
            log.debug("pool %s: %d cores would replace %d: %s", self._pool, wanted, before, why)
            return
        log.info(
            "pool %s: servers with %d cores replace those with %d, one at a time: %s", self._pool, wanted, before, why
        )
        self._serve, self._since = _with_cores(self._serve, wanted), now
        self._target.roll_to(self._serve)

    def status(self) -> dict[str, Any]:
        """For status: cores now and as advised, what the advice goes by, and the memory of one server in bytes."""
        advice = self._advice
        return {
            "cores": _cores(self._serve),
            "advised": self._advised,
            "dry_run": self._settings.dry_run,
            "needed": advice and advice.cores,
            "lower": advice and advice.lower,
            "upper": advice and advice.upper,
            "memory": advice and round(advice.memory),
            "samples": advice.samples if advice else 0,
        }

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.interval / SECOND)
            try:
                now = self._clock.now()
                self.sample(now)
                self.step(now)
            except Exception:
                # Whatever is wrong, the servers keep what they have, and the next round may do better.
                log.exception("pool %s: could not decide on the size of its servers", self._pool)


def _cores(serve: ServeConfig) -> int:
    """Cores of one server, or the threads that it computes with."""
    return serve.cores or serve.threads or len(os.sched_getaffinity(0))


def _with_cores(serve: ServeConfig, number: int) -> ServeConfig:
    changed = {"cores": number} if serve.cores is not None else {"threads": number}
    return serve.model_copy(update=changed)
