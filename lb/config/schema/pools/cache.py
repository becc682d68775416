"""How the result cache treats the answers of a pool's models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from lb.config.schema.routes.cache import FreshnessConfig, ModelCache, switch

ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class PoolCacheConfig(FreshnessConfig):
    """How the result cache treats the answers of the pool's models."""

    models: Annotated[dict[ModelName, ModelCache], Field(max_length=4096)] = {}
    """Models that differ, by name: a mapping as this one, or `false` for models whose answers must not be kept, since
    they change for the same input."""

    rows: list[ModelName] = []
    """Models whose batches are cached row by row. The answer to a row must not depend on the other rows of its batch;
    `tidegate cache verify-rows MODEL` tries whether that is so. A row then has the entry of a request with this row
    alone, and the model server is asked for the rows that are missing, equal ones once. Batches of 2 to 1,024 rows are
    taken apart where all inputs have the same first dimension; other requests are cached as a whole, as those of other
    models are. Each row costs its worker about a microsecond. [Cache rows](howto/cache-rows.md)."""


PoolCache = Annotated[PoolCacheConfig | None, switch(PoolCacheConfig)]


def check_pool_cache(path: str, cache: PoolCacheConfig, protocol: str, cached: bool) -> Iterator[tuple[str, str]]:
    """What does not go together, as (path, message); `cached` says whether the file has a result cache."""
    if protocol != "oip":
        yield path, "only for protocol oip: the result cache keeps answers of inference"
    elif not cached:
        yield path, "there is no cache; add a section cache: {}"
    seen: dict[str, int] = {}
    for i, model in enumerate(cache.rows):
        if seen.setdefault(model, i) != i:
            yield f"{path}.rows[{i}]", f"{model!r} is in the list already"
