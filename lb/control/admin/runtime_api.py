"""The admin API of what operators change while the daemon runs, and of the running configuration.

    GET  /api/v1/changes               what has been changed and is in force
         /api/v1/settings              the settings that can be changed
         /api/v1/config                the running configuration: the file that was loaded last, with the changes
         /api/v1/config/diff           what differs between it and the file on disk
    POST /api/v1/settings              a SettingsUpdate
         /api/v1/scale                 a Scale: the number of model servers or replicas of a pool
         /api/v1/certificates/reload   takes certificates that have changed on disk into use

All that change something take `dry_run`, which answers with what would change. Nothing of it reads the configuration
file but `config/diff`, so that all of it works while that is broken.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lb.config import settings
from lb.control.admin.answers import invalid, json_answer, refusal
from lb.control.admin.operator import operator_of
from lb.control.changes import RESET
from lb.control.running import difference, running_data
from lb.errors import ConfigError, TidegateError

if TYPE_CHECKING:
    from lb.control.master import Master

_MOST = 100  # settings of an update
_AUTOMATIC = "automatic"

_Name = Annotated[str, Field(min_length=1, max_length=512)]
_Value = str | int | float | bool | None


class SettingsUpdate(BaseModel):
    """The body of POST /api/v1/settings: all of it takes effect, or nothing. `reset` are those that are to have the
    file's value again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    values: dict[_Name, _Value] = {}
    reset: list[_Name] = []
    dry_run: bool = False


class Scale(BaseModel):
    """The body of POST /api/v1/scale."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pool: _Name
    replicas: int | Literal["automatic"]
    dry_run: bool = False


class DryRun(BaseModel):
    """The body of a POST without other fields."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dry_run: bool = False


class RuntimeApi:
    """Handlers for the admin server."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/changes", self._changes),
            web.get("/api/v1/settings", self._settings),
            web.post("/api/v1/settings", self._change),
            web.post("/api/v1/scale", self._scale),
            web.post("/api/v1/certificates/reload", self._certificates),
            web.get("/api/v1/config", self._config),
            web.get("/api/v1/config/diff", self._diff),
        ]

    async def _changes(self, request: web.Request) -> web.Response:
        return json_answer({"changes": self._master.changes()})

    async def _settings(self, request: web.Request) -> web.Response:
        return json_answer({"settings": settings.known()})

    async def _change(self, request: web.Request) -> web.Response:
        """What differs, {setting, from, to}."""
        try:
            update = SettingsUpdate.model_validate_json(await request.read())
        except ValidationError as error:
            return invalid(error)
        if not update.values and not update.reset:
            return refusal("nothing is named: values or reset")
        if len(update.values) + len(update.reset) > _MOST:
            return refusal(f"more than {_MOST} settings at once")
        twice = update.values.keys() & set(update.reset)
        if twice:
            return refusal(f"{min(twice)}: a value, or reset?")
        wanted = {**update.values, **dict.fromkeys(update.reset, RESET)}
        return await self._apply(request, wanted, update.dry_run)

    async def _scale(self, request: web.Request) -> web.Response:
        """What differs, as for settings; the pool's setting is `pools.NAME.replicas`."""
        try:
            scale = Scale.model_validate_json(await request.read())
        except ValidationError as error:
            return invalid(error)
        replicas = RESET if scale.replicas == _AUTOMATIC else scale.replicas
        return await self._apply(request, {f"pools.{scale.pool}.{settings.REPLICAS}": replicas}, scale.dry_run)

    async def _apply(self, request: web.Request, wanted: dict[str, Any], dry_run: bool) -> web.Response:
        try:
            rows = await self._master.change_settings(wanted, operator_of(request), dry_run)
        except ConfigError as error:
            return json_answer({"error": str(error), "problems": error.problems}, 400)
        except TidegateError as error:
            return refusal(str(error), 409)
        return json_answer({"changed": rows, "dry_run": dry_run})

    async def _certificates(self, request: web.Request) -> web.Response:
        """{ok, changed: [file], maps: [name], problems}; 409 where the files on disk cannot be used."""
        try:
            asked = DryRun.model_validate_json(await request.read() or b"{}")
        except ValidationError as error:
            return invalid(error)
        found = await self._master.reload_certificates(asked.dry_run)
        return json_answer({**found, "dry_run": asked.dry_run}, 200 if found["ok"] else 409)

    async def _config(self, request: web.Request) -> web.Response:
        """{path, config, changes}: `config` as plain data, spelled as in the file, without secrets."""
        master = self._master
        data = await asyncio.to_thread(running_data, master.publisher.loaded.text, master.settings)
        config = settings.without_secrets(data)
        return json_answer({"path": str(master.config_path), "config": config, "changes": master.changes()})

    async def _diff(self, request: web.Request) -> web.Response:
        """{path, differences: [{setting, running, file}], problems, notes, changes}: `problems` are what is wrong with
        the file on disk, `notes` what needs a restart."""
        master = self._master
        found = await asyncio.to_thread(difference, master.config_path, master.publisher.loaded.text)
        notes = master.last_reload.notes if master.last_reload is not None else ()
        return json_answer({"path": str(master.config_path), **found, "notes": notes, "changes": master.changes()})
