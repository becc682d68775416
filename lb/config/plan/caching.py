"""The plan of how long answers are kept in the result cache."""

from __future__ import annotations

from msgspec import Struct


class FreshnessPlan(Struct, frozen=True):
    """Times of an answer in ns; -1 = as the next wider plan says."""

    ttl_ns: int = -1
    stale_ns: int = -1  # after it: good while it is made anew
    error_ns: int = -1  # after it: good in the place of a failure
    negative_ns: int = -1  # of errors that are the request's own fault; 0 = they are not kept
    early: int = -1  # 1 = made anew before it is stale, 0 = not


class ModelCachePlan(Struct, frozen=True):
    """What differs for the answers of a model."""

    name: str
    freshness: FreshnessPlan | None  # None = they are not kept


class PoolCachePlan(Struct, frozen=True):
    """How long answers of a pool are kept, unless the route says otherwise. Nothing of it is left open."""

    freshness: FreshnessPlan
    models: tuple[ModelCachePlan, ...] = ()


class DiskPlan(Struct, frozen=True):
    """The disk behind the result cache; sizes in bytes."""

    path: str  # a folder
    max_size: int
    max_object: int
