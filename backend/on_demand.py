"""The session of a model that has left memory to make room, and is loaded again by the next request."""

from __future__ import annotations

import asyncio
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

    async def wait_loaded(self) -> None:
        """Returns when `run` can be called. Raises BackendError; the next call tries again then. What waits was read as
        one for the model of before: where the files have changed, it may be none for this one."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.ensure_future(self._load())
        loaded = await asyncio.shield(self._loading)  # others wait for it, too
        if (loaded.inputs, loaded.outputs) != (self.inputs, self.outputs):
            raise Unavailable(f"{self.source}: its files have changed since it left memory, and its tensors with them")

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As of the session that was loaded."""
        if self._loading is None:
            raise RuntimeError(f"{self.source} has not been loaded")
        return self._loading.result().run(outputs, feeds)
