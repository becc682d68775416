"""The admin API of stick tables.

    GET  /api/v1/tables?table=clients&key=192.0.2.7&filter=request_rate>100&last=100   the tables, and entries of one,
                                                                                       those first that were used last
    POST /api/v1/tables   a Change: entries are cleared, or what is counted of a key is set

404 where there is no such table, or no such entry.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lb.config.plan.tables import FIELDS
from lb.config.schema.base import did_you_mean
from lb.control.admin.answers import invalid, json_answer, refusal
from lb.control.admin.operator import operator_of
from lb.control.tables import Holds
from lb.errors import ConfigError

if TYPE_CHECKING:
    from lb.control.master import Master

log = logging.getLogger("tidegate.tables")

_MOST = 10_000  # entries of an answer
_FILTER = re.compile(r"([a-z0-9_]+)\s*(>=|<=|==|!=|>|<)\s*([0-9]{1,19})", re.ASCII)
_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


class Change(BaseModel):
    """The body of POST /api/v1/tables. `clear` needs one of `key`, `filter` and `all`; `set` needs `key` and
    `values`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    table: str
    action: Literal["clear", "set"]
    key: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    filter: str | None = None
    all: bool = False
    values: dict[str, Annotated[int, Field(ge=0, lt=1 << 63)]] = {}
    dry_run: bool = False

    @model_validator(mode="after")
    def _known(self) -> Change:
        given = [name for name in ("key", "filter", "all") if getattr(self, name)]
        if self.action == "clear" and (len(given) != 1 or self.values):
            raise ValueError("clear needs one of key, filter and all")
        if self.action == "set" and (given != ["key"] or not self.values):
            raise ValueError("set needs key and values")
        return self


class TablesApi:
    """Handlers for the admin server."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/tables", self._list), web.post("/api/v1/tables", self._change)]

    async def _list(self, request: web.Request) -> web.Response:
        asked, last = request.query, request.query.get("last", "100")
        if not (last.isascii() and last.isdigit() and len(last) < 9 and 1 <= int(last) <= _MOST):
            return refusal(f"last: is a number from 1 to {_MOST}")
        tables = self._master.tables.status()
        name = asked.get("table") or (tables[0]["name"] if len(tables) == 1 else None)
        if name is None:
            if "key" in asked or "filter" in asked:
                return refusal("table: say of which table")
            return json_answer({"tables": tables, "table": None, "entries": [], "left_out": 0})
        try:
            found = await self._entries(name, asked.get("key"), _filter(asked.get("filter")))
        except ValueError as error:
            return refusal(f"filter: {error}")
        except ConfigError as error:
            return refusal(str(error), 404)
        most = int(last)
        return json_answer(
            {"tables": tables, "table": name, "entries": found[:most], "left_out": max(0, len(found) - most)}
        )

    async def _change(self, request: web.Request) -> web.Response:
        try:
            asked = Change.model_validate_json(await request.read())
        except ValidationError as error:
            return invalid(error)
        by = operator_of(request)
        try:
            holds = _filter(asked.filter)
            found = await self._entries(asked.table, asked.key, holds)
            if asked.action == "set" and asked.key is not None:
                if not asked.dry_run:
                    self._master.tables.put(asked.table, asked.key, asked.values)
                    log.info("table %s: %s has %s, by %s", asked.table, asked.key, asked.values, by)
                    found = await self._entries(asked.table, asked.key, None)
                return json_answer({"entries": found, "dry_run": asked.dry_run})
            if asked.key is not None and not found:
                return refusal(f"table {asked.table} has no entry {asked.key}", 404)
            if not asked.dry_run:
                cleared = await asyncio.to_thread(self._master.tables.clear, asked.table, asked.key, holds)
                log.info("table %s: %d entries cleared, by %s", asked.table, cleared, by)
        except ValueError as error:
            return refusal(f"filter: {error}")
        except ConfigError as error:
            return refusal(str(error), 404)
        return json_answer({"entries": found[:_MOST], "cleared": len(found), "dry_run": asked.dry_run})

    async def _entries(self, table: str, key: str | None, holds: Holds | None) -> list[dict[str, Any]]:
        # Of tens of thousands of entries: not in the loop.
        return await asyncio.to_thread(self._master.tables.entries, table, key, holds)


def _filter(text: str | None) -> Holds | None:
    """`request_rate>100`. Raises ValueError."""
    if text is None:
        return None
    found = _FILTER.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no comparison such as request_rate>100")
    field, how, number = found[1], _OPERATORS[found[2]], int(found[3])
    if field not in FIELDS:
        raise ValueError(f"tables store no {field!r}{did_you_mean(field, FIELDS)}")
    return lambda values: field in values and how(values[field], number)
