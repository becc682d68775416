"""What sets answers in the result cache apart besides the question: how it is written, and what it compiles to."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from lb.config.plan.access import IDENTITY
from lb.config.plan.cache_key import CacheKeyPlan
from lb.config.schema.base import Boolean, FieldName, Model, only_one

_KEYS = ("header", "cookie", "query", "identity")


class TenantConfig(Model):
    """What names the tenant of a request. Exactly one of the four."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [k]} for k in _KEYS]})

    header: FieldName | None = None
    """Value of this request header (metadata of gRPC). Clients can invent values: take a header that something in front
    has checked."""
    cookie: FieldName | None = None
    """Value of this cookie."""
    query: str | None = Field(default=None, min_length=1, max_length=256)
    """Value of this parameter of the query."""
    identity: Boolean = False
    """Who the request is from (`identity: true`), by `auth` of the route."""

    @property
    def key(self) -> tuple[str, str]:
        """Kind (header, cookie or query) and name, that of a header in lower case."""
        if self.identity:
            return "header", IDENTITY
        kind, name = next((kind, value) for kind in _KEYS[:3] if (value := getattr(self, kind)) is not None)
        return kind, name.lower() if kind == "header" else name

    @model_validator(mode="after")
    def _one(self) -> TenantConfig:
        only_one(self, _KEYS)
        return self


class CacheKeyConfig(Model):
    """What decides, besides the question, which answer of the cache a request gets. With `vary` or `tenant`, a stale
    answer is made anew for the request that finds it, not in the background: a call there has no headers."""

    vary: Annotated[list[FieldName], Field(max_length=16)] = []
    """Request headers (metadata of gRPC) whose values the answer depends on: requests share answers where these are
    equal, byte for byte. Default: none."""
    tenant: TenantConfig | None = None
    """Tenants do not get each other's answers. A request that names none, or more than one, passes the cache by. The
    key has a keyed hash of the name; answers carry the tag `tenant:NAME`. Default: all share."""
    honor_cache_control: Boolean = False
    """Whether clients may say in `Cache-Control` that they want an answer made anew, which may be kept (`no-cache`,
    `max-age=0`), or none that is kept (`no-store`). Any client can ask the endpoints then, as often as it may ask."""


def cache_key_plan(config: CacheKeyConfig) -> CacheKeyPlan | None:
    """None where the question decides alone."""
    kind, name = config.tenant.key if config.tenant is not None else ("", "")
    plan = CacheKeyPlan(
        tuple(sorted({header.lower() for header in config.vary})), kind, name, config.honor_cache_control
    )
    return None if plan == CacheKeyPlan() else plan
