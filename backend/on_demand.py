"""The session of a model that has left memory to make room, and is loaded again by the next request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np

from backend.errors import Unavailable
from backend.session import Session


class OnDemandSession:
    """Says of the model what `before` said; `load` makes a session that is like it. Belongs to the loop, but `run` does
    not."""

    def __init__(self, before: Session, load: Callable[[], Awaitable[Session]]) -> None:
        self.keeps_state = before.keeps_state
        self.runtime = before.runtime
        self.keeps_state = before.keeps_state
        self.source = before.source
        self.provider = before.provider
        self.inputs = before.inputs
        self.outputs = before.outputs
        self._load = load
        self._loading: asyncio.Future[Session] | None = None
        self._failed_ns = 0  # when the last load failed, of time.monotonic_ns

    async def wait_loaded(self, since: int) -> None:
        """Returns when `run` can be called, for an inference that came at `since` (time.monotonic_ns). Raises
        BackendError: of a load that failed, for all that came before it did; later ones try again. What waits was
        read as one for the model of before: where the files have changed, it may be none for this one."""
        if self._loading is None or (self._failed_ns and since > self._failed_ns):
            self._failed_ns = 0
            self._loading = asyncio.ensure_future(self._load())
            self._loading.add_done_callback(self._loaded)
        loaded = await asyncio.shield(self._loading)  # others wait for it, too
        if (loaded.inputs, loaded.outputs) != (self.inputs, self.outputs):
            raise Unavailable(f"{self.source}: its files have changed since it left memory, and its tensors with them")

    def _loaded(self, loading: asyncio.Future[Session]) -> None:
        if loading.cancelled() or loading.exception() is not None:
            self._failed_ns = time.monotonic_ns()

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As of the session that was loaded."""
        if self._loading is None:
            raise RuntimeError(f"{self.source} has not been loaded")
        return self._loading.result().run(outputs, feeds)
