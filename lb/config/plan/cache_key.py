"""The plan of what sets answers in the result cache apart, besides what requests ask for."""

from __future__ import annotations

from msgspec import Struct


class CacheKeyPlan(Struct, frozen=True):
    """A route's."""

    vary: tuple[str, ...] = ()  # request headers, lower case, in the order of the names
    tenant: str = ""  # "" (all share) | header | cookie | query
    tenant_name: str = ""  # name of the header (lower case), cookie or query parameter
    control: bool = False  # clients may say no-cache and no-store
