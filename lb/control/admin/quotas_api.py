"""The admin API of quotas.

    GET  /api/v1/quotas?quota=daily&key=team-a&last=100   the quotas, and clients that have used something, those first
                                                          that have used the largest part
    POST /api/v1/quotas                                   a Reset: a client has all of its quotas again

404 where there is no such quota, or the client has used nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lb.control.admin.answers import invalid, json_answer, refusal
from lb.control.admin.operator import operator_of
from lb.errors import ConfigError

if TYPE_CHECKING:
    from lb.control.master import Master

log = logging.getLogger("tidegate.quotas")

_MOST = 10_000  # clients of an answer


class Reset(BaseModel):
    """The body of POST /api/v1/quotas: of all quotas, or of one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reset: Annotated[str, Field(min_length=1, max_length=256)]
    quota: str | None = None
    dry_run: bool = False


class QuotasApi:
    """Handlers for the admin server."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/quotas", self._list), web.post("/api/v1/quotas", self._reset)]

    async def _list(self, request: web.Request) -> web.Response:
        last = request.query.get("last", "100")
        if not (last.isascii() and last.isdigit() and len(last) < 9 and 1 <= int(last) <= _MOST):
            return refusal(f"last: is a number from 1 to {_MOST}")
        try:
            # Of tens of thousands of clients: not in the loop.
            found = await asyncio.to_thread(
                self._master.quotas.clients, request.query.get("quota"), request.query.get("key")
            )
        except ConfigError as error:
            return refusal(str(error), 404)
        status = self._master.quotas.status()
        return json_answer({**status, "clients": found[: int(last)], "left_out": max(0, len(found) - int(last))})

    async def _reset(self, request: web.Request) -> web.Response:
        try:
            asked = Reset.model_validate_json(await request.read())
        except ValidationError as error:
            return invalid(error)
        try:
            found = await self._master.quotas.reset(asked.reset, asked.quota, asked.dry_run)
        except ConfigError as error:
            return refusal(str(error), 404)
        if not found:
            return refusal(f"{asked.reset} has used nothing", 404)
        if not asked.dry_run:
            by = operator_of(request)
            for row in found:
                log.info("quota %s of %s: 0 used, before %d, by %s", row["quota"], row["key"], row["used"], by)
        return json_answer({"reset": found, "dry_run": asked.dry_run})
