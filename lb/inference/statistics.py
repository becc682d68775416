"""The statistics of a pool: what its model servers have counted, summed over all of them and over their lives.

Clients subtract two answers to ModelStatistics. So a sum never falls: a server that is gone keeps its last known counts
in it, and one that counts from the beginning again adds to what it had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from msgspec import Struct, field

from lb.wire import grpc_service_pb2 as wire

MOST_MODELS = 4096  # versions of models whose counts a pool remembers
MOST_GONE = 1024  # servers of a model that are gone and may come back with the counts they had
_LARGEST = 2**64 - 1

_DURATION: str = wire.StatisticDuration.DESCRIPTOR.full_name
_Model = tuple[str, str]  # name, version
_Counts = Counter[tuple[str | int, ...]]  # path in a ModelStatistics message -> its number


class _History(Struct):
    """What is known of one version of a model."""

    last: dict[str, _Counts] = field(default_factory=dict)  # address -> as it said last
    ended: _Counts = field(default_factory=Counter)  # of servers that have ended
    last_inference: int = 0  # ms since 1970

    def take(self, address: str, counts: _Counts, last_inference: int) -> None:
        before = self.last.pop(address, None)
        if before is not None and any(counts[path] < number for path, number in before.items()):
            self.ended.update(before)  # it has begun anew
        self.last[address] = counts
        self.last_inference = max(self.last_inference, last_inference)

    def end(self, address: str) -> None:
        self.ended.update(self.last.pop(address, Counter()))

    def total(self) -> _Counts:
        total = Counter(self.ended)
        for counts in self.last.values():
            total.update(counts)
        return total


class PoolStatistics:
    """The statistics of one pool, fed by `take`. Messages are of inference.GRPCInferenceService (Triton's)."""

    def __init__(self) -> None:
        self._models: dict[_Model, _History] = {}  # those that were named last at the end

    def take(self, answers: Mapping[str, Any]) -> Any:
        """The ModelStatisticsResponse of the pool, made of the responses of its servers by address.

        It has the models that one of them names now. `last_inference` is the latest; `batch_stats` are summed by batch
        size, `response_stats` by key, and `memory_usage` over the servers that answer.
        """
        named: dict[_Model, _Counts] = {}
        for address, answer in answers.items():
            for said in answer.model_stats:
                model = said.name, said.version
                history = self._models.pop(model, None) or _History()
                history.take(address, _counts(said), said.last_inference)
                self._models[model] = history
                named.setdefault(model, Counter()).update(_memory(said))
        while len(self._models) > max(MOST_MODELS, len(named)):
            del self._models[next(iter(self._models))]
        return wire.ModelStatisticsResponse(
            model_stats=[_message(model, self._models[model], memory) for model, memory in sorted(named.items())]
        )

    def kept(self, name: str, version: str) -> Any:
        """The ModelStatisticsResponse of what is known without asking: of all models, or of those of this name, or of
        this version."""
        models = [m for m in self._models if name in ("", m[0]) and version in ("", m[1])]
        return wire.ModelStatisticsResponse(
            model_stats=[_message(model, self._models[model], Counter()) for model in sorted(models)]
        )

    def ended(self, address: str) -> None:
        """The server there has ended: the next at this address counts from the beginning."""
        for history in self._models.values():
            history.end(address)

    def follow(self, addresses: Collection[str]) -> None:
        """These are the pool's servers now. Others may come back with their counts, as long as there are few."""
        for history in self._models.values():
            gone = [address for address in history.last if address not in addresses]
            for address in gone[: max(0, len(gone) - MOST_GONE)]:
                history.end(address)


def _counts(said: Any) -> _Counts:
    """The numbers of a ModelStatistics message that only grow."""
    found: _Counts = Counter({("inference_count",): said.inference_count, ("execution_count",): said.execution_count})
    _durations(said.inference_stats, ("inference_stats",), found)
    for batch in said.batch_stats:
        _durations(batch, ("batch_stats", batch.batch_size), found)
    for key, responses in said.response_stats.items():
        _durations(responses, ("response_stats", key), found)
    return found


def _durations(message: Any, path: tuple[str | int, ...], found: _Counts) -> None:
    fields: Iterable[Any] = message.DESCRIPTOR.fields
    for each in fields:
        if each.message_type is not None and each.message_type.full_name == _DURATION:
            duration = getattr(message, each.name)
            found[*path, each.name, "count"] += duration.count
            found[*path, each.name, "ns"] += duration.ns


def _memory(said: Any) -> _Counts:
    found: _Counts = Counter()
    for usage in said.memory_usage:
        found[usage.type, usage.id] += usage.byte_size
    return found


def _message(model: _Model, history: _History, memory: _Counts) -> Any:
    made = wire.ModelStatistics(name=model[0], version=model[1], last_inference=history.last_inference)
    batches: dict[str | int, Any] = {}
    for path, summed in sorted(history.total().items(), key=repr):
        number = min(summed, _LARGEST)
        match path:
            case (name,):
                setattr(made, str(name), number)
            case ("inference_stats", phase, unit):
                setattr(getattr(made.inference_stats, str(phase)), str(unit), number)
            case ("batch_stats", size, phase, unit):
                batch = batches.setdefault(size, wire.InferBatchStatistics(batch_size=size))
                setattr(getattr(batch, str(phase)), str(unit), number)
            case ("response_stats", key, phase, unit):
                setattr(getattr(made.response_stats[str(key)], str(phase)), str(unit), number)
    made.batch_stats.extend(batches[size] for size in sorted(batches))
    for (kind, device), size in sorted(memory.items()):
        made.memory_usage.add(type=str(kind), id=int(device), byte_size=min(size, _LARGEST))
    return made
