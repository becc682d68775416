"""The loop that gives the servers of one pool the cores or threads, the batch and the runs at once that they need: it
looks once a minute, asks lb.scaling.vertical and lb.scaling.runs, and has servers with other numbers take the place of
those that run, one at a time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from lb.clock import Clock
from lb.config.schema.file import ServeConfig, VerticalConfig
from lb.config.units import SECOND
from lb.scaling.runs import Runs, RunSize, Size
from lb.scaling.vertical import Advice, Vertical, whole_cores

log = logging.getLogger("tidegate.scaling")

BATCH = 32  # rows of a batch where nobody says it: the model server's --max-batch

Measure = Callable[[int, float | None], Awaitable[Runs | None]]
"""The runs until now (monotonic ns), with the part of their cores that servers used: `RunsMeter.ask`."""


class Resizable(Protocol):
    """What is resized; `lb.control.servers.supervisor.Supervisor` is one."""

    @property
    def rolling(self) -> bool: ...
    def cpu(self) -> Mapping[str, float]: ...
    def memory(self) -> Mapping[str, float]: ...
    def roll_to(self, serve: ServeConfig) -> None: ...


class VerticalScaler:
    """`sample`, `step` and `fit` are the loop's body and read no clock, so that tests can drive them. `measure` is
    asked where the batch or the runs at once may change."""

    def __init__(
        self,
        pool: str,
        target: Resizable,
        serve: ServeConfig,
        settings: VerticalConfig,
        clock: Clock,
        measure: Measure | None = None,
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
        self._measure = measure if settings.max_batch or settings.max_instances else None
        self._runs = RunSize(Size(settings.max_batch or 0, settings.max_instances or 0))
        self._used: float | None = None  # part of their cores that servers used at the last look
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
        self._used = sum(cores.values()) / len(cores) / _cores(self._serve) if cores else None
        self._rule.see(now, cores, self._target.memory())

    def step(self, now: int) -> None:
        """Decide on what was seen so far, and act on it. While servers are being replaced nothing is decided."""
        self._advice = self._rule.advise(now)
        if self._advice is None or self._target.rolling or not _has_cores(self._serve):
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

    def fit(self, runs: Runs) -> None:
        """Decide on batch and runs at once by what servers say of their runs, and act on it."""
        size = _size(self._serve)
        wanted = self._runs.see(runs, size)
        if wanted == size:
            return
        text = f"batches of {wanted.batch} rows and {wanted.instances} runs at once"
        if self._settings.dry_run:
            log.debug("pool %s: %s would replace %d and %d: %s", self._pool, text, size.batch, size.instances,
                      self._runs.reason)  # fmt: skip
            return
        log.info("pool %s: servers with %s replace those with %d and %d, one at a time: %s", self._pool, text,
                 size.batch, size.instances, self._runs.reason)  # fmt: skip
        changed = {
            name: number
            for name, number in (("batch", wanted.batch), ("instances", wanted.instances))
            if number != getattr(size, name)
        }
        self._serve = self._serve.model_copy(update=changed)
        self._target.roll_to(self._serve)

    def status(self) -> dict[str, Any]:
        """For status: cores now and as advised, what the advice goes by, and the memory of one server in bytes; batch
        and runs at once, and what was made of the last look at runs."""
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
            "batch": _size(self._serve).batch or None,
            "instances": _size(self._serve).instances or None,
            "runs": self._runs.reason if self._measure is not None else None,
        }

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.interval / SECOND)
            try:
                now = self._clock.now()
                self.sample(now)
                self.step(now)
                runs = await self._measure(now, self._used) if self._measure is not None else None
                if runs is not None and not self._target.rolling:
                    self.fit(runs)
            except Exception:
                # Whatever is wrong, the servers keep what they have, and the next round may do better.
                log.exception("pool %s: could not decide on the size of its servers", self._pool)


def _cores(serve: ServeConfig) -> int:
    """Cores of one server, or the threads that it computes with."""
    return serve.cores or serve.threads or len(os.sched_getaffinity(0))


def _has_cores(serve: ServeConfig) -> bool:
    """Whether the server is told its cores, or its threads."""
    return serve.command is None or serve.cores is not None


def _size(serve: ServeConfig) -> Size:
    """Batch and runs at once of one server, as far as it is told them."""
    if serve.command is not None:
        return Size(serve.batch or 0, serve.instances or 0)
    return Size(serve.batch or BATCH, serve.instances or _cores(serve))


def _with_cores(serve: ServeConfig, number: int) -> ServeConfig:
    changed = {"cores": number} if serve.cores is not None else {"threads": number}
    return serve.model_copy(update=changed)
