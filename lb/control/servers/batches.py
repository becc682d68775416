"""How full the batches of model servers are, as they say it themselves (Triton's statistics extension)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from lb.config.units import SECOND
from lb.control.endpoints.asking import Asked, ask
from lb.control.servers.polled import MeasureFailed

TIMEOUT = 2 * SECOND  # of each call


class BatchOccupancy:
    """Percent of the largest batch, by address, from question to question; `endpoints` gives the addresses. The largest
    is the model's `max_batch_size`; of a model without one (a server that finds it itself), the largest so far."""

    def __init__(self, endpoints: Callable[[], Sequence[str]]) -> None:
        self._endpoints = endpoints
        self._counts: dict[str, dict[str, tuple[int, int]]] = {}  # address -> model -> inferences, executions
        self._largest: dict[tuple[str, str], int] = {}  # address, model -> its max_batch_size

    async def ask(self) -> dict[str, float]:
        """Of the time since the last call. A server without executions has 0; one that does not answer, or has no model
        with batches, is left out. Raises MeasureFailed where that are all."""
        addresses = list(self._endpoints())
        found = dict(zip(addresses, await asyncio.gather(*map(self._of, addresses)), strict=True))
        self._counts = {a: counts for a, counts in self._counts.items() if a in found}
        self._largest = {key: n for key, n in self._largest.items() if key[0] in found}
        if addresses and all(percent is None for percent in found.values()):
            raise MeasureFailed("no model server tells its statistics (ModelStatistics) of models with batches")
        return {address: percent for address, percent in found.items() if percent is not None and percent >= 0}

    async def _of(self, address: str) -> float | None:
        """Percent; less than 0 at the first question; None where the server tells nothing."""
        from google.protobuf.message import DecodeError

        from lb.wire import grpc_service_pb2 as wire

        reply = (await ask(Asked(address), "ModelStatistics", [b""], TIMEOUT / SECOND))[0]
        try:
            models = wire.ModelStatisticsResponse.FromString(reply).model_stats if isinstance(reply, bytes) else None
        except DecodeError:
            models = None
        before = self._counts.pop(address, None)
        if models is None:
            return None
        now = {f"{m.name}/{m.version}": (m.inference_count, m.execution_count) for m in models}
        self._counts[address] = now
        inferences = room = 0
        batching = False
        for model in models:
            seen = max((row.batch_size for row in model.batch_stats), default=0)
            largest = await self._most(address, model.name, model.version) or seen
            if largest > 1:
                batching = True
                key = f"{model.name}/{model.version}"
                first = (before or now).get(key, (0, 0))
                inferences += max(0, now[key][0] - first[0])
                room += max(0, now[key][1] - first[1]) * largest
        if not batching:
            return None
        if before is None:
            return -1.0
        return min(100.0, 100 * inferences / room) if room else 0.0

    async def _most(self, address: str, name: str, version: str) -> int:
        from google.protobuf.message import DecodeError

        from lb.wire import grpc_service_pb2 as wire

        key = (address, f"{name}/{version}")
        if key not in self._largest:
            asked = wire.ModelConfigRequest(name=name, version=version).SerializeToString()
            reply = (await ask(Asked(address), "ModelConfig", [asked], TIMEOUT / SECOND))[0]
            try:
                if isinstance(reply, bytes):
                    self._largest[key] = wire.ModelConfigResponse.FromString(reply).config.max_batch_size
            except DecodeError:
                self._largest[key] = 0
        return self._largest.get(key, 0)
