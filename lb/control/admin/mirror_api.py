"""The admin API of mirrors.

GET /api/v1/mirrors?route=NAME   what comparing answers has found (lb.control.comparisons), of one route or of all; 404
                                 where the route compares nothing. Differences beyond every number are null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from lb.control.admin.answers import json_answer, refusal
from lb.errors import ConfigError

if TYPE_CHECKING:
    from lb.control.master import Master


class MirrorApi:
    """Handlers for the admin server."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/mirrors", self._report)]

    async def _report(self, request: web.Request) -> web.Response:
        try:
            return json_answer({"mirrors": self._master.comparisons.report(request.query.get("route"))})
        except ConfigError as error:
            return refusal(str(error), 404)
