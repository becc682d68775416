"""The admin API of the result cache.

    GET  /api/v1/cache             counters: of the cache, and of the routes whose requests come to it
         /api/v1/cache/top?last=20 the most requested entries
    POST /api/v1/cache/purge       a Purge: what of the cache is not to be answered with any more

404 where there is no cache, or no such pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lb.cache.tags import LONGEST
from lb.control.admin.answers import invalid, json_answer, refusal
from lb.errors import ConfigError

if TYPE_CHECKING:
    from lb.control.master import Master

_MOST = 1000  # entries of an answer

_LONGEST_URL = 16384  # bytes; no larger head is read

_Name = Annotated[str, Field(min_length=1, max_length=LONGEST)]


class Purge(BaseModel):
    """The body of POST /api/v1/cache/purge: each of what is named is purged. `pool` beside `model` says whose model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tag: _Name | None = None
    pool: _Name | None = None
    model: _Name | None = None
    version: _Name | None = None
    tenant: _Name | None = None
    url: Annotated[str, Field(min_length=1, max_length=_LONGEST_URL)] | None = None
    all: bool = False


class CacheApi:
    """Handlers for the admin server."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/cache", self._stats),
            web.get("/api/v1/cache/top", self._top),
            web.post("/api/v1/cache/purge", self._purge),
        ]

    async def _stats(self, request: web.Request) -> web.Response:
        try:
            found = self._master.cache.stats()
            return json_answer({**found, "tier": self._master.tier.status(), "cdns": self._master.cdns.status()})
        except ConfigError as error:
            return refusal(str(error), 404)

    async def _top(self, request: web.Request) -> web.Response:
        last = request.query.get("last", "20")
        if not (last.isascii() and last.isdigit() and len(last) <= len(str(_MOST)) and 1 <= int(last) <= _MOST):
            return refusal(f"last: is a number from 1 to {_MOST}")
        try:
            return json_answer(await self._master.cache.top(int(last)))
        except ConfigError as error:
            return refusal(str(error), 404)

    async def _purge(self, request: web.Request) -> web.Response:
        """`purged` has the tags; of `all` it is empty."""
        try:
            wanted = Purge.model_validate_json(await request.read())
        except ValidationError as error:
            return invalid(error)
        named = wanted.model_dump(exclude={"all"}, exclude_none=True)
        if wanted.all == bool(named):
            none = "nothing is named: tag, model, pool, tenant, url or all"
            return refusal("all: is all of it; leave the rest out" if named else none)
        if wanted.version is not None and wanted.model is None:
            return refusal("version: of which model?")
        try:
            if wanted.all:
                await self._master.cache.purge_all()
            purged = [] if wanted.all else self._master.cache.purge(**named)
            await self._master.cache.settled()
            return json_answer({"purged": purged})
        except ConfigError as error:
            return refusal(str(error), 404)
        except ValueError as error:
            return refusal(f"url: {error}")
