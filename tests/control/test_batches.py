"""How full batches are, by what model servers say of their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lb.control.endpoints.asking import Asked
from lb.control.servers import batches
from lb.control.servers.batches import BatchOccupancy, RunsMeter
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


def told(runs: dict[int, tuple[int, int]], requests: int, waited: int) -> wire.ModelStatistics:
    """`runs`: rows -> runs, their ns."""
    sizes = [
        wire.InferBatchStatistics(
            batch_size=rows,
            compute_input=wire.StatisticDuration(count=count, ns=ns // 4),
            compute_infer=wire.StatisticDuration(count=count, ns=ns // 2),
            compute_output=wire.StatisticDuration(count=count, ns=ns // 4),
        )
        for rows, (count, ns) in runs.items()
    ]
    queue = wire.InferStatistics(queue=wire.StatisticDuration(count=requests, ns=waited))
    return wire.ModelStatistics(name="m", version="1", inference_stats=queue, batch_stats=sizes)


Said = dict[str, list[wire.ModelStatistics] | None]


@pytest.fixture
def said(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Said:
    """What servers tell by address; of model `m`, whose largest batch is 8."""
    told: Said = {}

    async def ask(endpoint: Asked, method: str, requests: Sequence[bytes], seconds: float) -> list[Any]:
        if method == "ModelStatistics":
            models = told[endpoint.address]
            return [None if models is None else wire.ModelStatisticsResponse(model_stats=models).SerializeToString()]
        return await servers.ask(endpoint, method, requests, seconds)

    monkeypatch.setattr(batches, "ask", ask)
    servers.models = {"a": {"m": (0, 0, 8)}, "b": {"m": (0, 0, 8)}, "c": {"m": (0, 0, 8)}}
    return told


async def test_runs_from_question_to_question(said: Said) -> None:
    meter = RunsMeter(lambda: list(said))
    said |= {"a": [told({8: (10, 400)}, 80, 1000)], "b": [told({}, 0, 0)], "c": None}
    assert await meter.ask(1_000, None) is None
    # A server that has restarted, or joined, has nothing to compare with.
    said |= {"a": [told({8: (30, 1200), 2: (4, 40)}, 250, 5000)], "b": [told({8: (5, 360)}, 40, 100)], "d": []}
    found = await meter.ask(2_000, 0.5)
    assert found is not None
    assert found.by_rows == {8: (25, 1160), 2: (4, 40)}
    assert (found.largest, found.requests, found.waited, found.cores) == (8, 210, 4100, 0.5)
    assert found.busy == (1160 + 40) / (1_000 * 2)
    said.clear()
    assert await meter.ask(3_000, None) is None


async def test_a_look_lasts_until_there_are_enough_runs(said: Said) -> None:
    """Slow models have few runs in an interval. Requests may wait in the pool's queue and not at the servers."""
    meter = RunsMeter(lambda: list(said), lambda: 3)
    said["a"] = [told({1: (10, 100)}, 10, 0)]
    assert await meter.ask(1_000, None) is None
    for second, more in ((2, 15), (3, 20)):
        said["a"] = [told({1: (more, 10 * more)}, more, 0)]
        assert await meter.ask(second * 1_000, None) is None
    said["a"] = [told({1: (30, 300)}, 30, 50)]
    found = await meter.ask(4_000, None)
    assert found is not None
    assert (found.by_rows, found.requests, found.waited) == ({1: (20, 200)}, 20, 50 + 3 * 3_000)
    assert found.busy == 200 / 3_000
    # Another server: the look begins anew.
    said["b"] = [told({1: (5, 50)}, 5, 0)]
    assert await meter.ask(5_000, None) is None
    said["b"] = [told({1: (25, 250)}, 25, 0)]
    found = await meter.ask(6_000, None)
    assert found is not None
    assert (found.requests, found.waited) == (20, 3 * 1_000)
