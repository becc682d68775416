"""What operators do with the result cache: they look at it, and purge it. In the master, on its loop."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Sequence
from typing import Any

from lb.cache import tags
from lb.cache.disk.keeper import Keeper
from lb.cache.store import ResultCache
from lb.clock import Clock
from lb.config.plan.plan import Plan, RoutePlan
from lb.control.cache.message import fields
from lb.control.endpoints.lookup import find_pool
from lb.errors import ConfigError
from lb.proxy.routing.rewrite import Rewrite
from lb.shared.segment import Segment
from lb.shared.words import ROUTE
from lb.telemetry.series import Series

log = logging.getLogger("tidegate.cache")

NO_CACHE = "there is no result cache: the configuration has no section cache"
_CHUNK = 512  # bytes, of which the capacity is made
_CENSUS = 1 << 24  # chunks that one look goes over; of a larger cache (8 GiB) it goes over some shards
_REASONS = ("busy", "size", "purged", "value")

Purged = Callable[[Sequence[str]], None]
"""Is told the tags of a purge once it has happened here; of a purge of everything those of all pools."""


class NoCacheError(ConfigError):
    """There is nothing to look at."""

    def __init__(self) -> None:
        super().__init__([NO_CACHE])


class CacheOperations:
    """`plan()` gives the plan in force; `purged` are told of every purge, `purging` before it happens. `disk` keeps
    purges over a restart."""

    def __init__(
        self, segment: Segment, plan: Callable[[], Plan | None], clock: Clock, purged: Sequence[Purged] = (),
        disk: Keeper | None = None,
    ) -> None:  # fmt: skip
        self._segment = segment
        self._plan = plan
        self._clock = clock
        self._purged = list(purged)
        self.purging: Purged = lambda names: None
        self._disk = disk

    def tell(self, purged: Purged) -> None:
        """From now on of every purge."""
        self._purged.append(purged)

    def stats(self) -> dict[str, Any]:
        """The counters of the cache, and by route those of its requests. Raises NoCacheError."""
        cache, plan = self._cache()
        found: dict[str, Any] = cache.stats()
        rejected = {reason: found.pop(f"rejected_{reason}") for reason in _REASONS}
        saved = found.pop("saved_us") / 1e6
        asked = found["hits"] + found["stale"] + found["misses"]
        return {
            "size": plan.cache.size if plan.cache is not None else 0,
            **found,
            "rejected": rejected,
            "saved_s": saved,
            "hit_ratio": ratio(found["hits"] + found["stale"], asked),
            "routes": self._routes(plan),
        }

    async def top(self, most: int) -> dict[str, Any]:
        """The entries with the most requests of late, each with its pool, model and version where these are known.
        Raises NoCacheError."""
        cache, plan = self._cache()
        step = -(-(cache.stats()["capacity"] // _CHUNK) // _CENSUS)
        best: list[dict[str, Any]] = []
        for shard in range(0, cache.shard_count, step):
            best = heapq.nlargest(most, [*best, *cache.top(shard, most, self._clock.now())], key=_rank)
            await asyncio.sleep(0)
            cache, plan = self._cache()  # a reload may have taken it away
        return {"entries": [_described(entry, cache, plan) for entry in best], "share": 1 / step}

    def purge(
        self,
        *,
        tag: str | None = None,
        pool: str | None = None,
        model: str | None = None,
        version: str | None = None,
        tenant: str | None = None,
        url: str | None = None,
    ) -> list[str]:
        """Purges each of what is named; the tags. `pool` alone is all of the pool, beside `model` it is whose model,
        by default that of every pool. Raises NoCacheError, ConfigError when there is no such pool, or ValueError for
        what is no URL."""
        cache, plan = self._cache()
        if pool is not None:
            find_pool(plan, pool)
        found = [] if tag is None else [tag]
        if tenant is not None:
            found.append(tags.of_tenant(tenant))
        if model is not None:
            pools = [pool] if pool is not None else [each.name for each in plan.pools if each.protocol == "oip"]
            found += [each for name in pools for each in tags.of_models_answers(name, model, version)]
        elif pool is not None:
            found.append(tags.of_pool(pool))
        if url is not None:
            found += urls_of(url, plan)
        self._purge(cache, found)
        return found

    async def settled(self) -> None:
        """What was purged is so after a restart, too."""
        if self._disk is not None:
            await self._disk.settled()

    async def purge_all(self) -> None:
        """Raises NoCacheError."""
        cache, plan = self._cache()
        names = [tags.of_pool(pool.name) for pool in plan.pools]
        self.purging(names)
        cache.purge_all()
        self._keep(cache, range(cache.slots))
        self._tell(names)
        for shard in range(cache.shard_count):
            cache.purge_shard(shard)
            await asyncio.sleep(0)

    def model_changed(self, pool: str, model: str) -> None:
        """What the model answered before counts no more."""
        self._purge_here([tags.of_model(pool, model)])

    def pool_changed(self, pool: str) -> None:
        """What any model of the pool answered before counts no more."""
        self._purge_here([tags.of_pool(pool)])

    def purged_elsewhere(self, tag: bytes | None) -> None:
        """Another daemon has purged a tag, or any tag (None), and told all who have to know it but this memory."""
        cache = self.memory()
        if cache is None:
            return
        if tag is None:
            log.info("the result cache is emptied: purges by other daemons may have been missed")
            cache.purge_all()
            self._keep(cache, range(cache.slots))
        else:
            cache.purge(tag)
            self._keep(cache, [cache.slot_of(tag)])

    def memory(self) -> ResultCache | None:
        """The cache of this daemon; None: there is none."""
        plan = self._plan()
        return None if plan is None or plan.cache is None else ResultCache(self._segment, plan.cache.max_object)

    def _purge_here(self, names: Sequence[str]) -> None:
        cache = self.memory()
        if cache is not None:
            self._purge(cache, names)

    def _purge(self, cache: ResultCache, names: Sequence[str]) -> None:
        self.purging(names)
        for name in names:
            cache.purge(name.encode())
        self._keep(cache, [cache.slot_of(name.encode()) for name in names])
        self._tell(names)

    def _keep(self, cache: ResultCache, slots: Sequence[int]) -> None:
        """The generations that purges have made, over a restart."""
        if self._disk is not None and slots:
            self._disk.purged({slot: cache.generation(slot) for slot in slots})

    def _tell(self, names: Sequence[str]) -> None:
        for purged in self._purged:
            purged(names)

    def _cache(self) -> tuple[ResultCache, Plan]:
        plan = self._plan()
        if plan is None or plan.cache is None:
            raise NoCacheError
        return ResultCache(self._segment, plan.cache.max_object), plan

    def _routes(self, plan: Plan) -> list[dict[str, Any]]:
        """Of the routes whose requests have come to the cache."""
        at, word = ROUTE.find("cache")
        rows = []
        for listener in plan.listeners:
            for route, number in listener.route_series():
                if not self._segment.series_sum(number, at, word.size):
                    continue
                counts = Series(ROUTE, self._segment.series_total(number)).values("cache")
                found = counts["hit"]
                rows.append({"route": route, **counts, "hit_ratio": ratio(found, found + counts["miss"])})
        return rows


def urls_of(url: str, plan: Plan) -> list[str]:
    """The tags that answers to requests for a URL may carry: what endpoints get is kept, so that of each route that
    rewrites paths, or leaves out the query, it is another URL. Raises ValueError."""
    first = tags.of_url(url)
    host, slash, target = first.partition("/")
    path, question, query = f"{slash}{target}".partition("?")
    found = {first: None}
    for listener in plan.listeners:
        for route in listener.routes:
            if route.http_cache is None or not _may_match(route, path):
                continue
            new = path
            if route.rewrite is not None:
                try:
                    new = Rewrite(route.rewrite).rewritten(path.encode()).decode("latin-1")
                except ValueError:
                    continue  # no request of this path gets through
            found[f"{host}{new}{question}{query}" if route.http_cache.query else f"{host}{new}"] = None
    return list(found)


def _may_match(route: RoutePlan, path: str) -> bool:
    if route.path_kind == "prefix":
        return path.startswith(route.path)
    return route.path_kind != "exact" or path == route.path


def ratio(part: int, whole: int) -> float | None:
    """None of nothing."""
    return round(part / whole, 4) if whole else None


def _rank(entry: dict[str, Any]) -> tuple[int, int]:
    return entry["requests"], entry["cost_us"]


def _described(entry: dict[str, Any], cache: ResultCache, plan: Plan) -> dict[str, Any]:
    pool, model, version = _origin(entry, cache, plan)
    return {
        "key": entry["key"].hex(),
        "pool": pool,
        "model": model,
        "version": version,
        "requests": entry["requests"],
        "bytes": entry["bytes"],
        "size": entry["size"],
        "age_s": entry["age_ns"] / 1e9,
        "fresh_s": entry["fresh_ns"] / 1e9,
        "cost_s": entry["cost_us"] / 1e6,
        "negative": entry["negative"],
    }


def _origin(entry: dict[str, Any], cache: ResultCache, plan: Plan) -> tuple[str | None, str | None, str | None]:
    """Pool, model and version. An entry has neither: its bytes begin as a ModelInferResponse does, with the name of the
    model, and its tags have to be those of that model."""
    slots = set(entry["slots"])
    pools = [pool.name for pool in plan.pools if cache.slot_of(tags.of_pool(pool.name).encode()) in slots]
    names = dict(fields(entry["start"]))
    model, version = names.get(1), names.get(2)
    for pool in pools:
        if model is not None and cache.slot_of(tags.of_model(pool, model).encode()) in slots:
            return pool, model, version
    return pools[0] if len(pools) == 1 else None, None, None
