"""Graphs as ONNX Runtime optimises them for this CPU, in its own format (docs/adr/model-cache.md).

A model that loads from the cache is not parsed, not optimised, and not copied: its file is mapped, and all servers of
the machine share the pages. Weights that a kernel packs for itself are the exception; each server packs its own.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from backend.cache.device import cpu
from backend.cache.digests import Digests
from backend.cache.store import Origin, Store
from backend.ort.errors import OrtError
from backend.ort.session import Session
from backend.providers import PROVIDERS

KIND = "optimized-graph"
FILE = "model.ort"
# Small models load in less time than it takes to look for them.
_LEAST = 256 << 10  # bytes of a model
_MOST = 1900 << 20  # ONNX Runtime's format ends at 2 GiB
_WORTH = 0.05  # seconds that a model took to load from which an entry is worth its place
_NOT_MODEL = frozenset({"warmup.json"})  # files beside a model that are no part of it

SAVED: Mapping[str, str] = {"session.save_model_format": "ORT"}
MAPPED: Mapping[str, str] = {
    "session.load_model_format": "ORT",
    "session.use_memory_mapped_ort_model": "1",
    "session.use_ort_model_bytes_for_initializers": "1",  # weights stay where they are mapped
}

log = logging.getLogger("tidegate.backend.cache")


class Open(Protocol):
    """Makes a session of a file, with configuration entries."""

    def __call__(
        self, file: Path, entries: Mapping[str, str], save_to: Path | None = None, optimized: bool = False
    ) -> Session: ...


class Graphs:
    """Opens models that run on the CPU."""

    def __init__(self, store: Store, worth: float = _WORTH) -> None:
        """`worth` is in seconds: a model that loads in less is not stored."""
        self._store = store
        self._digests = Digests(store.root / "digests")
        self._worth = worth

    def open(self, source: str, path: Path, runtime: str, level: str, make: Open) -> Session:
        """The model of a file, from the cache where it is there, and into it where that is worth it. `source` is what
        messages call it, `runtime` the version of ONNX Runtime, `level` how far its graph is optimised. Raises OrtError
        when the model itself cannot be loaded."""
        files = model_files(path)
        size = sum(file.stat().st_size for file in files)
        if not _LEAST <= size <= min(_MOST, self._store.limit):  # an entry is as large as its model
            return make(path, {})
        try:
            model = self._digests.of(files, path.parent)
            options = {"file": path.name, "level": level}
            origin = Origin(KIND, model, runtime, PROVIDERS["cpu"], cpu(), options)
            found = self._found(source, origin, make)
        except OSError as error:
            log.warning("%s: %s cannot be used: %s", source, self._store, error)
            return make(path, {})
        if found is not None:
            return found
        start = time.monotonic()
        session = make(path, {})
        seconds = time.monotonic() - start
        if seconds < self._worth:
            return session
        del session  # a large model is not in memory twice
        try:
            return self._built(source, origin, path, make, seconds)
        except (OSError, OrtError) as error:
            log.warning("%s: %s: no entry could be built: %s", source, self._store, error)
            return make(path, {})

    def _found(self, source: str, origin: Origin, make: Open) -> Session | None:
        """Raises OSError."""
        with self._store.find(origin) as entry:
            if entry is None:
                return None
            start = time.monotonic()
            try:
                session = make(entry.path(FILE), MAPPED, optimized=True)
            except OrtError as error:
                log.warning("%s: %s: the entry %s cannot be loaded (%s); it is built anew",
                            source, self._store, entry.key[:12], error)  # fmt: skip
                self._store.remove(entry.key)
                return None
            log.info("%s: optimised graph of %s, entry %s, loaded in %.3f s",
                     source, self._store, entry.key[:12], time.monotonic() - start)  # fmt: skip
            return session

    def _built(self, source: str, origin: Origin, path: Path, make: Open, before: float) -> Session:
        """Raises OSError, OrtError."""
        with self._store.building(origin, source) as build:
            found = self._found(source, origin, make)  # another process may have built it
            if found is not None:
                return found
            start = time.monotonic()
            make(path, SAVED, save_to=build.folder / FILE)
            build.seconds = time.monotonic() - start
            start = time.monotonic()
            session = make(build.folder / FILE, MAPPED, optimized=True)  # what cannot be loaded is not kept
            seconds = time.monotonic() - start
            entry = build.publish()
            if entry is not None:
                log.info("%s: optimised graph built in %.3f s, entry %s of %s: it loads in %.3f s, the model in %.3f s",
                         source, build.seconds, entry.key[:12], self._store, seconds, before)  # fmt: skip
            return session


def model_files(path: Path) -> list[Path]:
    """The file of a model and what is in its folder, its external data among it."""
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(path.parent)
        for name in names
        if name not in _NOT_MODEL and not name.startswith(".")
    ]
    return [file for file in found if file.is_file()]
