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
from backend.repository.memory import Use
from backend.service import InferenceService, Rare
from backend.trace_settings import TraceSettings
from lb.net.timers import Timers

_LOOK = 0.02  # seconds between two looks at a model that still answers


class Serving:
    """Belongs to the loop."""

    def __init__(
        self,
        engine: Engine,
        timers: Timers,
        front: Front,
        service: InferenceService,
        rare: Rare,
        traces: TraceSettings,
    ) -> None:
        self._engine = engine
        self._timers = timers
        self._front = front
        self._service = service
        self._rare = rare
        self._traces = traces
        self._queues: dict[Model, ModelQueue] = {}
        self._offered: list[Model] = []
        self._followed: set[Model] = set()  # models that left memory or came back, and have inferences still

    def offer(self, catalog: Catalog) -> None:
        """From now on calls find these models, all at once. A model that was there keeps its queue and what was counted
        of it; one that is not any more goes on with the inferences that it has."""
        before = {(model.name, model.version): self._queues[model].served for model in self._offered}
        for model in catalog:
            if model not in self._queues:
                self._queues[model] = queue = self._queue(model)
                old = before.get((model.name, model.version))
                if old is not None and old.model.on_demand != model.on_demand:  # the same one, gone or back
                    queue.served.take_counts(old)
                    self._followed.add(old.model)
        self._offered = list(catalog)
        queues = {(model.name, model.version): self._queues[model] for model in catalog}
        self._rare.offer(queues)
        self._traces.follow(queue.served for queue in queues.values())
        self._service.offer(catalog, {key: queue.served for key, queue in queues.items()})
        defaults = {(name, ""): queues[name, catalog.versions(name)[-1]] for name, _ in queues}
        self._front.offer({**queues, **defaults})

    def uses(self) -> list[Use]:
        """Of the models that are offered and in memory."""
        found = []
        for model in self._offered:
            if not model.on_demand:
                queue = self._queues[model]
                found.append(
                    Use(model, max(queue.served.last_ms, model.loaded_ms), queue.running > 0 or queue.waiting > 0)
                )
        return found

    async def wait_ended(self, model: Model) -> None:
        """Returns when a model that is not offered any more has no inference left."""
        queue = self._queues.pop(model)
        while queue.running or queue.waiting:  # noqa: ASYNC110 - the compiled queue tells nobody
            await asyncio.sleep(_LOOK)
        if model in self._followed:
            self._followed.discard(model)
            for now in self._offered:
                if (now.name, now.version) == (model.name, model.version):
                    self._queues[now].served.add_counts(queue.served)

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
