"""The canaries of a running daemon: looks at their pools each second, and keeps in a file how far they have come."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from lb.clock import Clock
from lb.config.checks.jobs import NAME as JOBS
from lb.config.forms import members_of
from lb.config.schema.base import did_you_mean
from lb.config.schema.file import Config, RouteConfig
from lb.control.canary.analysis import Compared, Observed, Tally
from lb.control.canary.rollout import Action, Kept, Rollout, history_of
from lb.control.jobs.routes import route_of
from lb.control.servers.scaling_memory import replace_file
from lb.control.servers.traffic import Counts, TrafficMeter
from lb.errors import ConfigError

log = logging.getLogger("tidegate.canary")

EVERY = 1.0  # seconds between two looks
_NAME = "canaries.json"


class _Meter:
    """What happens in a pool from look to look."""

    def __init__(self) -> None:
        self._meter = TrafficMeter()

    def look(self, counts: Counts | None, now: int) -> Tally:
        traffic = self._meter.look(counts, now)
        if traffic is None:
            return Tally()
        # A request that its queue gave up was none of an endpoint's, and got no answer of the pool's.
        requests = traffic.answered + traffic.failed + traffic.refused
        return Tally(max(0, requests), max(0, traffic.failed + traffic.refused), self._meter.durations)


class _Watched:
    """A rollout with the meters of its pools."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self._canary, self._baseline = _Meter(), _Meter()
        self._known: Compared | None = None

    def look(
        self, counts: Callable[[str], Counts | None], compared: Compared, usable: bool, now: int, wall: float
    ) -> bool:
        rollout = self.rollout
        canary = self._canary.look(counts(rollout.config.pool), now)
        baseline = self._baseline.look(counts(rollout.baseline), now)
        known, self._known = self._known, compared
        more = compared.since(known) if known is not None else Compared()
        return rollout.look(Observed(canary, baseline, more), usable, now, wall)


class Canaries:
    """By the names of their routes. `counts` has the counters of a pool, `usable` says whether an endpoint of it takes
    requests, `changed` is told that a share is another one, `compared` has the answers of a route that a mirror to the
    canary has had compared, and those of them that differ; `wall` is Unix time in seconds. Without a `folder` nothing
    outlives the daemon."""

    def __init__(
        self,
        folder: Path | None,
        counts: Callable[[str], Counts | None],
        usable: Callable[[str], bool],
        changed: Callable[[], None],
        compared: Callable[[str], tuple[int, int]],
        clock: Clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = None if folder is None else folder / _NAME
        self._counts = counts
        self._usable = usable
        self._changed = changed
        self._compared = compared
        self._clock = clock
        self._wall = wall
        self._watched: dict[str, _Watched] = {}
        self._kept: dict[str, Kept] = {}  # of the file, until a route takes it over
        self._saved = b""
        self._saving = asyncio.Lock()
        self.trouble = ""  # why the file is not written now

    def load(self, handed: bytes = b"") -> None:
        """Takes what the program before an upgrade has handed over, otherwise reads the file. What cannot be read is
        reported, and every canary begins anew. Blocks."""
        if handed:
            try:
                self._kept = msgspec.json.decode(handed, type=dict[str, Kept])
                return
            except msgspec.DecodeError as error:
                log.error("canaries: what the program before has handed over cannot be used: %s", error)
        if self.path is None:
            return
        try:
            self._kept = msgspec.json.decode(self.path.read_bytes(), type=dict[str, Kept])
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            why = getattr(error, "strerror", None) or error
            log.error("canaries: %s cannot be used, they begin anew: %s", self.path, why)

    def share(self, name: str, route: RouteConfig) -> float:
        """Which share of its requests the canary of a route gets, in percent; `route` may be one to come."""
        assert route.canary is not None
        if name not in self._watched and name not in self._kept:
            name = route_of(name)  # its jobs go where its requests go
        watched = self._watched.get(name)
        if watched is not None:
            found: Rollout = watched.rollout
            if (found.baseline, found.config.pool) == (route.pool, route.canary.pool):
                return found.percent
            return 0.0
        kept = self._kept.get(name)
        promoted = kept is not None and kept.phase == "promoted"
        same = kept is not None and (kept.baseline, kept.canary) == (route.pool, route.canary.pool)
        return 100.0 if promoted and same else 0.0

    def follow(self, config: Config) -> None:
        """Takes the canaries of a configuration that is in force. Those with the same pools go on."""
        before, self._watched = self._watched, {}
        for name, route in _routes(config):
            assert route.canary is not None
            assert route.pool is not None
            known = before.get(name)
            if known is not None and (known.rollout.baseline, known.rollout.config.pool) == (
                route.pool,
                route.canary.pool,
            ):
                known.rollout.configure(route.canary)
                self._watched[name] = known
                continue
            made = Rollout(route.canary, route.pool, self._kept.get(name), self._wall())
            log.info("canary %s of route %s: %s, %g %%", route.canary.pool, name, made.phase, made.percent)
            self._watched[name] = _Watched(made)
        self._kept = {}
        if self._watched and self.path is None and not before:
            log.warning("canaries begin anew with a restart: STATE_DIRECTORY is not set")

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                self.look()
            except Exception:  # a look that fails must not be the last
                log.exception("the canaries were not looked at")
            await self.save()

    def look(self) -> None:
        """Looks at each canary, and has the shares follow."""
        now, wall = self._clock.now(), self._wall()
        moved = False
        for name, watched in self._watched.items():
            rollout = watched.rollout
            usable = self._usable(rollout.config.pool)
            if watched.look(self._counts, Compared(*self._compared(name)), usable, now, wall):
                self._tell(name, rollout)
                moved = True
        if moved:
            self._changed()

    async def act(self, name: str, action: Action, by: str, dry_run: bool = False) -> tuple[dict[str, Any], bool]:
        """What an operator wants of a canary: how it is then, and whether anything changed, or would. Raises
        ConfigError for a route without one."""
        if name not in self._watched:
            raise ConfigError([f"there is no route {name!r} with a canary{did_you_mean(name, self._watched)}"])
        rollout = self._watched[name].rollout
        if dry_run:
            return self._row(name, rollout), rollout.would_change(action)
        changed = rollout.act(action, self._clock.now(), self._wall(), by)
        if changed:
            self._tell(name, rollout)
            self._changed()
            await self.save()
        return self._row(name, rollout), changed

    def hand_over(self) -> bytes:
        """For `load` of the next program: no file is needed for that."""
        kept = {name: watched.rollout.kept() for name, watched in self._watched.items()}
        return msgspec.json.encode(kept) if kept else b""

    async def save(self) -> None:
        """What has changed goes to the file. Trouble is logged once, and tried again at the next look."""
        if self.path is None:
            return
        async with self._saving:
            content = self.hand_over()
            if content == self._saved:
                return
            try:
                await asyncio.to_thread(replace_file, self.path, content or b"{}")
            except OSError as error:
                if not self.trouble:
                    log.error("canaries: %s cannot be written: %s; it is tried again", self.path, error.strerror)
                self.trouble = error.strerror or str(error)
                return
            self._saved, self.trouble = content, ""

    def status(self) -> list[dict[str, Any]]:
        """For the status document: a row for each canary (Rollout.describe), with its route."""
        return [self._row(name, watched.rollout) for name, watched in self._watched.items()]

    def history(self) -> list[dict[str, Any]]:
        """The same rows, each with its `history`, newest first."""
        return [
            {**self._row(name, watched.rollout), "history": history_of(watched.rollout.history)}
            for name, watched in self._watched.items()
        ]

    def _row(self, name: str, rollout: Rollout) -> dict[str, Any]:
        return {"route": name, **rollout.describe()}

    def _tell(self, name: str, rollout: Rollout) -> None:
        level = logging.WARNING if rollout.phase == "aborted" else logging.INFO
        text = "canary %s of route %s: %s, %g %%: %s"
        log.log(level, text, rollout.config.pool, name, rollout.phase, rollout.percent, rollout.history[-1].reason)


def _routes(config: Config) -> Iterator[tuple[str, RouteConfig]]:
    """The routes with a canary, by name."""
    for listener, section in config.listeners.items():
        if listener == JOBS:
            continue
        for i, member in enumerate(members_of(section.routes)):
            if member.first.canary is not None:
                yield member.name or f"{listener}/{i}", member.route
