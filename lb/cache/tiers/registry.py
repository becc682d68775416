"""Kinds of tiers by their names in the configuration; each is imported when the configuration has it.

The client of Redis takes some tenths of a second to import: `load` is for a thread, before `build`.
"""

from __future__ import annotations

import contextlib
import importlib

from lb.cache.tiers.entry import Codec
from lb.cache.tiers.store import Invalidated, TierStore
from lb.cache.tiers.tier import Tier
from lb.config.plan.tier import TierPlan


def load(plan: TierPlan) -> None:
    """Imports what `build` needs. A package that is missing is for `build` to say."""
    if plan.type == "memcached":
        importlib.import_module("lb.cache.tiers.memcached")
        return
    importlib.import_module("lb.cache.tiers.redis")
    with contextlib.suppress(ImportError):
        importlib.import_module("redis.asyncio")


def build(plan: TierPlan, invalidated: Invalidated | None = None, quiet: bool = False) -> Tier:
    """The tier of a configuration, to be started; see Tier. Raises TierError when a package is missing."""
    limits = plan.timeout_ns, plan.connect_timeout_ns, plan.ttl_max_ns
    return Tier(store(plan), Codec(plan.secret), *limits, invalidated, quiet=quiet)


def store(plan: TierPlan) -> TierStore:
    if plan.type == "memcached":
        from lb.cache.tiers.memcached import MemcachedStore

        return MemcachedStore(plan)
    from lb.cache.tiers.redis import RedisStore

    return RedisStore(plan)
