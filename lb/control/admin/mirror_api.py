"""The admin API of mirrors.

GET /api/v1/mirrors?route=NAME   what comparing answers has found (lb.control.comparisons), of one route or of all; 404
                                 where the route compares nothing. Differences beyond every number are null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from aiohttp import web

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
            document, status = {"mirrors": self._master.comparisons.report(request.query.get("route"))}, 200
        except ConfigError as error:
            return web.json_response({"error": str(error)}, status=404)
        return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")
