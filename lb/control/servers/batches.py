"""How full the batches of model servers are, and how long their runs take, as they say it themselves (Triton's
statistics extension)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, field

from lb.config.units import SECOND
from lb.control.endpoints.asking import Asked, ask
from lb.control.servers.polled import MeasureFailed
from lb.scaling.runs import LEAST_RUNS, Runs

TIMEOUT = 2 * SECOND  # of each call


class Largest:
    """The `max_batch_size` of models, by address and model (`NAME/VERSION`); each is asked for once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], int] = {}

    def follow(self, addresses: Sequence[str]) -> None:
        """Those of other addresses are forgotten."""
        self._known = {key: rows for key, rows in self._known.items() if key[0] in addresses}

    async def of(self, address: str, name: str, version: str) -> int:
        """0 where the server does not say."""
        from google.protobuf.message import DecodeError

        from lb.wire import grpc_service_pb2 as wire

        key = (address, f"{name}/{version}")
        if key not in self._known:
            asked = wire.ModelConfigRequest(name=name, version=version).SerializeToString()
            reply = (await ask(Asked(address), "ModelConfig", [asked], TIMEOUT / SECOND))[0]
            try:
                if isinstance(reply, bytes):
                    self._known[key] = wire.ModelConfigResponse.FromString(reply).config.max_batch_size
            except DecodeError:
                self._known[key] = 0
        return self._known.get(key, 0)


async def statistics(address: str) -> Sequence[Any] | None:
    """The ModelStatistics of each model of a server; None where it tells none."""
    from google.protobuf.message import DecodeError

    from lb.wire import grpc_service_pb2 as wire

    reply = (await ask(Asked(address), "ModelStatistics", [b""], TIMEOUT / SECOND))[0]
    try:
        return wire.ModelStatisticsResponse.FromString(reply).model_stats if isinstance(reply, bytes) else None
    except DecodeError:
        return None


class BatchOccupancy:
    """Percent of the largest batch, by address, from question to question; `endpoints` gives the addresses. The largest
    is the model's `max_batch_size`; of a model without one (a server that finds it itself), the largest so far."""

    def __init__(self, endpoints: Callable[[], Sequence[str]]) -> None:
        self._endpoints = endpoints
        self._counts: dict[str, dict[str, tuple[int, int]]] = {}  # address -> model -> inferences, executions
        self._largest = Largest()

    async def ask(self) -> dict[str, float]:
        """Of the time since the last call. A server without executions has 0; one that does not answer, or has no model
        with batches, is left out. Raises MeasureFailed where that are all."""
        addresses = list(self._endpoints())
        found = dict(zip(addresses, await asyncio.gather(*map(self._of, addresses)), strict=True))
        self._counts = {a: counts for a, counts in self._counts.items() if a in found}
        self._largest.follow(addresses)
        if addresses and all(percent is None for percent in found.values()):
            raise MeasureFailed("no model server tells its statistics (ModelStatistics) of models with batches")
        return {address: percent for address, percent in found.items() if percent is not None and percent >= 0}

    async def _of(self, address: str) -> float | None:
        """Percent; less than 0 at the first question; None where the server tells nothing."""
        models = await statistics(address)
        before = self._counts.pop(address, None)
        if models is None:
            return None
        now = {f"{m.name}/{m.version}": (m.inference_count, m.execution_count) for m in models}
        self._counts[address] = now
        inferences = room = 0
        batching = False
        for model in models:
            seen = max((row.batch_size for row in model.batch_stats), default=0)
            largest = await self._largest.of(address, model.name, model.version) or seen
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


class _Counts(Struct):
    """Of one model, since its server started, or over a span of time. Times are ns."""

    by_rows: dict[int, tuple[int, int]] = field(default_factory=dict)  # rows of a run -> runs, their time
    requests: int = 0
    waited: int = 0
    largest: int = 0

    @property
    def runs(self) -> int:
        return sum(runs for runs, _ in self.by_rows.values())

    @property
    def time(self) -> int:
        return sum(time for _, time in self.by_rows.values())

    def add(self, now: _Counts, before: _Counts) -> None:
        """What has come between two looks at one server."""
        for rows, (runs, time) in now.by_rows.items():
            known, first = self.by_rows.get(rows, (0, 0)), before.by_rows.get(rows, (0, 0))
            self.by_rows[rows] = (known[0] + max(0, runs - first[0]), known[1] + max(0, time - first[1]))
        self.requests += max(0, now.requests - before.requests)
        self.waited += max(0, now.waited - before.waited)
        self.largest = max(self.largest, now.largest)


class RunsMeter:
    """The runs of a pool's servers, from look to look; `endpoints` gives the addresses, and `waiting` the requests that
    wait in front of the servers. A look ends with the question after which its runs are enough to say anything."""

    def __init__(self, endpoints: Callable[[], Sequence[str]], waiting: Callable[[], int] = lambda: 0) -> None:
        self._endpoints = endpoints
        self._waiting = waiting
        self._before: dict[str, dict[str, _Counts]] = {}  # address -> model -> its counts when the look began
        self._at = self._asked_at = 0
        self._waited = 0  # ns that requests waited in front of the servers since then
        self._largest = Largest()

    async def ask(self, now: int, cores: float | None) -> Runs | None:
        """The runs of the look that ends `now` (monotonic ns), of the servers that were there; `cores` is the part of
        their cores that servers used. None where it goes on, or no server was there, or none tells."""
        self._waited += self._waiting() * (now - self._asked_at)
        self._asked_at = now
        addresses = list(self._endpoints())
        found = dict(zip(addresses, await asyncio.gather(*map(self._of, addresses)), strict=True))
        self._largest.follow(addresses)
        told = {a: counts for a, counts in found.items() if counts is not None}
        before, span, waited = self._before, now - self._at, self._waited
        both = told.keys() & before.keys()
        sums: dict[str, _Counts] = {}
        for address in both:
            for model, counts in told[address].items():
                sums.setdefault(model, _Counts()).add(counts, before[address].get(model, _Counts()))
        busiest = max(sums.values(), key=lambda counts: counts.time, default=_Counts())
        enough = busiest.runs >= LEAST_RUNS and span > 0
        if not enough and told.keys() == before.keys():
            return None
        self._before, self._at, self._waited = told, now, 0
        if not enough:
            return None
        busy = sum(counts.time for counts in sums.values()) / (span * len(both))
        ran = {rows: counts for rows, counts in busiest.by_rows.items() if counts[0]}
        largest = busiest.largest or max(busiest.by_rows, default=0)
        return Runs(ran, largest, busiest.requests, busiest.waited + waited, busy, cores)

    async def _of(self, address: str) -> dict[str, _Counts] | None:
        models = await statistics(address)
        if models is None:
            return None
        found = {}
        for model in models:
            rows = {
                row.batch_size: (
                    row.compute_infer.count,
                    row.compute_input.ns + row.compute_infer.ns + row.compute_output.ns,
                )
                for row in model.batch_stats
            }
            queue, largest = model.inference_stats.queue, await self._largest.of(address, model.name, model.version)
            found[f"{model.name}/{model.version}"] = _Counts(rows, queue.count, queue.ns, largest)
        return found
