"""How the server starts, refuses to start, and stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import backend_models
import grpc
import numpy as np
import onnx
import psutil
import pytest
from backend_process import DIGITS, ROOT, Backend, command, environment, infer_request, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import helper

from backend import options, providers
from backend.errors import StartError
from backend.repository.folder import ModelFile, read_folder
from backend.repository.loading import load
from backend.repository.settings import Settings
from backend.runtime import onnxruntime
from lb.wire import grpc_service_pb2 as wire
from lb.wire.services import INFERENCE, Stub

MODELS = DIGITS / "models"
FREE = ("--listen", "127.0.0.1:0")
STATUS = health_pb2.HealthCheckResponse


def refused(models, *arguments, status=1):
    """The one line that the server stops with."""
    done = subprocess.run(
        command(models, *arguments), capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=60
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def counting(count):
    return infer_request("slow", ("count", "INT64", np.array(count, "<i8")))


def test_unix_socket_and_port_at_once(tmp_path):
    path = tmp_path / "d.sock"
    with Backend(MODELS, listen=(f"unix:{path}", "127.0.0.1:0")) as backend:
        backend.wait_ready()
        assert backend.targets[0] == f"unix:{path}"
        assert backend.targets[1].startswith("127.0.0.1:")
        for target in backend.targets:
            with grpc.insecure_channel(target) as channel:
                stub = Stub(channel, INFERENCE)
                request = infer_request("digits", ("image", "FP32", np.zeros((1, 64), np.float32)))
                assert len(stub.ModelInfer(request, timeout=30).outputs) == 2
        backend.signal()
        assert backend.wait() == 0
        assert not path.exists()


def test_a_stale_socket_is_replaced(tmp_path):
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    assert path.is_socket()
    with Backend(MODELS, listen=(f"unix:{path}",)) as backend:
        backend.wait_ready()


def test_a_socket_in_use_is_left_alone(tmp_path):
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        assert "another server listens on it" in refused(MODELS, "--listen", f"unix:{path}")
        assert path.is_socket()
    path.unlink()
    path.write_text("precious")
    assert "the file exists and is no socket" in refused(MODELS, "--listen", f"unix:{path}")
    assert path.read_text() == "precious"
    assert "is no directory" in refused(MODELS, "--listen", f"unix:{tmp_path}/none/d.sock")


def test_a_taken_port_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert f"error: cannot listen on {address}: Address already in use" in refused(MODELS, "--listen", address)


def test_two_servers_never_share_a_port():
    with Backend(MODELS) as backend:
        assert "Address already in use" in refused(MODELS, "--listen", backend.targets[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*FREE, "--providers", "gpu"], "expected some of tensorrt,cuda,cpu"),
        ([*FREE, "--providers", "cpu,cpu"], "each once"),
        ([*FREE, "--threads", "0"], "expected a whole number from 1"),
        ([*FREE, "--grace", "5"], "expected a duration like"),
        (["--listen", "9001"], "expected unix:/path, host:port or [ipv6]:port"),
        (["--listen", "127.0.0.1:99999"], "expected unix:/path, host:port or [ipv6]:port"),
        (["--listen", "unix:relative.sock"], "expected unix:/absolute/path"),
        (["--listen", "unix:/" + "x" * 120], "longer than 107 bytes"),
        ([], "--listen"),
    ],
)
def test_wrong_command_lines(arguments, message):
    assert message in refused(MODELS, *arguments, status=2)


def test_the_command_line_knows_the_providers_of_sessions():
    assert tuple(providers.PROVIDERS) == options.PROVIDERS


def test_missing_and_empty_repositories(tmp_path):
    assert f"error: cannot read the model repository {tmp_path}/none: No such file" in refused(tmp_path / "none", *FREE)
    assert f"error: the model repository {tmp_path} is empty" in refused(tmp_path, *FREE)
    (tmp_path / "digits" / "01").mkdir(parents=True)
    (tmp_path / "digits" / "01" / "model.onnx").touch()
    expected = f"error: {tmp_path}/digits has no version: expected a file like {tmp_path}/digits/1/model.onnx"
    assert expected in refused(tmp_path, *FREE)


def test_a_broken_model_is_an_error(tmp_path):
    (tmp_path / "digits" / "1").mkdir(parents=True)
    (tmp_path / "digits" / "1" / "model.onnx").write_bytes(b"this is no model")
    message = refused(tmp_path, *FREE)
    assert f"error: model digits version 1: cannot load {tmp_path}/digits/1/model.onnx" in message


async def test_broken_models_leave_the_others_alone(tmp_path):
    backend_models.scale(tmp_path, 2.0, 1)
    for folder, content in (("scale/2", b"this is no model"), ("torn/1", b""), ("empty/1", None)):
        (tmp_path / folder).mkdir(parents=True)
        if content is not None:
            (tmp_path / folder / "model.onnx").write_bytes(content)
    with Backend(tmp_path) as backend:
        async with grpc.aio.insecure_channel(backend.wait_ready().targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            index = (await stub.RepositoryIndex(wire.RepositoryIndexRequest())).models
            assert [(model.name, model.version, model.state) for model in index] == [
                ("empty", "", "UNAVAILABLE"),
                ("scale", "1", "READY"),
                ("scale", "2", "UNAVAILABLE"),
                ("torn", "1", "UNAVAILABLE"),
            ]
            assert "has no version" in index[0].reason
            assert "cannot load" in index[2].reason
            index = (await stub.RepositoryIndex(wire.RepositoryIndexRequest(ready=True))).models
            assert [(model.name, model.version) for model in index] == [("scale", "1")]
            for name, version, ready in (
                ("scale", "", True),
                ("scale", "2", False),
                ("torn", "", False),
                ("?", "", False),
            ):
                answer = await stub.ModelReady(wire.ModelReadyRequest(name=name, version=version))
                assert answer.ready is ready, name
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ModelMetadata(wire.ModelMetadataRequest(name="torn"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "model 'torn' is not ready: model torn version 1: cannot load" in caught.value.details()
            request = infer_request("scale", ("x", "FP32", np.ones((1, 2), "<f4")))
            assert (await stub.ModelInfer(request)).model_version == "1"
        until(lambda: backend.log.count("not served: ") == 3, "no lines")


def test_a_gpu_alone_that_cannot_be_had_is_an_error():
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    message = refused(MODELS, *FREE, "--providers", "cuda")
    assert "error: model digits version 1: asked for [cuda] only, but it would run on CPUExecutionProvider" in message


def test_a_gpu_with_the_cpu_behind_it_says_what_runs():
    with Backend(MODELS, "--providers", "cuda,cpu") as backend:
        backend.wait_ready()
        until(lambda: "ready: digits 1" in backend.log, "no line")
        assert "model digits version 1: asked [cuda, cpu], running on" in backend.log


def test_outputs_that_are_no_tensors_are_refused(tmp_path):
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    path = backend_models.save(tmp_path, "list", [node], [("x", "FP32", (1,))], [])
    model = onnx.load(path)
    element = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [1])
    model.graph.output.append(helper.make_value_info("y", helper.make_sequence_type_proto(element)))
    onnx.save(model, path)
    with pytest.raises(StartError, match=r"output 'y' is a sequence, which the protocol cannot carry"):
        load(ModelFile("list", 1, path), Settings())


def test_warm_up_finds_sizes_or_reads_them(tmp_path):
    """A model that takes only multiples of 96 pixels cannot be guessed; `warmup.json` says so."""
    shape = helper.make_tensor("shape", 7, [3], [0, -1, 96])
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    path = backend_models.save(
        tmp_path, "odd", nodes, [("x", "FP32", ("N", "L"))], [("y", "FP32", ("N", "M", 96))], initializers=[shape]
    )
    file = ModelFile("odd", 1, path)
    with pytest.raises(StartError, match=r"warm-up inference failed .*warmup\.json, as \{\"x\": \[-1, -1\]\}"):
        load(file, Settings(max_batch=8))
    (path.parent / "warmup.json").write_text(json.dumps({"x": [1, 192]}))
    assert load(file, Settings(max_batch=8)).max_batch == 8
    (path.parent / "warmup.json").write_text(json.dumps({"x": [1, 2, 3]}))
    with pytest.raises(StartError, match=r"expected a shape for input 'x' FP32 \[-1,-1\], got \[1, 2, 3\]"):
        load(file, Settings(max_batch=8))
    (path.parent / "warmup.json").write_text("{")
    with pytest.raises(StartError, match="cannot read"):
        load(file, Settings(max_batch=8))


def test_versions_are_sorted_as_numbers(tmp_path):
    for version in (10, 9, 2):
        backend_models.scale(tmp_path, 1.0, version)
    (tmp_path / "scale" / "latest").mkdir()
    assert [file.version for file in read_folder(tmp_path, "scale").files] == [2, 9, 10]


def test_a_folder_that_cannot_be_read_leaves_the_others_alone(tmp_path, monkeypatch):
    backend_models.scale(tmp_path, 1.0, 1)
    (tmp_path / "shut").mkdir()
    listed = Path.iterdir

    def iterdir(path):
        if path.name == "shut":  # root may read every folder
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert len(read_folder(tmp_path, "scale").files) == 1
    assert read_folder(tmp_path, "shut").problem == f"cannot read the model {tmp_path}/shut: Permission denied"


async def wait_in_flight(stub, calls):
    """Returns when the server has taken up `calls` infer calls of this connection: it answers a later call."""
    await asyncio.sleep(0)
    assert not any(call.done() for call in calls)
    await stub.ServerLive(wire.ServerLiveRequest())


async def test_requests_in_flight_finish_on_sigterm(tmp_path, second):
    """Health says NOT_SERVING at once, the answers still come, new connections are refused, the exit status is 0."""
    backend_models.slow(tmp_path)
    with Backend(tmp_path, "--concurrency", "1") as backend:
        backend.wait_ready()
        async with grpc.aio.insecure_channel(backend.targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            await stub.ServerReady(wire.ServerReadyRequest())
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert (await watch.read()).status == STATUS.SERVING
            calls = [stub.ModelInfer(counting(second)) for _ in range(3)]  # one runs, two wait
            await wait_in_flight(stub, calls)
            backend.signal()
            assert (await watch.read()).status == STATUS.NOT_SERVING
            assert not all(call.done() for call in calls)
            for call in calls:
                assert np.frombuffer((await call).raw_output_contents[0], "<i8") == [second]
            watch.cancel()
        assert await asyncio.to_thread(backend.wait) == 0
        assert "Traceback" not in backend.log


@pytest.mark.parametrize("how", ["grace", "second signal"])
async def test_the_grace_ends(tmp_path, second, how):
    backend_models.slow(tmp_path)
    with Backend(tmp_path, "--grace", "200ms" if how == "grace" else "1m") as backend:
        backend.wait_ready()
        async with grpc.aio.insecure_channel(backend.targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            await stub.ServerReady(wire.ServerReadyRequest())
            call = stub.ModelInfer(counting(second * 600))
            await wait_in_flight(stub, [call])
            backend.signal()
            if how == "second signal":
                until(lambda: "SIGTERM: stopping" in backend.log, "the signal was not seen")
                backend.signal()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert await asyncio.to_thread(backend.wait) == 0
        assert "did not finish in time" in backend.log


async def test_not_serving_before_the_models_are_warm(tmp_path, second):
    """A server whose warm-up takes long answers, but is not ready and refuses inference; SIGTERM stops it even then."""
    path = backend_models.slow(tmp_path)
    # warm-up feeds zeros, so this count must come from inside the model
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("much", onnx.TensorProto.INT64, [], [second * 600]))
    model.graph.node.insert(0, helper.make_node("Add", ["count", "much"], ["more"]))
    model.graph.node[1].input[0] = "more"
    onnx.save(model, path)
    with Backend(tmp_path) as backend:
        async with grpc.aio.insecure_channel(backend.targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)
            assert answer.status == STATUS.NOT_SERVING
            assert (await stub.ServerLive(wire.ServerLiveRequest())).live
            assert not (await stub.ServerReady(wire.ServerReadyRequest())).ready
            assert not (await stub.ModelReady(wire.ModelReadyRequest(name="slow"))).ready
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ModelInfer(counting(1))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "still loading" in caught.value.details()
        backend.signal()
        assert await asyncio.to_thread(backend.wait) == 0


def test_a_parent_that_has_died_already():
    """Its number is not that of who is the parent now, whoever that is: process 1, a subreaper or another parent."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert refused(MODELS, *FREE, "--die-with-parent", str(gone.pid)) == "error: the parent process has died already\n"


def test_the_server_dies_with_its_parent(tmp_path):
    """The parent is killed with SIGKILL, so it has no chance to stop the server itself."""
    path = tmp_path / "d.sock"
    arguments = command(MODELS, "--listen", f"unix:{path}", "--die-with-parent")
    source = f"import subprocess; p = subprocess.Popen({arguments!r}); print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    server = psutil.Process(int(parent.stdout.readline()))
    try:
        with grpc.insecure_channel(f"unix:{path}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(60)
        until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "the server lives on")
        assert not path.exists()
    finally:
        if server.is_running():
            server.kill()
        parent.stdout.close()
