"""Keeps what clients have used of quotas: in the file, and for those who ask."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lb.config.plan.quotas import QuotaPlan
from lb.config.schema.file import Config
from lb.config.schema.quotas import quota_plan
from lb.config.windows import Window, window
from lb.control.quotas.file import QuotaFile
from lb.control.servers.scaling_memory import state_directory
from lb.errors import ConfigError, StartError
from lb.shared.quotas import Quotas
from lb.shared.segment import Segment

log = logging.getLogger("tidegate.quotas")

EVERY = 1.0  # seconds between two looks: what the death of the daemon may lose
_NAME = "quotas.sqlite"
_BY = {"=": "key", "@": "source", "": "all"}


def file_of(config: Config) -> Path | None:
    """Where counts are kept; None: nowhere."""
    if config.limits.quota_file is not None:
        return config.limits.quota_file
    folder = state_directory()
    return folder / _NAME if folder is not None else None


class QuotaKeeper:
    """Of the quotas of `segment`. `wall` is Unix time in seconds."""

    def __init__(self, segment: Segment, wall: Callable[[], float] = time.time) -> None:
        self._quotas = Quotas(segment)
        self._wall = wall
        self._plans: dict[str, QuotaPlan] = {}
        self._file: QuotaFile | None = None
        self._saving = asyncio.Lock()
        self._before: tuple[Segment, Quotas] | None = None  # of the program before an upgrade
        self._unsaved = False  # the file has not got yet what was counted before it was opened
        self.save_errors = 0
        self.trouble = ""  # why counts are not saved now

    async def apply(self, config: Config) -> None:
        """Follows a configuration: opens its file, where there are quotas, and takes the counts in it that are not
        counted yet. Raises StartError, with all as it was, when the file cannot be used."""
        path = file_of(config) if config.quotas else None
        async with self._saving:
            if path != (self._file.path if self._file is not None else None):
                await self._change_file(path)
            if config.quotas and path is None and not self._plans:
                log.warning("quotas are forgotten by a restart: neither limits.quota_file nor STATE_DIRECTORY is set")
            self._plans = {name: quota_plan(name, quota) for name, quota in config.quotas.items()}

    async def _change_file(self, path: Path | None) -> None:
        made = await asyncio.to_thread(QuotaFile, path) if path is not None else None
        if self._file is not None:
            try:
                await asyncio.to_thread(self._save, self._file)
            except sqlite3.Error as error:  # it is of no use any more
                log.warning("quotas: the last counts are not in %s: %s", self._file.path, error)
        if made is not None:
            try:
                counted = {name for name, *_ in self._quotas.rows()}
                rows = [row for row in await asyncio.to_thread(made.load, self._minute()) if row[0] not in counted]
                for row in rows:
                    self._quotas.put(*row)
                # Those that were counted before are new to this file.
                await self._try_save(made, True)
            except StartError:
                made.close()
                raise
            log.info("quotas: %d counts from %s", len(rows), path)
        if self._file is not None:
            self._file.close()
        self._file = made

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.save()

    async def save(self) -> None:
        """What has changed goes to the file. Trouble is logged, and tried again at the next look."""
        async with self._saving:
            if self._file is not None:
                await self._try_save(self._file, self._unsaved)

    async def _try_save(self, file: QuotaFile, everything: bool) -> None:
        """A file that cannot be written now, as with a full disk, hinders neither a start nor an upgrade."""
        try:
            await asyncio.to_thread(self._save, file, everything)
        except sqlite3.Error as error:
            self.save_errors += 1
            if not self.trouble:
                log.error("quotas: %s cannot be written: %s; it is tried again", file.path, error)
            self.trouble = str(error)
            self._unsaved = everything
            return
        self._unsaved = False
        if self.trouble:
            log.info("quotas: %s is written again", file.path)
            self.trouble = ""

    def _save(self, file: QuotaFile, everything: bool = False) -> None:
        rows = self._quotas.rows(changed=not everything)
        if rows:
            file.save([row[:4] for row in rows], self._minute())
            self._quotas.saved(rows)

    def take_over(self, segment: Segment) -> None:
        """Workers of the program before count on in `segment` until `let_go`, beyond what it has saved: in the file, or
        here, where there is none."""
        before = Quotas(segment)
        if self._file is None:
            rows = [row for row in before.rows() if row[1] + row[2] > self._minute()]
            for name, start, span, used, _ in rows:
                self._quotas.put(name, start, span, used)
            before.saved(rows)
        self._before = segment, before

    def let_go(self) -> None:
        """The workers of the program before have ended: what they counted meanwhile is added."""
        if self._before is None:
            return
        (segment, before), self._before = self._before, None
        for name, start, span, used, saved in before.rows(changed=True):
            if start + span > self._minute() and used > saved:
                self._quotas.put(name, start, span, used - saved, more=True)
        segment.close()

    async def close(self) -> None:
        """Saves the last counts."""
        await self.save()
        self.let_go()
        if self._file is not None:
            self._file.close()
            self._file = None

    def status(self) -> dict[str, Any]:
        """For the status document and metrics: {capacity, evicted, file, save_errors, trouble, quotas: [{name,
        requests, per, resets_at, clients, exhausted, used}]}."""
        now = self._wall()
        windows = {name: window(quota.per, now) for name, quota in self._plans.items()}
        totals = self._quotas.totals([(name.encode(), windows[name].start) for name in windows])
        return {
            "capacity": self._quotas.capacity,
            "evicted": self._quotas.evicted,
            "file": str(self._file.path) if self._file is not None else None,
            "save_errors": self.save_errors,
            "trouble": self.trouble or None,
            "quotas": [
                {
                    "name": name,
                    "requests": self._plans[name].requests,
                    "per": self._plans[name].per,
                    "resets_at": _time(windows[name]),
                    "clients": clients,
                    "exhausted": exhausted,
                    "used": used,
                }
                for name, (clients, exhausted, used) in zip(windows, totals, strict=True)
            ],
        }

    def clients(self, quota: str | None = None, key: str | None = None) -> list[dict[str, Any]]:
        """Clients that have used something of the windows that run, those first that have used the largest part:
        {quota, key (* for all), by (key, source or all), used, limit, remaining, resets_at}. Raises ConfigError for a
        quota that there is not."""
        found = []
        overrides = {name: dict(plan.overrides) for name, plan in self._plans.items()}
        for label, by, client, start, used, _ in self._rows(quota):
            if key is not None and client != key:
                continue
            known = self._plans[label]
            limit = known.requests
            if (by == "source") == (known.key == "source"):
                limit = overrides[label].get(client, limit)
            now = window(known.per, self._wall())
            if start < now.start or not used:
                continue
            found.append(
                {
                    "quota": label,
                    "key": client,
                    "by": by,
                    "used": used,
                    "limit": limit,
                    "remaining": max(0, limit - used),
                    "resets_at": _time(now),
                }
            )
        return sorted(found, key=lambda row: -row["used"] / row["limit"])

    async def reset(self, key: str, quota: str | None = None, dry_run: bool = False) -> list[dict[str, Any]]:
        """A client has all of its quotas again, or of one; the rows that it had. Raises ConfigError."""
        rows = await asyncio.to_thread(self.clients, quota, key)
        if not dry_run:
            for label, _, client, start, _, name in await asyncio.to_thread(self._rows, quota):
                if client == key:
                    self._quotas.put(name, start, window(self._plans[label].per, self._wall()).span, 0)
            await self.save()
        return rows

    def _rows(self, quota: str | None) -> list[tuple[str, str, str, int, int, bytes]]:
        """(quota, by, client, first minute, used, name) of quotas of the configuration."""
        if quota is not None and quota not in self._plans:
            raise ConfigError([f"there is no quota {quota!r}"])
        found = []
        for name, start, _, used, _ in self._quotas.rows():
            label, _, client = name.decode("utf-8", "replace").partition("\0")
            if label in self._plans and quota in (None, label):
                found.append((label, _BY[client[:1]], client[1:] or "*", start, used, name))
        return found

    def _minute(self) -> int:
        return int(self._wall() // 60)


def _time(now: Window) -> str:
    return datetime.fromtimestamp(now.end * 60, UTC).isoformat().replace("+00:00", "Z")
