"""Settings that operators have changed since the file was loaded: what they are, since when, and by whom.

A change outlives workers and reloads. It ends when it is reset, when a reload brings another value of the setting in
the file than the file had when it was made, when what it belongs to is gone, and with the daemon (an
upgrade is the same daemon).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from lb.balancing.policy_checks import check_policies
from lb.config import settings
from lb.config.schema.file import Config
from lb.config.settings import Setting
from lb.errors import ConfigError

RESET = object()  # as a value: the file's


class Change(Struct, frozen=True):
    """A setting whose value is not the file's. Values are spelled as in the file."""

    setting: Setting
    value: Any
    file: Any
    at: float  # Unix time, seconds
    by: str
    anchor: Any = None  # see settings.anchor

    def describe(self) -> dict[str, Any]:
        """Its row of the status document."""
        return {"setting": self.setting.name, "value": self.value, "file": self.file, "at": self.at, "by": self.by}


class Settings(Struct, frozen=True):
    """The configuration of a file, and the changes that are in force, by the setting's name. Immutable: what makes
    others returns them, to be put in force once the workers have them."""

    file: Config
    changes: Mapping[str, Change] = {}

    @classmethod
    def remembered(cls, file: Config, rows: Iterable[Mapping[str, Any]]) -> tuple[Settings, list[str]]:
        """Those of before an upgrade, by their rows, over the file as it is now; and why each of the others has
        ended."""
        changes: dict[str, Change] = {}
        ended: list[str] = []
        for row in rows:
            name = row["setting"]
            try:
                setting = settings.find(file, name)
            except ConfigError as error:
                ended.append(f"{name}: {row['value']} ends: {error}")
                continue
            anchor = settings.anchor(file, setting)
            changes[setting.name] = Change(setting, row["value"], row["file"], row["at"], row["by"], anchor)
        found, more = cls(file, changes).over(file)
        return found, [*ended, *more]

    def rows(self) -> list[dict[str, Any]]:
        return [change.describe() for change in self.changes.values()]

    @property
    def config(self) -> Config:
        """The file's configuration with the changes. Raises ConfigError when they do not go with it."""
        values = {change.setting: change.value for change in self.changes.values()}
        return settings.with_values(self.file, values, [check_policies]) if values else self.file

    def changed(
        self, wanted: Mapping[str, Any], by: str, clock: Callable[[], float] = time.time
    ) -> tuple[Settings, list[dict[str, Any]]]:
        """These with further changes; RESET gives a setting the file's value again. The second value has what differs:
        {setting, from, to}. Raises ConfigError with every problem."""
        changes = dict(self.changes)
        before = self.config
        found = {}
        for name, value in wanted.items():
            setting = settings.find(self.file, name)
            found[setting] = settings.value(before, setting)
            changes.pop(setting.name, None)
            if value is not RESET:
                file = settings.value(self.file, setting)
                changes[setting.name] = Change(setting, value, file, clock(), by, settings.anchor(self.file, setting))
        config = Settings(self.file, changes).config
        rows = []
        for setting, was in found.items():
            now = settings.value(config, setting)
            if now != was:
                rows.append({"setting": setting.name, "from": was, "to": now})
            change = changes.get(setting.name)
            if change is not None and now == change.file:  # as the file has it: nothing is changed
                del changes[setting.name]
            elif change is not None:
                changes[setting.name] = replace(change, value=now)
        return Settings(self.file, changes), rows

    def over(self, file: Config) -> tuple[Settings, list[str]]:
        """The changes that go on over a file that was loaded anew, and why each of the others has ended."""
        kept: dict[str, Change] = {}
        ended: list[str] = []
        for name, change in self.changes.items():
            try:
                setting = settings.find(file, name)
                now = settings.value(file, setting)
                if now != change.file:
                    ended.append(f"{name}: {change.value} ends: the file says {now} now, {change.file} before")
                elif settings.anchor(file, setting) != change.anchor:
                    ended.append(f"{name}: {change.value} ends: the route is for other requests now")
                else:
                    further = {**kept, name: replace(change, setting=setting)}
                    _ = Settings(file, further).config
                    kept = further
            except ConfigError as error:
                ended.append(f"{name}: {change.value} ends: {error}")
        return Settings(file, kept), ended
