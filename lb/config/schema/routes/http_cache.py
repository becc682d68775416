"""HTTP caching of a route: answers of plain HTTP endpoints kept as a shared cache does (RFC 9111)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lb.config.plan.routes import HttpCachePlan
from lb.config.schema.base import Boolean, FieldName, Model
from lb.config.schema.routes.cache import switch
from lb.config.units import KIB, SECOND, Duration, Size


class HttpCacheKeyConfig(Model):
    """What tells requests apart besides scheme, host and path. What an answer's `Vary` names counts as well."""

    query: Boolean = True
    """Whether the query counts. Without it all queries of a path get one answer."""
    headers: Annotated[list[FieldName], Field(max_length=8)] = Field(default_factory=list)
    """Request headers that count for every answer, whatever its `Vary` says."""


class HttpCacheConfig(Model):
    """Answers of endpoints kept in the memory of the section `cache`, as a shared cache by RFC 9111 does: what is
    kept, and for how long, is the answers' word (`Cache-Control`, `Expires`, `Last-Modified`; before these
    `Tidegate-Cache-Control`, then `CDN-Cache-Control`). `http_cache: true` is an empty mapping."""

    ttl: Duration | None = None
    """How long an answer stays fresh that says nothing of that, and whose status may be kept (RFC 9110 section 15.1).
    Answers to requests with a `Cookie` are left out. Default: a tenth of the time since its `Last-Modified`, one day
    at most; without that field it is not kept."""
    stale_while_revalidate: Duration | None = None
    """How long a stale answer is given while it is made anew, where the answer itself does not say
    (`stale-while-revalidate`, RFC 5861). Default: not at all."""
    stale_if_error: Duration | None = None
    """How long a stale answer is given in the place of 500, 502, 503 and 504, also of Tidegate's own, where the answer
    itself does not say (`stale-if-error`, RFC 5861). Default: not at all."""
    max_object: Size | None = Field(default=None, ge=1 * KIB)
    """Largest answer that is kept, with its head. Default: `max_object` of the section `cache`."""
    ignore_set_cookie: Boolean = False
    """Whether answers with `Set-Cookie` are kept, without that header. Otherwise they are not kept at all: what sets a
    cookie is often one user's."""
    request_directives: Boolean = True
    """Whether `Cache-Control` and `Pragma` of requests are followed. Without them no client can have the endpoints
    asked for an answer that is fresh."""
    key: HttpCacheKeyConfig = HttpCacheKeyConfig()
    """What tells requests apart."""


HttpCache = Annotated[HttpCacheConfig | None, switch(HttpCacheConfig)]


def http_cache_plan(config: HttpCacheConfig | None) -> HttpCachePlan | None:
    """What `config` compiles to."""
    if config is None:
        return None
    return HttpCachePlan(
        ttl_s=_seconds(config.ttl),
        stale_while_revalidate_s=_seconds(config.stale_while_revalidate),
        stale_if_error_s=_seconds(config.stale_if_error),
        max_object=config.max_object or 0,
        ignore_set_cookie=config.ignore_set_cookie,
        request_directives=config.request_directives,
        query=config.key.query,
        headers=tuple(name.lower() for name in config.key.headers),
    )


def _seconds(duration: int | None) -> int:
    """Whole seconds, as HTTP counts them; a part of one counts as one."""
    return -(-(duration or 0) // SECOND)
