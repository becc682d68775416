"""Notices certificates and other files that change on disk, certificates that run out, and ticket keys that have served
their time.

`look` is called every second by the master, off the data path. Files are judged by what `stat` says of them; those that
differ are read, checked and published as a new plan. A file that cannot be used, such as a new certificate whose key
has not come yet, leaves what is in force where it is and is tried again when it changes (lb.control.changed_files).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from lb.clock import Clock
from lb.config.schema.file import Config
from lb.config.schema.listeners.tls import tls_files
from lb.control.certificates import TlsFiles, say_staple, say_state, warn
from lb.control.changed_files import settle
from lb.control.configuration import Loaded
from lb.control.key_sets import KEY_SETS
from lb.control.publisher import Publisher
from lb.control.tickets import TicketRing
from lb.errors import TidegateError

log = logging.getLogger("tidegate.tls")

Signature = tuple[tuple[str, tuple[int, ...] | bytes | None], ...]


class CertificateWatch:
    """One watch over what `publisher` has in force. Everything on the loop; files are looked at in a thread."""

    def __init__(
        self, publisher: Publisher, tickets: TicketRing, clock: Clock, wall: Callable[[], float] = time.time
    ) -> None:
        self._publisher = publisher
        self._tickets = tickets
        self._clock = clock
        self._wall = wall
        self._done: Signature | None = None  # what the files looked like when they were last dealt with
        self._last: Signature | None = None  # what they looked like at the last look
        self._paths: tuple[Config | None, list[str]] = (None, [])
        self._states: dict[tuple[str, str], str] = {}
        self._staples: dict[tuple[str, str], str] = {}
        self.problems: tuple[str, ...] = ()  # why the files on disk are not in force
        self.reloads = {"ok": 0, "failed": 0}

    async def look(self) -> None:
        """One look at everything. Never raises for what is wrong with files or workers: that is logged and shown."""
        loaded = self._publisher.loaded
        if self._tickets.rotate(self._clock.now()) and any(li.tls for li in loaded.config.listeners.values()):
            await self._publish(None, "new session ticket keys")
        signature = await asyncio.to_thread(self._signature, loaded.config)
        before, self._last = self._last, signature
        # Whoever writes files may not be through with them: they have to look the same twice.
        if signature == before and signature != self._done:
            await self._changed(signature)
        self._watch_states()

    async def reload(self, dry_run: bool = False) -> dict[str, Any]:
        """What is on disk now, without waiting for a second look: {ok, changed, maps, problems}. `changed` are the
        files of certificates that are others, `maps` the names of maps; with `dry_run` they are not taken into use, nor
        are files with problems, which are not `ok`. Never raises for what is wrong."""
        loaded = self._publisher.loaded
        files = TlsFiles()
        found = await asyncio.to_thread(files.check, loaded.config)
        settled = settle(loaded.config, files, found, loaded.material, loaded.certificates)
        known = {fact.fingerprint for fact in loaded.certificates}
        changed = sorted({str(fact.file) for fact in settled.facts if fact.fingerprint not in known})
        maps = [name for name, block in settled.material.maps.items() if block != loaded.material.maps.get(name)]
        if dry_run:
            problems = [f"{where}: {what}" for where, what in settled.problems]
            return {"ok": not problems, "changed": changed, "maps": maps, "problems": problems}
        signature = await asyncio.to_thread(self._signature, loaded.config)
        self._last = signature
        await self._changed(signature)
        return {"ok": not self.problems, "changed": changed, "maps": maps, "problems": list(self.problems)}

    def started(self) -> None:
        """A configuration took effect, with files that were just read."""
        self.problems = ()
        self._states.clear()
        loaded = self._publisher.loaded
        warn(loaded.config, loaded.certificates, self._wall())
        self._states = {(f.file, f.fingerprint): f.state(self._wall()) for f in loaded.certificates}
        self._staples = {(f.file, f.fingerprint): f.staple_state(self._wall()) for f in loaded.certificates}

    def status(self) -> dict[str, Any]:
        """For the status page: certificates in force, and why those on disk are not."""
        now = self._wall()
        return {
            "certificates": [fact.to_dict(now) for fact in self._publisher.loaded.certificates],
            "problems": list(self.problems),
            "reloads": dict(self.reloads),
        }

    async def _changed(self, signature: Signature) -> None:
        loaded = self._publisher.loaded
        files = TlsFiles()
        found = await asyncio.to_thread(files.check, loaded.config)
        self._done = signature
        settled = settle(loaded.config, files, found, loaded.material, loaded.certificates)
        self.problems = tuple(f"{where}: {what}" for where, what in settled.problems)
        if self.problems:
            self.reloads["failed"] += 1
        self._say_problems()
        if settled.material == loaded.material:
            return
        wanted = replace(loaded, material=settled.material, certificates=settled.facts)
        if await self._publish(wanted, "changed files"):
            self.reloads["ok"] += 1
            for name, block in settled.material.maps.items():
                if block != loaded.material.maps.get(name):
                    log.info("maps.%s: its file has changed, %d bytes are in force", name, len(block))
            old = {fact.fingerprint for fact in loaded.certificates}
            for fact in settled.facts:
                if fact.fingerprint not in old:
                    log.info("%s: new certificate from %s (%s)", fact.owner, fact.file, fact.subject)
        else:
            self.reloads["failed"] += 1
            self._done = None  # a worker may have died of something else: try again

    def _say_problems(self) -> None:
        for problem in self.problems:
            log.error("changed files are not used, the old ones stay: %s", problem)

    def _signature(self, config: Config) -> Signature:
        if self._paths[0] is not config:  # of thousands of routes they are not gathered each second
            self._paths = config, sorted({str(file.path) for file in tls_files(config)})
        return (*((path, _stat(path)) for path in self._paths[1]), *sorted(KEY_SETS.refresh(config).items()))

    async def _publish(self, wanted: Loaded | None, what: str) -> bool:
        try:
            await self._publisher.publish(wanted)
        except TidegateError as error:
            log.error("%s were not published: %s", what, error)
            self.problems = (f"{what} were not published: {error}",)
            return False
        return True

    def _watch_states(self) -> None:
        """Time alone makes a certificate run out: each change of its state is said once."""
        now = self._wall()
        states, staples = {}, {}
        for fact in self._publisher.loaded.certificates:
            key, state = (fact.file, fact.fingerprint), fact.state(now)
            states[key] = state
            if self._states.get(key, "valid") != state:
                say_state(fact, state)
            staples[key] = staple = fact.staple_state(now)
            if self._staples.get(key) != staple:
                say_staple(fact, staple)
        self._states, self._staples = states, staples


def _stat(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
