"""The admin API of canaries.

    GET  /api/v1/canaries   all of them, each with its history, newest first
    POST /api/v1/canaries   a Wish: one is promoted, taken back, or begins anew

404 where the route has no canary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from lb.control.admin.answers import invalid, json_answer, refusal
from lb.control.admin.operator import operator_of
from lb.errors import ConfigError

if TYPE_CHECKING:
    from lb.control.master import Master


class CanaryBody(BaseModel):
    """The body of POST /api/v1/canaries."""

    model_config = ConfigDict(extra="forbid", strict=True)

    route: str
    action: Literal["promote", "abort", "retry"]
    dry_run: bool = False


class CanaryApi:
    """Handlers for the admin server."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/canaries", self._list), web.post("/api/v1/canaries", self._act)]

    async def _list(self, request: web.Request) -> web.Response:
        return json_answer({"canaries": self._master.canaries.history()})

    async def _act(self, request: web.Request) -> web.Response:
        try:
            body = CanaryBody.model_validate_json(await request.read())
        except ValidationError as error:
            return invalid(error)
        try:
            row, changed = await self._master.canaries.act(body.route, body.action, operator_of(request), body.dry_run)
        except ConfigError as error:
            return refusal(str(error), 404)
        return json_answer({"canary": row, "changed": changed, "dry_run": body.dry_run})
