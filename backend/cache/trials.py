"""Trials of batches that models have passed: rows gave in batches what they gave alone (docs/adr/merging-calls.md).

A trial runs dozens of rows. That takes seconds where a row takes a tenth of one, and each replica of a pool would begin
with it. A trial that a model has not passed is not kept: it may have failed for want of memory.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from backend.cache.device import cpu
from backend.cache.digests import Digests
from backend.cache.graphs import model_files
from backend.cache.store import Origin, Store
from backend.providers import PROVIDERS

KIND = "batch-trial"
FILE = "trial.json"
_WORTH = 0.05  # seconds that a trial took from which an entry is worth its place

log = logging.getLogger("tidegate.backend.cache")


class Trials:
    """Passed trials of the models of this machine."""

    def __init__(self, store: Store, device: str, worth: float = _WORTH) -> None:
        """`device` names the GPU and its driver; "" is unknown, and trials there are not kept. `worth` is in seconds: a
        trial that takes less is not stored."""
        self._store = store
        self._device = device
        self._digests = Digests(store.root / "digests")
        self._worth = worth

    def passed(
        self,
        source: str,
        path: Path,
        runtime: str,
        provider: str,
        options: Mapping[str, str],
        trial: Callable[[], str | None],
    ) -> str | None:
        """What `trial` gives: None when the model has passed it, else why not. It is not run where the model of the
        file has passed it before, with the same ONNX Runtime (`runtime`), provider and `options`, which are all else
        that the outcome depends on. `source` is what messages call the model."""
        device = cpu() if provider == PROVIDERS["cpu"] else self._device
        if not device:
            return trial()
        try:
            model = self._digests.of(model_files(path), path.parent)
            origin = Origin(KIND, model, runtime, provider, device, {"file": path.name, **options})
            with self._store.find(origin) as entry:
                if entry is not None:
                    log.info("%s: its rows were tried in batches before: entry %s of %s",
                             source, entry.key[:12], self._store)  # fmt: skip
                    return None
        except OSError as error:
            log.warning("%s: %s cannot be used: %s", source, self._store, error)
            return trial()
        start = time.monotonic()
        reason = trial()
        seconds = time.monotonic() - start
        if reason is None and seconds >= self._worth:
            self._keep(source, origin, seconds)
        return reason

    def _keep(self, source: str, origin: Origin, seconds: float) -> None:
        try:
            with self._store.building(origin, source) as build:
                with self._store.find(origin) as entry:
                    if entry is not None:  # another process was faster
                        return
                (build.folder / FILE).write_text(json.dumps({"seconds": round(seconds, 3)}))
                build.seconds = seconds
                build.publish()
        except OSError as error:
            log.warning("%s: %s: its trial of batches could not be kept: %s", source, self._store, error)
