"""The result cache of a daemon with several workers, in front of a model server that comes and goes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from daemon import Daemon, http_listener, route, worker_of
from infer_server import InferServer
from traffic import Client, request
from waiting import until

from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]
INFER = "/v2/models/m/infer"


class Model(InferServer):
    """Answers with the number of its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0

    async def numbers(self, sent: wire.ModelInferRequest) -> list[int]:
        await self.open.wait()
        self.answers += 1
        return [self.answers]


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    made = Model()
    await made.start()
    yield made
    await made.stop()


def config(model: Model, **cache: Any) -> dict[str, Any]:
    pool = {"protocol": "oip", "endpoints": [f"127.0.0.1:{model.port}"], "outlier": "off"}
    return {
        "workers": 2,
        "listeners": {"web": http_listener(route("/v2", "models"))},
        "pools": {"models": pool},
        "cache": {"size": "1MiB", **cache},
    }


async def clients(daemon: Daemon) -> list[Client]:
    """One at each worker."""
    found: dict[int | None, Client] = {}
    for _ in range(400):
        client = await Client(daemon.port()).connect()
        await client.ask(request("GET", "/nothing"))
        if found.setdefault(worker_of(daemon.worker_pids(), client.local_port), client) is not client:
            client.close()
        if len(found) == 2:
            break
    assert len(found) == 2, "one worker took all connections"
    return list(found.values())


def asking(value: float = 1.0) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}
    return request("POST", INFER, {"inputs": [tensor]})


async def numbers(each: list[Client]) -> list[tuple[int, str | None]]:
    answers = [await client.ask(asking()) for client in each]
    assert [a.status for a in answers] == [200] * len(each)
    return [(a.json["outputs"][0]["data"][0], a.cache) for a in answers]


async def test_all_workers_together_make_a_stale_answer_anew_once(start: Start, model: Model) -> None:
    daemon = start(config(model, ttl="200ms", stale_while_revalidate="1h", refresh_early=False))
    both = await clients(daemon)
    assert await numbers(both) == [(1, "tidegate; fwd=miss; stored"), (1, "tidegate; hit")]
    await asyncio.sleep(0.3)
    model.open.clear()
    for _ in range(10):
        assert await numbers(both) == [(1, "tidegate; hit; detail=stale-while-revalidate")] * 2
    await until(lambda: model.asked == 2, "nobody asked")
    model.open.set()

    async def anew() -> bool:
        return [number for number, _ in await numbers(both)] == [2, 2]

    deadline = asyncio.get_running_loop().time() + 30
    while not await anew():
        assert asyncio.get_running_loop().time() < deadline
    results = daemon.metrics("tidegate_cache_requests_total")
    by = {dict(labels)["result"]: value for labels, value in results.items()}
    assert by["refreshed"] >= 1
    assert by["stale"] >= 20


async def test_a_model_server_that_is_away_and_comes_back(start: Start, model: Model) -> None:
    daemon = start(config(model, ttl="200ms", stale_if_error="1h", refresh_early=False))
    both = await clients(daemon)
    assert (await numbers(both))[0] == (1, "tidegate; fwd=miss; stored")
    await model.stop()
    await asyncio.sleep(0.3)
    assert await numbers(both[:1]) == [(1, "tidegate; fwd=stale; detail=stale-if-error")]
    for _ in range(10):  # nor does the other worker ask
        assert await numbers(both) == [(1, "tidegate; hit; detail=stale-if-error")] * 2
    other = await both[0].ask(asking(2.0))
    assert other.status in (502, 503)  # what is not in the cache fails
    await model.start()
    await asyncio.sleep(1)

    async def back() -> bool:
        return [number for number, _ in await numbers(both)] == [2, 2]

    deadline = asyncio.get_running_loop().time() + 60
    while not await back():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def test_a_worker_that_is_killed_while_it_makes_an_answer_anew(start: Start, model: Model) -> None:
    """Its claim ends with its lease."""
    pool = {"response_timeout": "1s"}
    made = config(model, ttl="200ms", stale_while_revalidate="1h", refresh_early=False)
    made["pools"]["models"] |= pool
    daemon = start(made)
    first, second = await clients(daemon)
    await numbers([first])
    await asyncio.sleep(0.3)
    model.open.clear()
    await numbers([first])
    await until(lambda: model.asked == 2, "nobody asked")
    worker = worker_of(daemon.worker_pids(), first.local_port)
    assert worker is not None

    os.kill(worker, signal.SIGKILL)
    model.open.set()

    async def anew() -> bool:
        return (await numbers([second]))[0][0] >= 2

    deadline = asyncio.get_running_loop().time() + 60
    while not await anew():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
