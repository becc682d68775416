"""The admin API of jobs.

    GET  /api/v1/jobs?state=dead&last=100   the last jobs of all tenants, newest first; without `state` in any
    POST /api/v1/jobs                       a Change: one job is queued anew or cancelled

404 where there are no jobs, or no such job; 409 for a job in a state of which that cannot be asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lb.control.admin.answers import invalid, json_answer, refusal
from lb.errors import ConfigError, StartError
from lb.jobs.job import State

if TYPE_CHECKING:
    from lb.control.master import Master

_MOST = 10_000  # jobs of an answer


class Change(BaseModel):
    """The body of POST /api/v1/jobs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: Annotated[str, Field(min_length=1, max_length=64)]
    action: Literal["retry", "cancel"]


class JobsApi:
    """Handlers for the admin server."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/jobs", self._list), web.post("/api/v1/jobs", self._change)]

    async def _list(self, request: web.Request) -> web.Response:
        state, last = request.query.get("state"), request.query.get("last", "100")
        if state is not None and state not in list(State):
            return refusal(f"state: is one of {', '.join(State)}")
        if not (last.isascii() and last.isdigit() and len(last) < 9 and 1 <= int(last) <= _MOST):
            return refusal(f"last: is a number from 1 to {_MOST}")
        return await self._ask({"list": state, "last": int(last)})

    async def _change(self, request: web.Request) -> web.Response:
        try:
            change = Change.model_validate_json(await request.read())
        except ValidationError as error:
            return invalid(error)
        return await self._ask({change.action: change.job})

    async def _ask(self, asked: dict[str, Any]) -> web.Response:
        try:
            found = await self._master.jobs.ask(asked)
        except ConfigError as error:
            return refusal(str(error), 404)
        except StartError as error:
            return refusal(str(error), 503)
        if "jobs" in found:
            return json_answer({"jobs": found["jobs"]})
        if found["job"] is None:
            return refusal("there is no such job, or it has expired", 404)
        if not found["done"]:
            return json_answer({"error": f"the job is {found['job']['state']}", "job": found["job"]}, 409)
        return json_answer({"job": found["job"]})
