"""The pools whose endpoints are discovered: which sources are watched, and which endpoints they give.

A changed `discover` section is watched beside the old one until its first endpoints are known; a pool that had other
endpoints keeps those until then. So a reload never leaves a pool empty that was not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from msgspec import Struct

from lb.clock import Clock
from lb.config.plan.plan import EndpointSpec, Plan
from lb.config.schema.file import Config, PoolConfig
from lb.config.units import SECOND
from lb.discovery.registry import build
from lb.discovery.source import Source
from lb.discovery.watch import Watch
from lb.errors import StartError

log = logging.getLogger("tidegate.master")

Build = Callable[[str, PoolConfig], Source]


def build_source(name: str, pool: PoolConfig) -> Source:
    """The source of a pool that has one. Raises ConfigError."""
    assert pool.discover is not None
    return build(name, pool.discover, pool)


class _Watched(Struct):
    pool: str
    config: PoolConfig
    watch: Watch
    task: asyncio.Task[None]
    fallback: tuple[EndpointSpec, ...]  # what the pool had before, until the source has answered

    @property
    def endpoints(self) -> tuple[EndpointSpec, ...]:
        return self.fallback if self.watch.endpoints is None else self.watch.endpoints

    def follows(self, pool: PoolConfig) -> bool:
        """Whether the source of `pool` is this one: what it sees of its pool is the same."""
        ours, theirs = self.config, pool
        return (ours.discover, ours.protocol, ours.tls) == (theirs.discover, theirs.protocol, theirs.tls)


class DiscoveredPools:
    """`prepared` starts the sources of a configuration, `apply` ends those that it no longer has.

    `changed(pool)` is called whenever what `endpoints` gives for a pool may be different.
    """

    def __init__(self, changed: Callable[[str], None], clock: Clock, build: Build = build_source) -> None:
        self._changed = changed
        self._clock = clock
        self._build = build
        self._watched: list[_Watched] = []
        self._wanted: list[Config] = []  # in force, or about to be
        self._in_force: Config | None = None
        self._ended: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def prepared(self, config: Config, running: Plan | None) -> AsyncIterator[None]:
        """Inside, every source of `config` is watched and has answered, as far as its `initial` asks for that.

        Raises StartError when one that is `required` has not, ConfigError when one cannot be made. Afterwards only
        the sources of what is in force go on.
        """
        self._wanted.append(config)
        try:
            fresh = []
            for name, pool in config.pools.items():
                if pool.discover is not None and self._find(name, pool) is None:
                    fresh.append(self._start(name, pool, _before(running, name)))
            await _wait_all_known(fresh)
            yield
        finally:
            self._wanted.remove(config)
            self._end_unwanted()

    def apply(self, config: Config) -> None:
        """All workers have the plan of `config` now."""
        self._in_force = config
        self._end_unwanted()

    def endpoints(self, config: Config) -> dict[str, Sequence[EndpointSpec]]:
        """The endpoints of every pool of `config` that discovers them, which is prepared or in force."""
        found: dict[str, Sequence[EndpointSpec]] = {}
        for name, pool in config.pools.items():
            if pool.discover is not None:
                watched = self._find(name, pool)
                found[name] = watched.endpoints if watched is not None else ()
        return found

    def status(self, now: int) -> dict[str, dict[str, Any]]:
        """By pool, of what is in force: see Watch.status."""
        pools = self._in_force.pools if self._in_force is not None else {}
        rows = ((name, self._find(name, pool)) for name, pool in pools.items() if pool.discover is not None)
        return {name: watched.watch.status(now) for name, watched in rows if watched is not None}

    async def close(self) -> None:
        """Ends all sources."""
        self._in_force = None
        self._end_unwanted()
        while self._ended:
            await asyncio.gather(*self._ended, return_exceptions=True)

    def _find(self, name: str, pool: PoolConfig) -> _Watched | None:
        return next((w for w in self._watched if w.pool == name and w.follows(pool)), None)

    def _start(self, name: str, pool: PoolConfig, fallback: tuple[EndpointSpec, ...]) -> _Watched:
        assert pool.discover is not None
        source = self._build(name, pool)
        watch = Watch(
            pool.discover.source, source, pool.discover.max_endpoints, lambda: self._changed(name), self._clock
        )
        task = asyncio.get_running_loop().create_task(watch.run(), name=f"discovery {name}")
        task.add_done_callback(_done)
        watched = _Watched(name, pool, watch, task, fallback)
        self._watched.append(watched)
        return watched

    def _end_unwanted(self) -> None:
        wanted = [*self._wanted, *([self._in_force] if self._in_force is not None else [])]
        for watched in list(self._watched):
            pools = [config.pools[watched.pool] for config in wanted if watched.pool in config.pools]
            if not any(pool.discover is not None and watched.follows(pool) for pool in pools):
                self._watched.remove(watched)
                if watched.task.cancel():
                    self._ended.add(watched.task)
                    watched.task.add_done_callback(self._ended.discard)


async def _wait_all_known(fresh: Sequence[_Watched]) -> None:
    tasks = [asyncio.ensure_future(_wait_known(watched)) for watched in fresh]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # one that failed ends the wait of the others
            task.cancel()


async def _wait_known(watched: _Watched) -> None:
    discover = watched.config.discover
    assert discover is not None
    if discover.initial == "empty" or (watched.fallback and discover.initial == "wait"):
        return
    try:
        async with asyncio.timeout(discover.initial_timeout / SECOND):
            await watched.watch.wait_known()
    except TimeoutError:
        reason = watched.watch.error or "no answer yet"
        text = f"pool {watched.pool}: no endpoints within {discover.initial_timeout / SECOND:g} s: {reason}"
        if discover.initial == "required":
            raise StartError(text) from None
        log.warning("%s; it begins with %d", text, len(watched.fallback))


def _before(plan: Plan | None, pool: str) -> tuple[EndpointSpec, ...]:
    for known in plan.pools if plan is not None else ():
        if known.name == pool:
            return tuple(
                EndpointSpec(e.address, e.weight, e.host, e.max_in_flight, e.priority, e.zone, e.server_id)
                for e in known.endpoints
            )
    return ()


def _done(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("a source of endpoints failed", exc_info=error)
