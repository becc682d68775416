"""The result cache: how long it keeps answers (of the whole file, of a pool, of a model, of a route), and for whom."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from lb.config.plan.caching import FreshnessPlan
from lb.config.schema.base import Boolean, Model, problem
from lb.config.schema.routes.cache_key import CacheKeyConfig
from lb.config.units import MILLISECOND, Duration


class FreshnessConfig(Model):
    """How long answers are kept, and what they are good for then. Of each setting the most particular counts that is
    given: that of the route, of the model, of the pool, of the section `cache`."""

    ttl: Duration | None = Field(default=None, ge=MILLISECOND)
    """How long an answer is fresh. Default: as the next wider section says."""
    stale_while_revalidate: Duration | None = None
    """Time after that in which requests still get the answer at once, while one call in the background makes it anew
    (RFC 5861). Default: as the next wider section says."""
    stale_if_error: Duration | None = None
    """Time after `ttl` in which requests get the answer in place of a failure: no endpoint, no connection, no answer in
    time, or 500, 502, 503 or 504 (RFC 5861). Default: as the next wider section says."""
    refresh_early: Boolean | None = None
    """Whether an answer that is asked for often is made anew shortly before it is stale, by one call in the background.
    Default: as the next wider section says."""
    negative_ttl: Duration | None = None
    """How long errors are kept that are the request's own fault (gRPC's `INVALID_ARGUMENT` and `NOT_FOUND`). `0s`: not
    at all. Default: as the next wider section says."""


def switch(kind: type[Model], example: str = "{ttl: 10m}") -> BeforeValidator:
    """A validator of a boolean, or a mapping such as `example`: `true` is the mapping without keys, `false` is None."""

    def expand(value: Any) -> Any:
        if value is True:
            return kind()
        if isinstance(value, str | int | float) and value is not False:
            raise problem("cache", f"must be true or false, or a mapping such as {example}")
        return None if value is False else value

    return BeforeValidator(expand, json_schema_input_type=bool | kind)


ModelCache = Annotated[FreshnessConfig | None, switch(FreshnessConfig)]


class RouteCacheConfig(CacheKeyConfig, FreshnessConfig):
    """The result cache for requests of a route: how long answers are kept, and which requests share them."""

    client_tags: Boolean = False
    """Whether clients name things that their answers depend on, in the field `Cache-Tag` of their requests (names with
    commas or spaces between them, 4 at most): a purge of such a tag then takes the answer. Requests share answers
    where these names are the same."""
    results_by_get: Boolean = False
    """Whether an answer that is in the cache has a URL, which `Content-Location` of the answer to the POST says
    (`results/TOKEN`, beside `infer`): GET gives the same outputs as JSON, with what a CDN needs to keep them
    ([Behind a CDN](howto/operate-the-cache.md#behind-a-cdn)). Whoever has the URL may read the answer; with `tenant`
    and `vary` the GET has to name the same tenant and headers."""


RouteCache = Annotated[RouteCacheConfig | None, switch(RouteCacheConfig)]


def freshness_plan(*configs: FreshnessConfig) -> FreshnessPlan:
    """What `configs` say together, the most particular first; -1 where none of them says anything."""

    def first(name: str) -> int:
        return next((int(found) for config in configs if (found := getattr(config, name)) is not None), -1)

    return FreshnessPlan(
        first("ttl"),
        first("stale_while_revalidate"),
        first("stale_if_error"),
        first("negative_ttl"),
        first("refresh_early"),
    )
