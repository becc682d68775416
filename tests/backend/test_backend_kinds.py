"""Models of many kinds under load, by every way that a client has: each answer is that of ONNX Runtime alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import model_kinds
import numpy as np
import pytest
from backend_process import BINDING, Backend
from daemon import Daemon, http_listener
from kind_clients import WAYS, Clients, Question, Reply
from model_kinds import KINDS, Bare
from waiting import eventually

from backend.repository.warmup import TOLERANCE
from lb.wire import grpc_service_pb2 as wire

REQUESTS = 5000  # to the model server by each way to run models, and as many to the daemon
AT_ONCE = 6  # bursts
MOST = 16  # requests of a burst
REPEATED = 0.3  # of the daemon's bursts: another one, asked before
# What a model refuses is its client's fault, or the model's: nobody is unavailable, and nothing is lost.
REFUSALS = {"INVALID_ARGUMENT", "INTERNAL", "400", "500", "stream"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Bare]]:
    root = tmp_path_factory.mktemp("kinds")
    return root, model_kinds.write(root, tmp_path_factory.mktemp("scratch"))


@dataclass
class Run:
    """Requests in bursts, and what was wrong with their answers."""

    clients: Clients
    bares: dict[str, Bare]
    random: np.random.Generator
    repeated: float
    asked: int = 0
    again: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    before: list[list[Question]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def go(self, count: int) -> None:
        async def bursts() -> None:
            while self.asked < count:
                await self.burst()

        await asyncio.gather(*[bursts() for _ in range(AT_ONCE)])

    async def burst(self) -> None:
        way = WAYS[self.random.integers(len(WAYS))]
        if self.before and self.random.random() < self.repeated:
            chosen = self.before[self.random.integers(len(self.before))]
            questions = [replace(one, id=self._id()) for one in chosen]
            self.again += len(questions)
        else:
            questions = self._new()
            self.before.append(questions)
        self.asked += len(questions)
        self.ways[way] += len(questions)
        for question, reply in zip(questions, await self.clients.ask(way, questions), strict=True):
            self._compare(way, question, reply)

    def _id(self) -> str:
        return f"{self.random.integers(2**32):x}"

    def _new(self) -> list[Question]:
        name = list(KINDS)[self.random.integers(len(KINDS))]
        bare = self.bares[name]
        return [
            Question(
                self._id(),
                name,
                bare.inputs,
                KINDS[name].feeds(self.random),
                list(bare.outputs)[-1:] if self.random.random() < 0.2 else (),
                "1" if self.random.random() < 0.2 else "",
            )
            for _ in range(self.random.integers(1, MOST + 1))
        ]

    def _compare(self, way: str, question: Question, reply: Reply) -> None:
        bare, feeds = self.bares[question.model], question.feeds
        expected, got = bare.run(feeds), reply.tensors
        where = f"{question.model} by {way}, { ({name: array.shape for name, array in feeds.items()}) }"
        if expected is None:
            self.refused[question.model] += 1
            if got is not None or reply.code not in REFUSALS or not reply.reason:
                self.wrong.append(f"{where}: expected a refusal, got {reply}")
            return
        if got is None:
            self.wrong.append(f"{where}: {reply.code} {reply.reason}")
            return
        names = question.wanted or list(bare.outputs)
        if list(got) != list(names):
            self.wrong.append(f"{where}: outputs {list(got)}")
        for name in names:
            if not same(bare.outputs[name], expected[name], got[name], KINDS[question.model].merges):
                self.wrong.append(f"{where}: output {name} is {got[name]!r}, expected {expected[name]!r}")


def same(datatype: str, expected: np.ndarray, got: np.ndarray, merges: bool) -> bool:
    """To the bit, or within the tolerance that the model server states where calls may have run together."""
    if expected.shape != got.shape:
        return False
    if datatype == "BF16":
        expected, got = ((bits.astype(np.uint32) << 16).view(np.float32) for bits in (expected, got))
    if merges and expected.dtype.kind == "f":
        tolerance = TOLERANCE[2 if datatype == "BF16" else expected.dtype.itemsize]
        return bool(np.allclose(got, expected, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True))
    if expected.dtype.kind == "f":
        return bool(np.array_equal(got, expected, equal_nan=True))
    return bool(np.array_equal(got, expected))


@pytest.fixture(params=[("-m", "backend"), ("-c", BINDING)], ids=["C API", "Python's binding"])
def server(repository: tuple[Path, dict[str, Bare]], request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A model server that holds requests for a moment, so that more of them run together."""
    arguments = ("--threads", "1", "--concurrency", "2", "--max-queue-delay", "2ms")
    with Backend(repository[0], *arguments, program=request.param) as backend:
        yield backend.wait_ready()
    assert ("its Python binding" in backend.log) == (request.param[0] == "-c")


def port_of(backend: Backend) -> int:
    return int(backend.targets[0].rpartition(":")[2])


async def counted(clients: Clients) -> dict[str, tuple[int, int]]:
    """Of each model: requests that were answered, and runs."""
    found = (await clients.stub.ModelStatistics(wire.ModelStatisticsRequest())).model_stats
    return {one.name: (one.inference_stats.success.count, one.execution_count) for one in found}


async def test_answers_of_the_model_server_are_those_of_onnx_runtime(
    repository: tuple[Path, dict[str, Bare]], server: Backend
) -> None:
    clients = Clients(port_of(server))
    run = Run(clients, repository[1], np.random.default_rng(16), 0)
    await run.go(REQUESTS)
    assert run.wrong == []
    assert run.asked >= REQUESTS
    assert min(run.ways[way] for way in WAYS) > REQUESTS / 10
    assert run.refused["table"] > 0
    assert run.refused["texts"] > 0
    found = await counted(clients)
    await clients.close()
    for name, kind in KINDS.items():
        answered, runs = found[name]
        assert answered > MOST
        assert (runs < answered) if kind.merges else (runs == answered), name
    assert "Traceback" not in server.log


async def test_answers_of_a_pool_with_a_result_cache_are_those_of_onnx_runtime(
    repository: tuple[Path, dict[str, Bare]], start: Callable[..., Daemon]
) -> None:
    arguments = ["--concurrency", "2", "--max-queue-delay", "2ms"]  # held, so that more run together
    serve = {"models": str(repository[0]), "min": 2, "threads": 1, "args": arguments}
    # Whatever a model takes, either server has its share of each.
    pool = {"protocol": "oip", "policy": "round_robin", "serve": {**serve, "drain_timeout": "10s"}}
    listener = http_listener({"match": {"path": {"prefix": "/"}}, "pool": "kinds"})
    daemon = start({"listeners": {"web": listener}, "pools": {"kinds": pool}, "cache": {"size": "64MiB", "ttl": "10m"}})
    endpoints = await asyncio.to_thread(
        eventually, lambda: len(up := daemon.pool("kinds")["endpoints"]) == 2 and up, "two model servers"
    )
    assert all(endpoint["health"] == "up" for endpoint in endpoints)
    clients = Clients(daemon.port())
    run = Run(clients, repository[1], np.random.default_rng(17), REPEATED)
    await run.go(REQUESTS)
    assert run.wrong == []
    assert run.asked >= REQUESTS
    assert min(run.ways[way] for way in WAYS) > REQUESTS / 10
    found = await counted(clients)
    await clients.close()
    cached = {dict(labels)["result"]: n for labels, n in daemon.metrics("tidegate_cache_requests_total").items()}
    assert cached["hit"] > run.again / 5  # streams are not cached, and what ran out of its batch is asked again
    assert sum(answered for answered, _ in found.values()) < run.asked - cached["hit"] + 1
    merging = [found[name] for name, kind in KINDS.items() if kind.merges]
    assert sum(runs for _, runs in merging) < sum(answered for answered, _ in merging)
    assert all(found[name][0] == found[name][1] for name, kind in KINDS.items() if not kind.merges)
    assert len(daemon.requests_by_endpoint("kinds")) == 2
    assert min(daemon.requests_by_endpoint("kinds").values()) > REQUESTS / 10
    assert "Traceback" not in daemon.log
