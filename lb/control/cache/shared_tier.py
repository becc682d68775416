"""The cache tier as the master has it: purges go to it, and come from it; the workers get and put on their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lb.cache.store import ResultCache
from lb.cache.tiers import registry
from lb.cache.tiers.entry import LONGEST_TAG
from lb.cache.tiers.tier import Tier
from lb.clock import Clock
from lb.config.plan.plan import Plan
from lb.config.plan.tier import TierPlan
from lb.config.units import SECOND
from lb.control.background import Background

log = logging.getLogger("tidegate.cache")

# Counters: results of gets, of which each has one, and what became of puts.
_COUNTS = ("hits", "misses", "invalid", "timeouts", "errors", "skipped", "stored", "dropped")
MASTER = "master"  # among the processes; workers have their numbers


class SharedTier:
    """On the master's loop. `memory()` gives the cache of this daemon, or None; `workers()` how the tiers of the
    workers are, by their numbers (TierStatus as a mapping); `purged_elsewhere` is told a tag that any daemon has
    purged, or None: it may be any."""

    def __init__(
        self,
        memory: Callable[[], ResultCache | None],
        workers: Callable[[], Mapping[str, dict[str, Any]]],
        purged_elsewhere: Callable[[bytes | None], None],
        clock: Clock,
    ) -> None:
        self._memory, self._workers, self._purged_elsewhere = memory, workers, purged_elsewhere
        self._clock = clock
        self._tiers: dict[TierPlan, Tier] = {}  # two while a reload is under way
        self._plan: TierPlan | None = None  # that in force
        self._down_since: int | None = None
        self._background = Background(log, "a cache tier was not ended")

    async def prepare(self, plan: Plan) -> None:
        """From now on the tier of `plan` is told of purges, too: workers may use it any moment. Raises TierError."""
        wanted = _tier_of(plan)
        if wanted is None or wanted in self._tiers:
            return
        await asyncio.to_thread(registry.load, wanted)
        tier = registry.build(wanted, self._purged_elsewhere, quiet=True)
        tier.start()
        for tag in {tag for known in self._tiers.values() for tag in known.purging}:
            self._purge(tier, tag)
        self._tiers[wanted] = tier

    def commit(self, plan: Plan | None) -> None:
        """The workers use the tier of `plan`, and no other."""
        self._plan = _tier_of(plan)
        for known in [known for known in self._tiers if known != self._plan]:
            self._background.spawn(self._tiers.pop(known).stop())
        if self._plan is None:
            self._down_since = None
        self._mark()

    def purging(self, tags: Sequence[str]) -> None:
        """Before the tags are purged here: what the tier has of them counts no more from now on."""
        names = [tag.encode() for tag in tags]
        for tier in self._tiers.values():
            for name in names:
                if len(name) <= LONGEST_TAG:  # nothing in the tier has a longer one
                    self._purge(tier, name)
        if self._tiers and names:
            self._mark()

    def _purge(self, tier: Tier, tag: bytes) -> None:
        tier.purge(tag).add_done_callback(lambda _: self._mark())

    def _mark(self) -> None:
        """So that workers ask for nothing that was purged and of which the servers do not know it."""
        memory = self._memory()
        if memory is not None:
            memory.mark_purging({tag for tier in self._tiers.values() for tag in tier.purging})

    def look(self) -> None:
        """Says once that the tier is down for some process, and once that it is well for all. To be called every
        second."""
        if self._plan is None:
            return
        down = [status for status in self._statuses().values() if status["down"]]
        if down and self._down_since is None:
            self._down_since = self._clock.now()
            log.warning("cache tier %s is not used for now: %s", down[0]["server"], down[0]["last_error"])
        elif not down and self._down_since is not None:
            seconds = (self._clock.now() - self._down_since) / SECOND
            self._down_since = None
            log.info("cache tier %s is used again, after %.0f s", self._tiers[self._plan].status().server, seconds)

    def status(self) -> dict[str, Any] | None:
        """None where there is no tier. Counters are totals of the processes that live, and stand by process besides.
        `state`, that of the breakers, is `closed` where all are, `open` where none is, else `partly open`."""
        if self._plan is None or self._plan not in self._tiers:
            return None
        own = self._tiers[self._plan].status()
        found = self._statuses()
        well = sum(status["state"] == "closed" for status in found.values())
        return {
            "server": own.server,
            "state": "closed" if well == len(found) else "partly open" if well else "open",
            "error": next((status["last_error"] for status in found.values() if status["down"]), ""),
            "opened": sum(status["opened"] for status in found.values()),
            "queued_bytes": sum(status["queued_bytes"] for status in found.values()),
            "pending_purges": own.pending_purges,
            "purges": own.counts.purges,
            "invalidations": own.counts.invalidations,
            **{name: sum(status["counts"][name] for status in found.values()) for name in _COUNTS},
            "processes": {
                process: {"state": status["state"], "opened": status["opened"], **status["counts"]}
                for process, status in found.items()
            },
        }

    def _statuses(self) -> dict[str, dict[str, Any]]:
        found = dict(self._workers())
        if self._plan is not None and self._plan in self._tiers:
            found[MASTER] = self._tiers[self._plan].status().to_dict()
        return found

    async def close(self) -> None:
        self._plan = None
        for tier in self._tiers.values():
            self._background.spawn(tier.stop())
        self._tiers = {}
        await self._background.wait()


def _tier_of(plan: Plan | None) -> TierPlan | None:
    return plan.cache.tier if plan is not None and plan.cache is not None else None
