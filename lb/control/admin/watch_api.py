"""The admin API of the watch, which the dashboard is made of.

GET /api/v1/overview   verdict, problems, listeners, routes, pools, endpoints and models with their last sample;
                       fresh=yes makes it anew, else it is at most a second old
GET /api/v1/history?of=total&after=N   samples of the last half hour with a number above `after`; also of=listener,
                       of=route or of=pool with name=, and of=endpoint or of=model with pool= and name=
POST /api/v1/alerts/test   one attempt to tell each webhook that nothing is wrong: {ok, receivers: [{receiver, status}]}
GET /api/v1/heat?pool=NAME   the half hour of each endpoint of a pool in 60 columns
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from lb.control.admin.answers import json_answer, refusal
from lb.control.admin.operator import operator_of
from lb.errors import TidegateError

if TYPE_CHECKING:
    from lb.control.master import Master

_CELLS = 60
_DIGITS = 15


class WatchApi:
    """Handlers for the admin server. Numbers that are unknown are null. Large documents are written beside the loop."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/overview", self._overview),
            web.get("/api/v1/history", self._history),
            web.get("/api/v1/heat", self._heat),
            web.post("/api/v1/alerts/test", self._test_alerts),
        ]

    async def _overview(self, request: web.Request) -> web.Response:
        return await asyncio.to_thread(
            json_answer, self._master.watch.overview(fresh=request.query.get("fresh") == "yes")
        )

    async def _history(self, request: web.Request) -> web.Response:
        kind, name = request.query.get("of", "total"), request.query.get("name", "")
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) <= _DIGITS):
            return refusal("after: is the number of a sample")
        if kind not in ("total", "listener", "route", "pool", "endpoint", "model"):
            return refusal("of: is one of total, listener, route, pool, endpoint, model")
        key: tuple[str, ...] = (kind,) if kind == "total" else (kind, name)
        if kind in ("endpoint", "model"):
            key = (kind, request.query.get("pool", ""), name)
        found = self._master.watch.history.series(key, int(after))
        return await asyncio.to_thread(json_answer, found)

    async def _test_alerts(self, request: web.Request) -> web.Response:
        """409 without webhooks, and while another test is under way; 502 where one of them did not take it."""
        try:
            found = await self._master.watch.test_alerts(operator_of(request))
        except TidegateError as error:
            return refusal(str(error), 409)
        ok = all(200 <= row["status"] < 300 for row in found)
        return json_answer({"ok": ok, "receivers": found}, 200 if ok else 502)

    async def _heat(self, request: web.Request) -> web.Response:
        found = self._master.watch.history.heat(request.query.get("pool", ""), _CELLS)
        return await asyncio.to_thread(json_answer, found)
