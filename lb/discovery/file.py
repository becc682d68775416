"""Endpoints from a file of their own, read again when it changes."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
from pathlib import Path

from lb.config.document import MAX_BYTES
from lb.config.endpoint_file import parse_endpoints
from lb.config.schema.file import EndpointConfig, FileSourceConfig, PoolConfig
from lb.config.units import SECOND
from lb.discovery.source import DiscoveryError, Found, Source
from lb.discovery.static import Lookup, StaticSource, system_lookup
from lb.errors import ConfigError

log = logging.getLogger("tidegate.discovery")

Signature = tuple[int, ...]

REPLACED = 3  # looks that saw another file than the one before
FIRST_LOOKUP = SECOND  # after names that could not be resolved they are looked up again: later each time, up to
LAST_LOOKUP = 30 * SECOND


class FileSource(Source):
    """The file is judged by what stat(2) says of it, and read when that is new and has been the same twice: whoever
    writes in place may not be through, and the half of a list is a list. Names in it that cannot be resolved are looked
    up again although it is the same, but not at every look."""

    Options = FileSourceConfig
    options: FileSourceConfig

    def __init__(
        self, pool: str, options: FileSourceConfig, config: PoolConfig, lookup: Lookup = system_lookup
    ) -> None:
        super().__init__(pool, options, config)
        self._lookup = lookup
        self._first = True  # the next look is the first
        self._done: Signature | None = None  # of what the outcome below is of
        self._outcome: Found | str = ""
        self._warned = False
        self._lookups = 0  # of names in this file that failed, in a row
        self._lookup_at = 0.0  # the loop's time of the next one

    async def look(self) -> Found:
        """Raises DiscoveryError when the file is missing, not readable or not whole."""
        first, self._first = self._first, False
        seen = await self._signature()
        if seen != self._done:
            if not first:  # a start must not wait for what was there before it
                await self._settle(seen)
            self._lookups = 0
            await self._read()
        elif self._lookups and asyncio.get_running_loop().time() >= self._lookup_at:
            await self._read()
        if isinstance(self._outcome, str):
            raise DiscoveryError(self._outcome, self.options.interval)
        return self._outcome

    def describe(self) -> str:
        return str(self.options.path)

    async def _settle(self, seen: Signature) -> None:
        """Waits until the file has been the same for `interval`, or was another one so often that somebody must be
        renaming new ones over it, faster than that, each of which is whole."""
        replaced = 0
        while replaced < REPLACED:
            await asyncio.sleep(self.options.interval / SECOND)
            before, seen = seen, await self._signature()
            if seen == before:
                return
            replaced += seen[:2] != before[:2]

    async def _signature(self) -> Signature:
        try:
            return _facts(await asyncio.to_thread(os.stat, self.options.path))
        except OSError as error:
            message = f"{self.options.path}: cannot be read: {error.strerror}"
            raise DiscoveryError(message, self.options.interval) from None

    async def _read(self) -> None:
        path = self.options.path
        try:
            signature, mode, endpoints = await asyncio.to_thread(_load, path, self.pool, self.config)
        except _UnusableError as error:
            self._lookups = 0
            self._done, self._outcome = error.signature, str(error)
            return
        try:
            found = await StaticSource(self.pool, endpoints, self.config, self._lookup).look()
        except DiscoveryError as error:  # of a name
            self._done, self._outcome = signature, f"{path}: {error}"
            pause = min(FIRST_LOOKUP << min(self._lookups, 16), LAST_LOOKUP)
            self._lookups += 1
            self._lookup_at = asyncio.get_running_loop().time() + pause / SECOND
            return
        self._lookups = 0
        if mode & stat.S_IWOTH and not self._warned:
            log.warning("%s can be written by everyone on this machine", path)
        self._warned = bool(mode & stat.S_IWOTH)
        self._done, self._outcome = signature, Found(found.endpoints, self.options.interval)


class _UnusableError(Exception):
    def __init__(self, message: str, signature: Signature | None) -> None:
        super().__init__(message)
        self.signature = signature


def _facts(found: os.stat_result) -> Signature:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _load(path: Path, pool: str, config: PoolConfig) -> tuple[Signature, int, list[EndpointConfig]]:
    """What the file is, its mode, and the endpoints it holds. Raises _UnusableError."""
    signature: Signature | None = None
    try:
        # A pipe would wait for a writer for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            found = os.fstat(stream.fileno())
            signature = _facts(found)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _UnusableError(f"{path}: cannot be read: {error.strerror}", signature) from None
    try:
        return signature, found.st_mode, parse_endpoints(raw, path, pool, config)
    except ConfigError as error:
        raise _UnusableError("; ".join(error.problems), signature) from None
