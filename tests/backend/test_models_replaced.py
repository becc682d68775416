"""A hundred loads, unloads and replacements through the daemon, under load, at a pool of two model servers."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import backend_models
import numpy as np
import psutil
import pytest
from daemon import Daemon, eventually, http_listener
from kind_clients import Clients, Question

from lb.wire import grpc_service_pb2 as wire

TURNS = 100
MEASURED = range(20, TURNS + 1, 20)
GROWTH = 24e6  # bytes: a model in a server takes more than 1 MB, and 160 are loaded between the measurements that count
ARGUMENTS = ["--model-control-mode", "explicit", "--load-model", "scale", "--concurrency", "2"]


def write(root: Path, model: str, factor: float) -> None:
    """`model` multiplies by `factor`: put in place at once."""
    made = backend_models.scale(root.parent / "made", factor, 1)
    target = root / model / "1" / "model.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(made, target)


def question(model: str, value: float = 1) -> Question:
    return Question("1", model, {"x": "FP32"}, {"x": np.full((1, 2), value, "f4")})


async def factor(clients: Clients, way: str, model: str, value: float = 1) -> float:
    """What the model multiplies by now."""
    (reply,) = await clients.ask(way, [question(model, value)])
    assert reply.tensors is not None, f"{model} by {way}: {reply.code} {reply.reason}"
    return float(reply.tensors["y"][0, 0]) / value


class Load:
    """Clients that ask for `scale` all the time, each by its own way. Half of them ask the same again and again, so
    that the cache answers. A request that begins now may be multiplied by `oldest`, or by what came after it."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.oldest = 1.0
        self.answers = 0
        self.wrong: list[str] = []
        self.seen: set[float] = set()
        self.going = True
        ways = ("raw", "raw", "typed", "stream", "json", "json", "binary", "binary")
        self.tasks = [asyncio.create_task(self._ask(way, i)) for i, way in enumerate(ways)]

    async def _ask(self, way: str, number: int) -> None:
        for turn in itertools.count():
            if not self.going:
                return
            oldest = self.oldest
            try:
                found = await factor(self.clients, way, "scale", 1 if number % 2 else 1 + turn % 50)
            except (AssertionError, OSError, EOFError, TimeoutError) as error:
                self.wrong.append(repr(error))
                return
            self.answers += 1
            self.seen.add(found)
            if not oldest <= found <= TURNS or found != int(found):
                self.wrong.append(f"{way}: {found} after {oldest}")

    async def end(self) -> None:
        self.going = False
        await asyncio.gather(*self.tasks)


def sizes(processes: list[psutil.Process]) -> list[tuple[int, int, int]]:
    """Memory, descriptors and threads of each."""
    return [(one.memory_info().rss, one.num_fds(), one.num_threads()) for one in processes]


async def settled(processes: list[psutil.Process]) -> list[tuple[int, int, int]]:
    """A model goes with its last inference, so the smallest of a few looks counts."""
    looks = []
    for _ in range(10):
        looks.append(sizes(processes))
        await asyncio.sleep(0.05)
    return [min(each) for each in zip(*looks, strict=True)]


def ready(daemon: Daemon) -> list[int]:
    """Both model servers' processes, once both are there."""
    pool = daemon.pool("models")
    pids = [one["pid"] for one in pool["managed"]["replicas"] if one["state"] == "ready"]
    return pids if len(pids) == 2 and [one["health"] for one in pool["endpoints"]] == ["up", "up"] else []


@pytest.mark.timeout(110)
async def test_no_request_fails_and_nothing_grows(tmp_path: Path, start: Callable[..., Daemon]) -> None:
    root = tmp_path / "models"
    write(root, "scale", 1)
    route: dict[str, Any] = {"match": {"path": {"prefix": "/"}}, "pool": "models"}
    daemon = start(
        {
            "listeners": {
                "web": http_listener(route),
                "operators": http_listener({**route, "name": "operators", "server_calls": ["models"]}),
            },
            "pools": {
                "models": {
                    "protocol": "oip",
                    "serve": {"models": str(root), "min": 2, "threads": 1, "drain_timeout": "10s", "args": ARGUMENTS},
                }
            },
            "cache": {"size": "16MiB"},
        }
    )
    replicas = await asyncio.to_thread(eventually, lambda: ready(daemon), "both model servers")
    processes = [psutil.Process(pid) for pid in (*replicas, daemon.process.pid, *daemon.worker_pids())]
    clients, operators = Clients(daemon.port()), Clients(daemon.port("operators"))
    load, measured = Load(clients), []
    for turn in range(1, TURNS + 1):
        write(root, "scale", turn)
        await operators.stub.RepositoryModelLoad(wire.RepositoryModelLoadRequest(model_name="scale"), timeout=60)
        load.oldest = turn
        write(root, "guest", -turn)
        await operators.stub.RepositoryModelLoad(wire.RepositoryModelLoadRequest(model_name="guest"), timeout=60)
        for way in ("raw", "json"):  # each server is asked, or the cache: which must have forgotten the one before
            assert [await factor(clients, way, "guest") for _ in range(4)] == [-turn] * 4
        await operators.stub.RepositoryModelUnload(wire.RepositoryModelUnloadRequest(model_name="guest"), timeout=60)
        for way in ("raw", "json"):
            (reply,) = await clients.ask(way, [question("guest")])
            assert reply.tensors is None
        if turn in MEASURED:
            measured.append(await settled(processes))
        assert load.wrong == []
    await load.end()
    assert load.wrong == []
    assert load.answers > 10 * TURNS
    assert len(load.seen) > TURNS / 2
    for way in ("raw", "json"):
        assert await factor(clients, way, "scale") == TURNS
    await clients.close()
    await operators.close()
    cached = {dict(labels)["result"]: n for labels, n in daemon.metrics("tidegate_cache_requests_total").items()}
    assert cached["hit"] > TURNS
    for process, looks in zip(processes, zip(*measured, strict=True), strict=True):
        memory, descriptors, threads = zip(*looks, strict=True)
        assert memory[-1] - memory[0] < GROWTH, (process, looks)
        assert descriptors[-1] <= descriptors[0] + 4, (process, looks)
        assert threads[-1] <= threads[0] + 4, (process, looks)  # an executor's, up to its size
    assert [one["restarts"] for one in daemon.pool("models")["managed"]["replicas"]] == [0, 0]
    assert "Traceback" not in daemon.log
