"""The queues of the models that are served, and everything that finds a model by its name."""

from __future__ import annotations

import asyncio

from backend.grpc.front import Front
from backend.inference.engine import Engine, ModelQueue
from backend.inference.model import Served
from backend.inference.sequences import Sequences
from backend.model import Model
from backend.native import NativeSession
from backend.repository.catalog import Catalog
from backend.service import InferenceService, Rare
from lb.net.timers import Timers

_LOOK = 0.02  # seconds between two looks at a model that still answers


class Serving:
    """Belongs to the loop."""

    def __init__(self, engine: Engine, timers: Timers, front: Front, service: InferenceService, rare: Rare) -> None:
        self._engine = engine
        self._timers = timers
        self._front = front
        self._service = service
        self._rare = rare
        self._queues: dict[Model, ModelQueue] = {}

    def offer(self, catalog: Catalog) -> None:
        """From now on calls find these models, all at once. A model that was there keeps its queue and what was counted
        of it; one that is not any more goes on with the inferences that it has."""
        for model in catalog:
            if model not in self._queues:
                self._queues[model] = self._queue(model)
        queues = {(model.name, model.version): self._queues[model] for model in catalog}
        self._rare.offer(queues)
        self._service.offer(catalog, {key: queue.served for key, queue in queues.items()})
        defaults = {(name, ""): queues[name, catalog.versions(name)[-1]] for name, _ in queues}
        self._front.offer({**queues, **defaults})

    async def wait_ended(self, model: Model) -> None:
        """Returns when a model that is not offered any more has no inference left."""
        queue = self._queues.pop(model)
        while queue.running or queue.waiting:  # noqa: ASYNC110 - the compiled queue tells nobody
            await asyncio.sleep(_LOOK)

    def _queue(self, model: Model) -> ModelQueue:
        settings = model.settings
        session = model.session.compiled if isinstance(model.session, NativeSession) else None
        served = Served(model, session)
        sequencing = model.sequencing
        sequences = None
        if sequencing is not None:
            sequences = Sequences(served, self._timers, settings.max_sequences, sequencing.idle)
        return ModelQueue(
            self._engine,
            served,
            [(level.max_queue, level.timeout) for level in settings.levels],
            settings.max_queue_delay,
            model.steady,
            settings.runs,
            settings.default_level,
            sequences,
        )
