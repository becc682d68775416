"""The disk behind the memory of the cache, for answers of routes with `http_cache`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lb.config.plan.caching import DiskPlan
from lb.config.schema.base import FilePath
from lb.config.schema.pools.platforms import RareModel
from lb.config.units import GIB, KIB, MIB, TIB, Size


def _largest(data: dict[str, Any]) -> int:
    return min(16 * MIB, int(data.get("max_size", TIB)) // 16)


class DiskConfig(RareModel):
    """A folder behind the memory of the cache, for answers of routes with `http_cache`: what memory has no room for, or
    is too large for it, and what was kept before a restart. A disk that is full, fails or hangs is a line in the log
    and `tidegate_cache_disk_failing`; requests go on without it. Changing the section needs a restart. How it works:
    [Keep answers on disk](howto/cache-http.md#keep-answers-on-disk)."""

    path: FilePath
    """The folder, on a local file system, for one daemon alone. It is made if it is not there. Only the daemon's user
    may read it: it has answers and the secret of their keys."""
    max_size: Size = Field(default=10 * GIB, ge=16 * MIB)
    """Room for answers, in whole blocks of 4 KiB, divided equally among the workers."""
    max_object: Size = Field(default_factory=_largest, ge=1 * KIB, le=1 * GIB)
    """Largest answer that is kept, with its head; it may be more than `max_object` of the section `cache`. Default:
    `16MiB`, or a sixteenth of `max_size` where that is less."""


def disk_plan(config: DiskConfig | None) -> DiskPlan | None:
    """What `config` compiles to."""
    if config is None:
        return None
    return DiskPlan(str(config.path), config.max_size, config.max_object)
