"""Models that are loaded, replaced and unloaded while the server runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from contextlib import asynccontextmanager

import backend_models
import grpc
import numpy as np
import psutil
import pytest
from backend_process import DEADLINE, DIGITS, Backend, infer_request, until

from backend import options
from backend.errors import InvalidInput, ModelFailure, NotFound, StartError, Unavailable, Unsupported
from backend.repository import control
from backend.repository.catalog import Catalog
from backend.repository.control import Control
from lb.wire import grpc_service_pb2 as wire
from lb.wire.services import INFERENCE, Stub

EXPLICIT = ("--model-control-mode", "explicit")
POLL = ("--model-control-mode", "poll", "--repository-poll-secs", "1")


class Serving:
    """What was offered, and models that go on until `end`."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.history: list[dict[str, str]] = []
        self.ended: dict[str, asyncio.Event] = {}

    def offer(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.history.append(self.states())

    async def wait_ended(self, model) -> None:
        await self.ended.setdefault(repr(model), asyncio.Event()).wait()

    def states(self) -> dict[str, str]:
        return {f"{entry.name}:{entry.version}": entry.state for entry in self.catalog.entries}

    def reason(self, name: str, version: str = "1") -> str:
        return next(one.reason for one in self.catalog.entries if (one.name, one.version) == (name, version))

    def factor(self, version: str = "") -> float:
        """What `scale` multiplies by."""
        session = self.catalog.get("scale", version).session
        return float(session.run(["y"], {"x": np.ones((1, 2), np.float32)})[0][0, 0])


@asynccontextmanager
async def controlled(root, *arguments: str):
    """A control that has started, and what it offers to."""
    serving = Serving()
    made = Control(options.parse(["serve", "--models", str(root), "--listen", "127.0.0.1:0", *arguments]), serving)
    try:
        await made.start()
        yield made, serving
    finally:
        made.close()


def write(root, factor: float, version: int = 1) -> None:
    """A version of `scale`, put in place at once."""
    made = backend_models.scale(root.parent / "made", factor, version)
    target = root / "scale" / str(version) / "model.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(made, target)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


async def test_a_model_is_loaded_replaced_and_unloaded(root):
    write(root, 2)
    backend_models.pick(root)
    async with controlled(root, *EXPLICIT) as (made, serving):
        assert serving.states() == {}
        assert await made.unloaded() == ["pick", "scale"]
        await made.load("scale", {})
        assert serving.history[-2:] == [{"scale:1": "LOADING"}, {"scale:1": "READY"}]
        assert (serving.factor(), await made.unloaded()) == (2, ["pick"])
        old = serving.catalog.get("scale", "")
        write(root, 3)
        await made.load("scale", {})
        assert serving.factor() == 3
        assert {"scale:1": "LOADING"} not in serving.history[2:]  # the old one is served meanwhile
        await made.unload("scale")
        assert serving.states() == {"scale:1": "UNLOADING"}
        with pytest.raises(Unavailable, match="model 'scale' is not ready: its last inferences are answered"):
            serving.catalog.get("scale", "")
        await made.unload("scale")  # once more
        assert serving.states() == {"scale:1": "UNLOADING"}
        serving.ended.setdefault(repr(old), asyncio.Event()).set()
        await asyncio.sleep(0.1)
        assert serving.states() == {"scale:1": "UNAVAILABLE"}
        assert serving.reason("scale") == "unloaded"
        await made.load("scale", {})
        assert serving.states() == {"scale:1": "READY"}


async def test_what_cannot_be_loaded_takes_nothing_away(root):
    write(root, 2)
    async with controlled(root, *EXPLICIT, "--load-model", "scale") as (made, serving):
        (root / "scale" / "1" / "model.onnx").write_bytes(b"torn")
        with pytest.raises(ModelFailure, match=r"failed to load 'scale': the one before is served, .*cannot load"):
            await made.load("scale", {})
        assert serving.states() == {"scale:1": "READY"}
        assert serving.reason("scale").startswith("the one before is served, since the newer files cannot be loaded: ")
        write(root, 4)
        (root / "scale" / "config.yaml").write_text("nonsense: 1")
        with pytest.raises(ModelFailure, match="has no field named"):
            await made.load("scale", {})
        assert serving.factor() == 2
        (root / "scale" / "config.yaml").unlink()
        (root / "scale" / "2").mkdir()
        (root / "scale" / "2" / "model.onnx").write_bytes(b"torn")
        with pytest.raises(ModelFailure, match="failed to load 'scale': model scale version 2: cannot load"):
            await made.load("scale", {})
        assert serving.states() == {"scale:1": "READY", "scale:2": "UNAVAILABLE"}
        assert (serving.factor(), serving.reason("scale")) == (4, "")
        shutil.rmtree(root / "scale")
        with pytest.raises(ModelFailure, match="cannot read the model"):
            await made.load("scale", {})
        assert serving.factor() == 4


async def test_an_unexpected_error_is_a_reason(root, monkeypatch, caplog):
    write(root, 2)

    def fail(file, settings, cache):
        raise RuntimeError("a bug")

    async with controlled(root, *EXPLICIT) as (made, serving):
        monkeypatch.setattr(control, "load", fail)
        with pytest.raises(ModelFailure, match="unexpected error; the server's log has more"):
            await made.load("scale", {})
        assert serving.states() == {"scale:1": "UNAVAILABLE"}
        assert "a bug" in caplog.text


async def test_a_load_goes_on_when_its_caller_leaves(root):
    write(root, 2)
    async with controlled(root, *EXPLICIT) as (made, serving):
        call = asyncio.create_task(made.load("scale", {}))
        await asyncio.sleep(0)
        call.cancel()
        await made.load("scale", {})  # behind the first one
        assert serving.factor() == 2
        assert serving.history.count({"scale:1": "LOADING"}) == 1


@pytest.mark.parametrize(
    ("name", "parameters", "error", "message"),
    [
        ("none", {}, NotFound, "has no model 'none'"),
        ("../models/scale", {}, InvalidInput, "is no name of a model"),
        ("", {}, InvalidInput, "is no name of a model"),
        (
            "scale",
            {"file:1/model.onnx": {"bytes_param": b""}},
            Unsupported,
            "files are taken from the model repository",
        ),
        ("scale", {"other": {"bool_param": True}}, InvalidInput, "unknown parameter 'other'; expected config"),
        ("scale", {"config": {"bool_param": True}}, InvalidInput, "expected a string with the configuration in JSON"),
        ("scale", {"config": {"string_param": "{"}}, InvalidInput, "the parameter 'config' is no JSON"),
        (
            "scale",
            {"config": {"string_param": '{"platform": "python"}'}},
            ModelFailure,
            "the parameter 'config': platform",
        ),
    ],
)
async def test_loads_that_are_refused(root, name, parameters, error, message):
    write(root, 2)
    given = {key: wire.ModelRepositoryParameter(**value) for key, value in parameters.items()}
    async with controlled(root, *EXPLICIT) as (made, serving):
        with pytest.raises(error, match=message):
            await made.load(name, given)
        with pytest.raises(NotFound, match="model 'never' is not loaded"):
            await made.unload("never")
        assert "READY" not in serving.states().values()


async def test_a_load_with_a_configuration(root):
    write(root, 2)
    (root / "scale" / "config.pbtxt").write_text("max_batch_size: 4")
    override = {"config": wire.ModelRepositoryParameter(string_param=json.dumps({"max_batch_size": 7}))}
    async with controlled(root, *EXPLICIT) as (made, serving):
        await made.load("scale", override)
        assert serving.catalog.get("scale", "").max_batch == 7
        await made.load("scale", {})
        assert serving.catalog.get("scale", "").max_batch == 4


async def test_which_models_are_loaded_at_the_start(root):
    with pytest.raises(StartError, match="is empty"):
        async with controlled(root):
            pass
    for mode in ("poll", "explicit"):
        async with controlled(root, "--model-control-mode", mode) as (_, serving):
            assert serving.states() == {}
    write(root, 2)
    backend_models.pick(root)
    for arguments, names in (((), ["pick:1", "scale:1"]), ((*EXPLICIT, "--load-model", "pick"), ["pick:1"])):
        async with controlled(root, *arguments) as (_, serving):
            assert list(serving.states()) == names
    async with controlled(root, *EXPLICIT, "--load-model", "*", "--load-model", "none") as (_, serving):
        assert serving.states() == {"none:": "UNAVAILABLE", "pick:1": "READY", "scale:1": "READY"}
    with pytest.raises(StartError, match=r"cannot read the model .*/none: No such file"):
        async with controlled(root, *EXPLICIT, "--load-model", "none"):
            pass


@pytest.mark.parametrize("mode", ["none", "poll"])
async def test_the_error_of_other_modes_names_the_right_one(root, mode):
    write(root, 2)
    async with controlled(root, "--model-control-mode", mode) as (made, _):
        for call in (made.load("scale", {}), made.unload("scale")):
            with pytest.raises(
                Unsupported, match=f"in --model-control-mode explicit only, and this server's is {mode}"
            ):
                await call


async def test_poll_follows_versions_and_configurations(root, caplog):
    write(root, 2)
    async with controlled(root, *POLL) as (made, serving):
        await made.look()
        assert len(serving.history) == 1  # nothing has changed
        write(root, 3, version=2)
        await made.look()
        assert (serving.factor(), serving.factor("1")) == (3, 2)
        kept = serving.catalog.get("scale", "1")
        write(root, 5, version=2)
        await made.look()
        assert (serving.factor(), serving.catalog.get("scale", "1")) == (5, kept)
        (root / "scale" / "config.yaml").write_text("{max_batch_size: 3, version_policy: {latest: {num_versions: 1}}}")
        await made.look()
        assert serving.states() == {"scale:2": "READY"}
        assert serving.catalog.get("scale", "").max_batch == 3
        write(root, 7, version=3)
        (root / "scale" / "3" / "model.onnx").write_bytes(b"torn")
        await made.look()
        assert serving.states() == {"scale:2": "READY", "scale:3": "UNAVAILABLE"}  # the policy alone would end 2
        assert serving.factor() == 5
        count = len(serving.history)
        await made.look()
        assert len(serving.history) == count  # it is not tried again and again
        write(root, 7, version=3)
        await made.look()
        assert serving.states() == {"scale:3": "READY"}
        (root / "scale" / "config.yaml").unlink()
        shutil.rmtree(root / "scale" / "3")
        await made.look()
        assert serving.states() == {"scale:1": "READY", "scale:2": "READY"}
        backend_models.pick(root)
        shutil.rmtree(root / "scale")
        await made.look()
        assert serving.states() == {"pick:1": "READY"}
        with pytest.raises(NotFound):
            serving.catalog.get("scale", "")


async def test_poll_keeps_what_it_has_when_the_repository_cannot_be_read(root, caplog):
    write(root, 2)
    async with controlled(root, *POLL) as (made, serving):
        away = root.rename(root.parent / "away")
        for _ in range(2):
            await made.look()
        assert serving.factor() == 2
        assert caplog.text.count("what was loaded is served") == 1
        away.rename(root)
        write(root, 3)
        await made.look()
        assert serving.factor() == 3


async def test_poll_tells_why_a_configuration_is_not_followed(root):
    write(root, 2)
    async with controlled(root, *POLL) as (made, serving):
        (root / "scale" / "config.pbtxt").write_text("max_batch_size: many")
        await made.look()
        assert serving.states() == {"scale:1": "READY"}
        assert "config.pbtxt:1:17" in serving.reason("scale")
        (root / "scale" / "config.pbtxt").unlink()
        await made.look()
        assert serving.reason("scale") == ""


# Real servers.


def ones(rows: int = 1):
    return infer_request("scale", ("x", "FP32", np.ones((rows, 2), "<f4")))


def first(answer) -> float:
    return float(np.frombuffer(answer.raw_output_contents[0], "<f4")[0])


async def code(call) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_no_request_fails_while_a_model_is_replaced(root):
    """A hundred times under load; neither memory nor descriptors nor threads grow with the number of replacements."""
    write(root, 1)
    with Backend(root, *EXPLICIT, "--load-model", "*", "--threads", "1", "--concurrency", "2") as backend:
        process = psutil.Process(backend.process.pid)
        async with grpc.aio.insecure_channel(backend.wait_ready().targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            metadata = await stub.ServerMetadata(wire.ServerMetadataRequest())
            assert "model_repository" in metadata.extensions
            going, seen, answered = True, set(), 0

            async def ask():
                nonlocal answered
                while going:
                    seen.add(first(await stub.ModelInfer(ones(3), timeout=DEADLINE)))
                    answered += 1

            asking = [asyncio.create_task(ask()) for _ in range(8)]
            sizes = []
            for turn in range(1, 101):
                write(root, turn)
                await stub.RepositoryModelLoad(wire.RepositoryModelLoadRequest(model_name="scale"), timeout=DEADLINE)
                if turn % 20 == 0:
                    await asyncio.sleep(0.1)
                    sizes.append((process.memory_info().rss, process.num_fds(), process.num_threads()))
            assert first(await stub.ModelInfer(ones())) == 100
            going = False
            await asyncio.gather(*asking)
        assert answered > 100
        assert len(seen) > 50
        assert len({(descriptors, threads) for _, descriptors, threads in sizes}) == 1, sizes
        # One model takes more than 1 MB, and 60 were replaced. AddressSanitizer keeps 256 MB of what was freed.
        assert sizes[-1][0] - sizes[1][0] < (256e6 if "TIDEGATE_SANITIZED" in os.environ else 20e6), sizes
        assert "Traceback" not in backend.log


async def test_a_model_ends_with_its_last_inference(root, second):
    backend_models.slow(root)
    with Backend(root, *EXPLICIT, "--load-model", "slow") as backend:
        async with grpc.aio.insecure_channel(backend.wait_ready().targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            count = np.array(second, "<i8")
            running = stub.ModelInfer(infer_request("slow", ("count", "INT64", count)), timeout=DEADLINE)
            await asyncio.sleep(0)
            await stub.ServerLive(wire.ServerLiveRequest())  # behind it, on the same connection
            await stub.RepositoryModelUnload(wire.RepositoryModelUnloadRequest(model_name="slow"))
            index = (await stub.RepositoryIndex(wire.RepositoryIndexRequest())).models
            assert [(one.name, one.version, one.state) for one in index] == [("slow", "1", "UNLOADING")]
            assert not (await stub.ModelReady(wire.ModelReadyRequest(name="slow"))).ready
            assert await code(stub.ModelInfer(infer_request("slow", ("count", "INT64", count)))) is (
                grpc.StatusCode.UNAVAILABLE
            )
            assert np.frombuffer((await running).raw_output_contents[0], "<i8")[0] == second
            until(lambda: "model slow version 1: ended" in backend.log, "it never ended")
            index = (await stub.RepositoryIndex(wire.RepositoryIndexRequest())).models
            assert [(one.state, one.reason) for one in index] == [("UNAVAILABLE", "unloaded")]
            assert (await stub.ServerReady(wire.ServerReadyRequest())).ready
            assert not (await stub.RepositoryIndex(wire.RepositoryIndexRequest(ready=True))).models


async def test_the_statistics_of_other_models_go_on(root):
    write(root, 2)
    backend_models.pick(root)
    with Backend(root, *EXPLICIT, "--load-model", "scale") as backend:
        async with grpc.aio.insecure_channel(backend.wait_ready().targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            await stub.ModelInfer(ones())
            index = (await stub.RepositoryIndex(wire.RepositoryIndexRequest())).models
            assert [(one.name, one.version, one.state) for one in index] == [("pick", "", ""), ("scale", "1", "READY")]
            await stub.RepositoryModelLoad(wire.RepositoryModelLoadRequest(model_name="pick"))
            stats = (await stub.ModelStatistics(wire.ModelStatisticsRequest())).model_stats
            assert [(one.name, one.inference_count) for one in stats] == [("pick", 0), ("scale", 1)]


async def test_a_server_that_polls(root):
    write(root, 2)
    with Backend(root, *POLL) as backend:
        async with grpc.aio.insecure_channel(backend.wait_ready().targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            extensions = (await stub.ServerMetadata(wire.ServerMetadataRequest())).extensions
            assert "model_repository" not in extensions
            write(root, 9)
            while first(await stub.ModelInfer(ones())) != 9:
                await asyncio.sleep(0.05)
        backend.signal()
        assert await asyncio.to_thread(backend.wait) == 0
        assert "Traceback" not in backend.log


async def test_a_server_stops_while_a_model_is_loaded(root, second):
    """A warm-up cannot be ended: the process leaves it behind."""
    backend_models.slow(root)
    (root / "slow" / "config.yaml").write_text(
        f"model_warmup: [{{inputs: {{count: {{range: [{second * 600}, {second * 600}]}}}}}}]"
    )
    with Backend(root, *EXPLICIT) as backend:
        async with grpc.aio.insecure_channel(backend.wait_ready().targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            call = stub.RepositoryModelLoad(wire.RepositoryModelLoadRequest(model_name="slow"))
            while "model slow version 1: asked" not in backend.log:
                assert not call.done()
                await asyncio.sleep(0.01)
            index = (await stub.RepositoryIndex(wire.RepositoryIndexRequest())).models
            assert [one.state for one in index] == ["LOADING"]
            backend.signal()
            while "SIGTERM: stopping" not in backend.log:
                await asyncio.sleep(0.01)
            call.cancel()
        assert await asyncio.to_thread(backend.wait) == 0
        assert "did not finish in time" in backend.log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--load-model", "x"), "--load-model needs --model-control-mode explicit"),
        (("--repository-poll-secs", "5"), "--repository-poll-secs needs --model-control-mode poll"),
        (("--model-control-mode", "other"), "invalid choice: 'other'"),
        (("--model-control-mode", "poll", "--repository-poll-secs", "0"), "expected a whole number from 1"),
    ],
)
def test_wrong_command_lines(arguments, message, capsys):
    with pytest.raises(SystemExit):
        options.parse(["serve", "--models", "/", "--listen", "127.0.0.1:0", *arguments])
    assert message in capsys.readouterr().err


async def test_a_field_without_effect_is_warned_of(root):
    shutil.copytree(DIGITS / "models" / "digits", root / "digits")
    (root / "digits" / "config.pbtxt").write_text(
        'optimization { cuda { graphs: true } } metric_tags { key: "a" value: "b" }'
    )
    with Backend(root) as backend:
        backend.wait_ready()
        said = "model digits: config.pbtxt: metric_tags, optimization.cuda.graphs have no effect here"
        until(lambda: said in backend.log, "no warning")
