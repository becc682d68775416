"""Models that leave memory where it has a limit, and are loaded again by the next request."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import asynccontextmanager
from pathlib import Path

import backend_models
import grpc
import numpy as np
import pytest
import sequence_models
from backend_process import Backend, infer_request, until
from onnx import TensorProto, helper

from backend import options
from backend.errors import Unavailable
from backend.model import Model
from backend.native import NativeSession
from backend.on_demand import OnDemandSession
from backend.repository.memory import Memory, Use, resident
from backend.repository.settings import Settings
from lb.wire import grpc_service_pb2 as wire
from lb.wire.services import INFERENCE, Stub

MIB = 1 << 20
ROWS = 20_000  # of 1 KiB: the size of a model


def model(root: Path, name: str, size: int) -> Model:
    path = backend_models.scale(root / name, 2.0, 1)
    made = Model(name, 1, NativeSession(path, name, ("cpu",), 1), Settings())
    made.file_bytes = size
    return made


def test_who_leaves(tmp_path):
    a, b, c = (model(tmp_path, name, 10) for name in "abc")
    memory = Memory(20)
    uses = [Use(a, 3, False), Use(b, 1, False), Use(c, 2, False)]
    assert memory.leaving(uses) == [b]
    assert memory.leaving(uses[:2]) == []
    assert memory.leaving(uses[:2], c) == [b]
    assert memory.leaving([Use(a, 3, False), Use(b, 1, True), Use(c, 2, False)]) == [c]  # one in use stays
    assert memory.leaving([Use(b, 1, True), Use(c, 2, True)], a) == []
    big = model(tmp_path, "big", 100)
    assert memory.leaving([Use(big, 9, False)]) == []  # one stays, however large it is
    assert memory.leaving([Use(big, 9, False), Use(a, 3, False)]) == [a]
    assert memory.leaving([Use(big, 9, False)], a) == [big]
    b.resident_bytes = 50
    assert memory.of(b) == 50
    b.resident_bytes = 0  # loaded again, into what it had left
    assert memory.of(b) == 50
    assert resident() > MIB


def test_the_limit_is_a_size(capsys):
    free = ["serve", "--models", "/", "--listen", "127.0.0.1:0"]
    assert options.parse(free).model_memory_limit is None
    assert options.parse([*free, "--model-memory-limit", "1.5GiB"]).model_memory_limit == 1536 * MIB
    with pytest.raises(SystemExit):
        options.parse([*free, "--model-memory-limit", "many"])
    assert "expected a size like 512MiB" in capsys.readouterr().err


class Client:
    def __init__(self, stub: Stub) -> None:
        self.stub = stub

    async def infer(self, name: str, row: int, timeout: float = 60.0) -> np.ndarray:
        request = infer_request(name, ("index", "INT64", np.array([[row]])))
        answer = await self.stub.ModelInfer(request, timeout=timeout)
        return np.frombuffer(answer.raw_output_contents[0], "<f4")

    async def index(self) -> dict[str, tuple[str, str]]:
        models = (await self.stub.RepositoryIndex(wire.RepositoryIndexRequest())).models
        return {one.name: (one.state, one.reason) for one in models}

    async def out(self) -> list[str]:
        """The models that are not in memory."""
        return [name for name, (_, reason) in (await self.index()).items() if "not in memory" in reason]

    async def count(self, name: str) -> int:
        (said,) = (await self.stub.ModelStatistics(wire.ModelStatisticsRequest(name=name))).model_stats
        assert said.execution_count == sum(one.compute_infer.count for one in said.batch_stats)
        return said.inference_count


@asynccontextmanager
async def served(root: Path, *arguments: str, limit: str = "30MiB"):
    with Backend(root, "--threads", "1", "--model-cache", "off", "--model-memory-limit", limit, *arguments) as backend:
        await asyncio.to_thread(backend.wait_ready)
        async with grpc.aio.insecure_channel(backend.targets[0]) as channel:
            yield Client(Stub(channel, INFERENCE)), backend


@pytest.fixture
def root(tmp_path):
    for name in ("one", "two"):
        backend_models.deep(tmp_path / "models", layers=3, rows=ROWS, name=name)
    return tmp_path / "models"


def expected(root: Path, row: int) -> np.ndarray:
    session = NativeSession(root / "one" / "1" / "model.onnx", "model", ("cpu",), 1)
    return session.run(["y"], {"index": np.array([[row]])})[0].reshape(-1)


async def test_models_leave_memory_and_come_back(root):
    async with served(root) as (client, backend):
        assert await client.out() == ["one"]  # which was loaded first
        assert (await client.index())["one"] == ("READY", "not in memory: the next request loads it")
        assert (await client.stub.ModelReady(wire.ModelReadyRequest(name="one"))).ready
        assert (await client.stub.ModelMetadata(wire.ModelMetadataRequest(name="one"))).inputs[0].name == "index"
        for round_ in range(1, 4):
            for name, other in (("one", "two"), ("two", "one")):
                assert np.array_equal(await client.infer(name, 7 * round_), expected(root, 7 * round_))
                assert await client.out() == [other]
                await asyncio.sleep(0.1)  # for the inferences before it was loaded to be counted
                assert await client.count(name) == round_
        for row in range(20):  # compiled code again
            assert np.array_equal(await client.infer("two", row), expected(root, row))
        assert await client.count("two") == 23
        said = (await client.stub.ModelConfig(wire.ModelConfigRequest(name="two"))).config.parameters
        assert int(said["file_bytes"].string_value) > ROWS * 1024
        assert backend.log.count("loaded again") == 6


async def test_all_that_wait_are_answered_by_one_load(root):
    async with served(root) as (client, backend):
        found = await asyncio.gather(*(client.infer("one", row) for row in range(50)))
        assert all(np.array_equal(one, expected(root, row)) for row, one in enumerate(found))
        assert backend.log.count("loaded again") == 1
        await asyncio.sleep(0.1)
        assert await client.count("one") == 50


async def test_a_request_waits_for_the_load_within_its_deadline(tmp_path):
    for name, layers in (("one", 1500), ("two", 3)):
        backend_models.deep(tmp_path / "models", layers=layers, rows=ROWS, name=name)
    async with served(tmp_path / "models") as (client, backend):
        assert await client.out() == ["one"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer("one", 1, timeout=0.05)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await client.infer("one", 1)).shape == (256,)
        assert backend.log.count("loaded again") == 1


async def test_a_model_in_use_stays(root, second):
    backend_models.slow(root)
    async with served(root, "--concurrency", "2", limit="1KiB") as (client, backend):
        assert sorted(await client.out()) == ["one", "slow"]
        request = infer_request("slow", ("count", "INT64", np.array(second)))
        await client.stub.ModelInfer(infer_request("slow", ("count", "INT64", np.array(3))))
        long = asyncio.ensure_future(client.stub.ModelInfer(request))
        await asyncio.sleep(0.2)
        assert (await client.infer("one", 1)).shape == (256,)
        assert "slow" not in await client.out()
        assert int(np.frombuffer((await long).raw_output_contents[0], "<i8")[0]) == second
        until(lambda: backend.log.count("model one version 1: leaves memory") == 2, "no room is made later")
        assert sorted(await client.out()) == ["one", "two"]  # the one used last stays


async def test_what_cannot_be_loaded_again_says_so_and_is_tried_again(root, tmp_path):
    path = root / "one" / "1" / "model.onnx"
    async with served(root) as (client, _):
        shutil.move(path, tmp_path / "aside")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer("one", 1)
        assert "model one version 1" in caught.value.details()
        assert "cannot load" in caught.value.details()
        assert "the last try failed: " in (await client.index())["one"][1]
        assert (await client.infer("two", 1)).shape == (256,)
        shutil.move(tmp_path / "aside", path)
        assert (await client.infer("one", 1)).shape == (256,)
        assert await client.out() == ["two"]


async def test_a_load_that_fails_fails_all_that_waited_for_it(tmp_path):
    before = NativeSession(backend_models.scale(tmp_path, 2.0, 1), "model", ("cpu",), 1)
    go, loads = asyncio.Event(), 0

    async def load() -> NativeSession:
        nonlocal loads
        loads += 1
        await go.wait()
        if loads == 1:
            raise Unavailable("no memory")
        return before

    session = OnDemandSession(before, load)
    came = time.monotonic_ns()
    waiting = [asyncio.create_task(session.wait_loaded(came)) for _ in range(5)]
    await asyncio.sleep(0)
    go.set()
    assert {str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)} == {"no memory"}
    with pytest.raises(Unavailable, match="no memory"):  # it waited for a run of those
        await session.wait_loaded(came)
    assert loads == 1
    await session.wait_loaded(time.monotonic_ns())
    await session.wait_loaded(came)
    assert loads == 2


async def test_a_request_for_the_files_of_before_is_not_run_on_others(root):
    async with served(root) as (client, backend):
        assert await client.out() == ["one"]
        nodes = [helper.make_node("Cast", ["index"], ["y"], to=TensorProto.FLOAT)]
        backend_models.save(root, "one", nodes, [("index", "FP32", ("N", 1))], [("y", "FP32", ("N", 1))])
        waiting = [client.infer("one", 1) for _ in range(3)]
        said = []
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, grpc.aio.AioRpcError)
            said.append((error.code(), error.details()))
        waited = (grpc.StatusCode.UNAVAILABLE, "its files have changed since it left memory")
        # One that comes when the other model has been loaded has an input of another type.
        late = (grpc.StatusCode.INVALID_ARGUMENT, "expected datatype FP32")
        assert all(any(code == of[0] and of[1] in text for of in (waited, late)) for code, text in said), said
        assert any(code == waited[0] for code, _ in said)
        request = infer_request("one", ("index", "FP32", np.ones((1, 1), "<f4")))
        assert (await client.stub.ModelInfer(request)).raw_output_contents[0] == np.float32(1).tobytes()
        assert "Traceback" not in backend.log


async def test_a_model_that_is_not_in_memory_is_unloaded_and_loaded_by_calls(root):
    async with served(root, "--model-control-mode", "explicit", "--load-model", "*") as (client, _):
        assert await client.out() == ["one"]
        await client.stub.RepositoryModelUnload(wire.RepositoryModelUnloadRequest(model_name="one"))
        await asyncio.sleep(0.2)
        assert (await client.index())["one"] == ("UNAVAILABLE", "unloaded")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer("one", 1)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        await client.stub.RepositoryModelLoad(wire.RepositoryModelLoadRequest(model_name="one"))
        assert await client.out() == ["two"]
        assert (await client.infer("one", 1)).shape == (256,)


async def test_a_model_of_sequences_stays(root):
    """Their state is in the server: a sequence would lose it."""
    sequence_models.accumulator(root, extra="max_sequence_idle_microseconds: 60000000")

    def step(value: float, start: bool = False) -> wire.ModelInferRequest:
        request = infer_request("total", ("x", "FP32", np.array([[value, 0]], "<f4")))
        request.parameters["sequence_id"].int64_param = 7
        request.parameters["sequence_start"].bool_param = start
        return request

    async with served(root, limit="1KiB") as (client, backend):
        assert await client.out() == ["one"]  # "total", which was loaded next, stays
        await client.stub.ModelInfer(step(1, start=True))
        for row in range(2):
            await client.infer("one", row)
            await client.infer("two", row)
        await asyncio.sleep(1.5)  # longer than between two looks at memory
        assert await client.out() == ["one"]
        answer = await client.stub.ModelInfer(step(10))
        assert np.frombuffer(answer.raw_output_contents[0], "<f4")[0] == 11
        assert "model total version 1: leaves memory" not in backend.log
