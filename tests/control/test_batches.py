"""How full batches are, by what model servers say of their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lb.control.endpoints.asking import Asked
from lb.control.servers import batches
from lb.control.servers.batches import BatchOccupancy
from lb.control.servers.polled import MeasureFailed
from lb.wire import grpc_service_pb2 as wire
from lb.wire import model_config_pb2 as config


class Servers:
    """Model servers by address: model -> (inferences, executions, max_batch_size). None: it does not answer."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, tuple[int, int, int]] | None] = {}
        self.asked: list[str] = []
        self.seen: list[int] = []  # sizes of batches

    async def ask(self, endpoint: Asked, method: str, requests: Sequence[bytes], seconds: float) -> list[Any]:
        self.asked.append(method)
        models = self.models[endpoint.address]
        if models is None:
            return [RuntimeError("no answer")]
        if method == "ModelStatistics":
            sizes = [wire.InferBatchStatistics(batch_size=n) for n in self.seen]
            rows = [
                wire.ModelStatistics(name=name, version="1", inference_count=n, execution_count=m, batch_stats=sizes)
                for name, (n, m, _) in models.items()
            ]
            return [wire.ModelStatisticsResponse(model_stats=rows).SerializeToString()]
        name = wire.ModelConfigRequest.FromString(requests[0]).name
        made = config.ModelConfig(name=name, max_batch_size=models[name][2])
        return [wire.ModelConfigResponse(config=made).SerializeToString()]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    made = Servers()
    monkeypatch.setattr(batches, "ask", made.ask)
    return made


async def test_from_question_to_question(servers: Servers) -> None:
    meter = BatchOccupancy(lambda: list(servers.models))
    servers.models = {"a": {"m": (100, 100, 8)}, "b": {"m": (0, 0, 8), "plain": (5, 5, 0)}}
    assert await meter.ask() == {}  # since when?
    servers.models = {"a": {"m": (180, 120, 8)}, "b": {"m": (0, 0, 8), "plain": (900, 900, 0)}}
    assert await meter.ask() == {"a": 50.0, "b": 0.0}  # 80 in 20 batches of at most 8; idle
    assert servers.asked.count("ModelConfig") == 3  # each model once


async def test_of_several_models_all_batches_count(servers: Servers) -> None:
    meter = BatchOccupancy(lambda: ["a"])
    servers.models = {"a": {"m": (0, 0, 10), "n": (0, 0, 2)}}
    assert await meter.ask() == {}
    servers.models = {"a": {"m": (10, 2, 10), "n": (2, 2, 2)}}
    assert await meter.ask() == {"a": 50.0}


async def test_those_that_say_nothing_are_left_out(servers: Servers) -> None:
    meter = BatchOccupancy(lambda: list(servers.models))
    servers.models = {"a": {"m": (0, 0, 4)}, "b": None, "c": {"plain": (0, 0, 1)}}
    assert await meter.ask() == {}
    assert await meter.ask() == {"a": 0.0}
    servers.models = {"b": None}
    with pytest.raises(MeasureFailed, match="ModelStatistics"):
        await meter.ask()
    servers.models = {}
    assert await meter.ask() == {}


async def test_a_server_that_was_restarted_begins_anew(servers: Servers) -> None:
    meter = BatchOccupancy(lambda: ["a"])
    servers.models = {"a": {"m": (100, 50, 4)}}
    assert await meter.ask() == {}
    servers.models = {"a": {"m": (8, 2, 4)}}
    assert await meter.ask() == {"a": 0.0}


async def test_without_a_largest_batch_it_is_the_largest_so_far(servers: Servers) -> None:
    meter = BatchOccupancy(lambda: ["a"])
    servers.models = {"a": {"m": (0, 0, 0)}}
    servers.seen = [1, 5, 4]
    assert await meter.ask() == {}
    servers.models = {"a": {"m": (6, 2, 0)}}
    assert await meter.ask() == {"a": 60.0}
