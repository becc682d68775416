"""The result cache row by row, in front of real models: answers are those to the batch as a whole, and models whose
rows depend on each other are found out."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forked
import graph_models
import model_kinds
import numpy as np
import onnx
import pytest
from backend_process import Backend
from daemon import Daemon, environment, http_listener
from graph_models import node
from kind_clients import Clients, Question, Reply
from model_kinds import KINDS, Bare, Tensors
from test_backend_kinds import REFUSALS, port_of, same

BATCHES = 10_000
AT_ONCE = 8
WAYS = ("json", "binary", "raw", "typed")  # a stream is not cached
ROW_WISE = [name for name, kind in KINDS.items() if kind.merges]
# What `verify-rows` says of the other kinds, in part.
OTHERS = {
    "quantized": "among the others",
    "quantized_transformer": "among the others",
    "softmax_over_rows": "among the others",
    "mean_of_rows": "among the others",
    "batch_statistics": "among the others",
    "if": "among the others",
    "rows_in_pairs": "output 'y' of 1 row has the shape [2, 2]",
    "loop": "no batch of any size: 'count' has the shape []",
    "stateful": "no batch of any size: 'h' has the shape [1, -1, 4]",
    "suppression": "no batch of any size: 'boxes' has the shape [1, -1, 4]",
    "nonzero": "no batch of any size: 'y' has the shape [2, -1]",
    "scalars": "no batch of any size: 'a' has the shape []",
    "constant_beside": "no batch of any size: 'k' has the shape [2]",
}


def seldom_mixed() -> onnx.ModelProto:
    """Each row apart, unless one of them has a value above 400: then all are scaled by the largest."""

    def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
        made = onnx.helper.make_tensor_value_info("found", graph_models.FLOAT, ("N", 4))
        return onnx.helper.make_graph(list(nodes), "branch", [], [made])

    return graph_models.model(
        [
            node("ReduceMax", "x", "largest", keepdims=0),
            node("Greater", "largest limit", "large"),
            node(
                "If", "large", "y",
                then_branch=branch(node("Div", "x largest", "found")), else_branch=branch(node("Relu", "x", "found")),
            ),
        ],
        limit=np.array(400, "f4"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Bare]]:
    root = tmp_path_factory.mktemp("kinds")
    bares = model_kinds.write(root, tmp_path_factory.mktemp("scratch"))
    path = root / "seldom_mixed" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(seldom_mixed(), path)
    return root, bares


@dataclass
class Run:
    """Batches whose rows come again, and what was wrong with their answers."""

    clients: Clients
    bares: dict[str, Bare]
    random: np.random.Generator
    asked: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    known: dict[str, list[Tensors]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    async def go(self, count: int) -> None:
        async def one_by_one() -> None:
            while self.asked < count:
                self.asked += 1
                await self.one()

        await asyncio.gather(*[one_by_one() for _ in range(AT_ONCE)])

    async def one(self) -> None:
        name = ROW_WISE[self.random.integers(len(ROW_WISE))]
        bare = self.bares[name]
        feeds = self.feeds_of(name)
        self.sizes[len(next(iter(feeds.values())))] += 1
        id_ = f"{self.random.integers(2**32):x}"
        question = Question(id_, name, bare.inputs, feeds)
        way = WAYS[self.random.integers(len(WAYS))]
        (reply,) = await self.clients.ask(way, [question])
        self.compare(question, reply, way)

    def feeds_of(self, name: str) -> Tensors:
        """A batch of rows of which most were in batches before."""
        known = self.known.setdefault(name, [])
        new = KINDS[name].feeds(self.random)
        if len(known) < 20 or self.random.random() < 0.1:
            known.append(new)
        alike = [one for one in known if all(one[key].shape[1:] == new[key].shape[1:] for key in new)]
        count = int(self.random.integers(2, 9))
        if sum(len(next(iter(one.values()))) for one in alike) == 0:
            return new
        every = {key: np.concatenate([one[key] for one in alike]) for key in new}
        chosen = self.random.integers(0, len(next(iter(every.values()))), count)
        return {key: array[chosen] for key, array in every.items()}

    def compare(self, question: Question, reply: Reply, way: str) -> None:
        bare = self.bares[question.model]
        expected, got = bare.run(question.feeds), reply.tensors
        where = f"{question.model} by {way}, { ({name: array.shape for name, array in question.feeds.items()}) }"
        if expected is None:
            self.refused += 1
            if got is not None or reply.code not in REFUSALS:
                self.wrong.append(f"{where}: expected a refusal, got {reply}")
        elif got is None:
            self.wrong.append(f"{where}: {reply.code} {reply.reason}")
        elif list(got) != list(bare.outputs):
            self.wrong.append(f"{where}: outputs {list(got)}")
        else:
            self.wrong += [
                f"{where}: output {name} is {got[name]!r}, expected {expected[name]!r}"
                for name in got
                if not same(bare.outputs[name], expected[name], got[name], merges=True)
            ]


def cached(daemon: Daemon, metric: str, label: str) -> dict[str, float]:
    return {dict(labels)[label]: n for labels, n in daemon.metrics(f"tidegate_cache_{metric}_total").items()}


async def test_answers_from_cached_rows_are_those_of_onnx_runtime(
    repository: tuple[Path, dict[str, Bare]], start: Callable[..., Daemon]
) -> None:
    serve = {"models": str(repository[0]), "min": 1, "threads": 1, "args": ["--concurrency", "2"]}
    pool = {"protocol": "oip", "serve": {**serve, "drain_timeout": "10s"}, "cache": {"rows": ROW_WISE}}
    listener = http_listener({"match": {"path": {"prefix": "/"}}, "pool": "kinds"})
    daemon = start({"listeners": {"web": listener}, "pools": {"kinds": pool}, "cache": {"size": "64MiB", "ttl": "10m"}})
    clients = Clients(daemon.port())
    run = Run(clients, repository[1], np.random.default_rng(19))
    await run.go(BATCHES)
    await clients.close()
    assert run.wrong == []
    assert sum(run.sizes[count] for count in range(2, 9)) > 0.9 * BATCHES
    assert run.refused > 0
    rows = cached(daemon, "rows", "result")
    assert rows["hit"] > rows["miss"] > 1000
    assert rows["repeated"] > 1000
    assert cached(daemon, "whole_batches", "reason") == {"request": 0, "answer": 0}
    requests = cached(daemon, "requests", "result")
    assert requests["hit"] > 1000
    # Some of a batch were found, and the rest was asked for.
    assert requests["miss"] > 1000
    assert "Traceback" not in daemon.log


@pytest.fixture(scope="module")
def server(repository: tuple[Path, dict[str, Bare]]) -> Iterator[Backend]:
    with Backend(repository[0], "--threads", "1") as backend:
        yield backend.wait_ready()


def verify(*arguments: str, server: Backend | None = None) -> subprocess.CompletedProcess[str]:
    where = ["--server", f"127.0.0.1:{port_of(server)}"] if server is not None else []
    return forked.run(["cache", "verify-rows", *arguments, *where], env=environment(), check=False)


@pytest.mark.parametrize("name", ROW_WISE)
def test_row_wise_models_are_found_to_be(server: Backend, name: str) -> None:
    done = verify(name, "--json", server=server)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["row_wise"]
    assert (found["model"], found["version"], found["reason"]) == (name, "1", "")
    assert found["batches"] == 200
    assert found["difference"] <= 1e-3 * 2
    assert found["distinct_rows"] >= 20


@pytest.mark.parametrize("name", OTHERS)
def test_models_that_are_not_row_wise_are_found_out(server: Backend, name: str) -> None:
    done = verify(name, server=server)
    assert done.returncode == 1, done.stdout
    assert "not row-wise: " in done.stdout
    assert OTHERS[name] in done.stdout


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_depend_on_each_other_for_certain_values_alone(server: Backend, seed: int) -> None:
    done = verify("seldom_mixed", "--seed", str(seed), server=server)
    assert done.returncode == 1, done.stdout
    assert "among the others" in done.stdout


def test_values_that_a_model_does_not_take(server: Backend) -> None:
    done = verify("texts", server=server)
    assert done.returncode == 1
    assert "takes too few rows of random values" in done.stderr
    assert "Cast" in done.stderr  # its own words


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nothing",), "no server has a model 'nothing'"),
        (("perceptron", "--version", "7"), "no server has a model 'perceptron'"),
        (("ragged", "--shape", "z:3"), "--shape z: the model's inputs are x"),
        (("ragged", "--shape", "x"), "'x' is no INPUT:N"),
        (("ragged", "--shape", "x:3,a"), "'x:3,a' is no INPUT:N"),
        (("perceptron", "--requests", "0"), "0 is less than 1"),
    ],
)
def test_what_cannot_be_tried(server: Backend, arguments: tuple[str, ...], error: str) -> None:
    done = verify(*arguments, server=server)
    assert done.returncode in (1, 2)
    assert error in done.stderr


def test_shapes_are_those_that_are_said(server: Backend) -> None:
    found = json.loads(verify("ragged", "--shape", "x:5", "--requests", "50", "--json", server=server).stdout)
    assert (found["row_wise"], found["batches"], found["distinct_rows"]) == (True, 50, 40)


def test_the_daemon_is_asked_where_the_model_is(
    repository: tuple[Path, dict[str, Bare]], server: Backend, start: Callable[..., Daemon]
) -> None:
    """Its configuration is printed, and works as it is."""
    endpoints = {"protocol": "oip", "endpoints": [f"127.0.0.1:{port_of(server)}"]}
    listener = http_listener({"match": {"path": {"prefix": "/"}}, "pool": "kinds"})
    config: dict[str, Any] = {"listeners": {"web": listener}, "pools": {"kinds": endpoints}, "cache": {}}
    daemon = start(config)
    done = daemon.command("cache", "verify-rows", "perceptron")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"model perceptron version 1 at 127.0.0.1:{port_of(server)}"
    assert done.stdout.endswith('pools:\n  kinds:\n    cache:\n      rows: ["perceptron"]\n')
    assert cached(daemon, "requests", "result")["miss"] == 0
    config["pools"]["kinds"] = {**endpoints, "cache": {"rows": ["perceptron"]}}
    assert daemon.reload(config)["ok"]
    assert "there is no pool 'other' of protocol oip; there are kinds" in daemon.command(
        "cache", "verify-rows", "perceptron", "--pool", "other"
    ).stderr  # fmt: skip
    config["pools"]["again"] = endpoints
    assert daemon.reload(config)["ok"]
    assert "more than one pool has a model 'perceptron'; --pool says which: again, kinds" in daemon.command(
        "cache", "verify-rows", "perceptron"
    ).stderr  # fmt: skip
    assert daemon.command("cache", "verify-rows", "perceptron", "--pool", "again").returncode == 0
