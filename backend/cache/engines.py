"""TensorRT's engines and timings, which take minutes to build.

ONNX Runtime's TensorRT provider reads and writes them in a folder, not at once, and may add to it at any run that
brings new shapes. So each session has a folder of its own, filled from the cache; what it has built by the end of the
warm-up, for the shapes that were tried there, becomes the entry.

No GPU was at hand as this was written: it has run against a stand-in for the provider that reads and writes such a
folder, not against TensorRT.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from backend.cache.digests import Digests
from backend.cache.graphs import model_files
from backend.cache.store import Origin, Store
from backend.ort.errors import OrtError
from backend.ort.session import Session
from backend.providers import PROVIDERS

KIND = "tensorrt-engine"

log = logging.getLogger("tidegate.backend.cache")


class Engines:
    """Opens models that run on TensorRT."""

    def __init__(self, store: Store, device: str) -> None:
        """`device` names the GPU and its driver; "" is unknown, and nothing is stored then."""
        self._store = store
        self._digests = Digests(store.root / "digests")
        self._device = device

    def open(
        self,
        source: str,
        path: Path,
        runtime: str,
        options: Mapping[str, str],
        make: Callable[[Mapping[str, str]], Session],
    ) -> tuple[Session, EngineFolder | None]:
        """The model of a file: `make` makes its session with options of the provider, which are `options` and those of
        the cache. The folder is to be published when the model is warm, and closed with it; None where there is no
        cache. Raises OrtError."""
        if not self._device or "trt_engine_cache_path" in options:  # the operator's own folder
            return make(options), None
        try:
            model = self._digests.of(model_files(path), path.parent)
            origin = Origin(KIND, model, runtime, PROVIDERS["tensorrt"], self._device, {"file": path.name, **options})
            folder = EngineFolder(self._store, origin, source)
        except OSError as error:
            log.warning("%s: %s cannot be used: %s", source, self._store, error)
            return make(options), None
        try:
            return make({**options, **folder.options()}), folder
        except OrtError:
            folder.close()
            raise


class EngineFolder:
    """Where one session has its engines. Raises OSError."""

    def __init__(self, store: Store, origin: Origin, source: str) -> None:
        self._store = store
        self._origin = origin
        self._source = source
        self._began = time.monotonic()
        self._open = ExitStack()
        self.path = self._open.enter_context(store.work(origin.key))
        try:
            with store.find(origin) as entry:
                if entry is not None:
                    for name in entry.files:
                        shutil.copyfile(entry.path(name), self.path / name)  # the provider writes to its files
        except BaseException:
            self._open.close()
            raise
        self._had = self._contents()
        if self._had:
            log.info("%s: TensorRT's engines of %s, entry %s", source, store, origin.key[:12])

    def options(self) -> dict[str, str]:
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(self.path),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(self.path),
        }

    def publish(self) -> None:
        """What is in the folder becomes the entry, if it is more than was in it."""
        contents = self._contents()
        if contents == self._had:
            return
        try:
            with self._store.building(self._origin, self._source) as build:
                for name in contents:
                    shutil.copyfile(self.path / name, build.folder / name)
                build.seconds = time.monotonic() - self._began
                build.publish()
        except OSError as error:
            log.warning("%s: %s: no entry could be built: %s", self._source, self._store, error)
            return
        self._had = contents
        log.info("%s: TensorRT's engines built in %.1f s, entry %s of %s", self._source, build.seconds,
                 self._origin.key[:12], self._store)  # fmt: skip

    def close(self) -> None:
        """The session is gone."""
        self._open.close()

    def _contents(self) -> dict[str, tuple[int, int]]:
        """Names with sizes and times."""
        found = {}
        for path in self.path.iterdir():
            status = path.stat()
            found[path.name] = (status.st_size, status.st_mtime_ns)
        return found
