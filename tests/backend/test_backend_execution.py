"""Which provider runs a model, with which options. This machine has no GPU: what is seen here is who is asked for what,
and that a model whose provider cannot be had is not served."""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path
from unittest.mock import create_autospec

import backend_models
import grpc
import numpy as np
import pynvml
import pytest
from backend_process import Backend, infer_request

from backend import gpus, options
from backend.cache.engines import Engines
from backend.cache.graphs import Graphs
from backend.cache.store import Store
from backend.errors import StartError
from backend.native import NativeSession
from backend.ort.errors import OrtError
from backend.providers import Tuning
from backend.repository.configuration import read_configuration
from backend.repository.settings import Settings, settings_of
from lb.wire import grpc_service_pb2 as wire
from lb.wire.services import INFERENCE, Stub

FREE = ("serve", "--models", "/", "--listen", "127.0.0.1:0")
TENSORRT = """
    optimization { execution_accelerators { gpu_execution_accelerator {
        name: "tensorrt"
        parameters { key: "precision_mode" value: "FP16" }
        parameters { key: "max_workspace_size_bytes" value: "1073741824" }
        parameters { key: "trt_builder_optimization_level" value: "2" }
    } } }
"""


@pytest.fixture
def scale(tmp_path):
    return backend_models.scale(tmp_path / "models", 2.0, 1).parent.parent


def settings(folder: Path, text: str, *arguments: str) -> Settings:
    (folder / "config.pbtxt").write_text(text)
    configuration = read_configuration(folder)
    assert configuration.without_effect() == []
    return settings_of(folder.name, configuration, options.parse([*FREE, *arguments]))


def parameters(**values: str) -> str:
    return "\n".join(f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}' for k, v in values.items())


def test_the_providers_of_a_model(scale):
    assert settings(scale, "", "--providers", "cuda,cpu").providers == ("cuda", "cpu")
    assert settings(scale, parameters(providers="cuda"), "--providers", "cpu").providers == ("cuda",)
    assert settings(scale, parameters(providers="cuda, cpu")).providers == ("cuda", "cpu")
    # An accelerator is asked for by name: the server's list is no leave to go without.
    assert settings(scale, TENSORRT, "--providers", "cuda,cpu").providers == ("tensorrt",)
    named = settings(scale, TENSORRT + parameters(providers="tensorrt,cuda"))
    assert named.providers == ("tensorrt", "cuda")
    gpu = "instance_group { kind: KIND_GPU }"
    assert settings(scale, gpu + parameters(providers="cuda,cpu")).providers == ("cuda",)


def test_the_options_of_providers(scale):
    said = ("--provider-option", "cuda.gpu_mem_limit=5", "--provider-option", "tensorrt.trt_max_workspace_size=7")
    assert settings(scale, "", *said).tuning == Tuning(
        {"cuda": {"gpu_mem_limit": "5"}, "tensorrt": {"trt_max_workspace_size": "7"}}
    )
    text = TENSORRT + "instance_group { gpus: [ 1 ] count: 2 }"
    text += parameters(gpu_mem_limit="9", arena_extend_strategy="1", cudnn_conv_algo_search="2")
    text += 'parameters { key: "cuda.use_tf32" value { string_value: "0" } }'
    found = settings(scale, text, *said).tuning
    assert found.options == {
        "cuda": {
            "gpu_mem_limit": "9", "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "DEFAULT",
            "use_tf32": "0", "device_id": "1",
        },
        "tensorrt": {
            "trt_fp16_enable": "1", "trt_max_workspace_size": "1073741824", "trt_builder_optimization_level": "2",
            "device_id": "1",
        },
    }  # fmt: skip
    assert found.of("CUDAExecutionProvider")["use_tf32"] == "0"
    assert found.of("CPUExecutionProvider") == {}
    assert settings(scale, "optimization { graph { level: 1 } }").tuning.level == "extended"
    assert settings(scale, "optimization { graph { level: -1 } }").tuning.level == "basic"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (parameters(providers="gpu"), "parameters.providers: 'gpu': expected some of tensorrt,cuda,cpu"),
        (TENSORRT.replace("FP16", "FP8"), "precision_mode: expected FP32, FP16, INT8, got 'FP8'"),
        (TENSORRT.replace("max_work", "work"), "tensorrt has no parameter 'workspace_size_bytes'"),
        (TENSORRT.replace('"tensorrt"', '"openvino"'), "gpu_execution_accelerator: expected tensorrt, got 'openvino'"),
        (TENSORRT + "instance_group { kind: KIND_CPU }", "KIND_CPU, but the model's has tensorrt"),
        ("instance_group { gpus: [ 0, 1 ] }", "instance_group: expected one GPU, got 0, 1"),
        ("optimization { graph { level: 3 } }", "optimization.graph.level: expected -1 (basic) or 1, got 3"),
    ],
)
def test_what_cannot_be_is_refused(scale, text, message):
    with pytest.raises(StartError) as caught:
        settings(scale, text)
    assert message in str(caught.value)


def test_the_command_line_refuses_what_is_no_option(capsys):
    for text in ("cpu.a=b", "cuda=b", "cuda.a"):
        with pytest.raises(SystemExit):
            options.parse([*FREE, "--provider-option", text])
    assert "expected cuda.NAME=VALUE" in capsys.readouterr().err


async def test_a_model_runs_where_it_was_asked_for_or_not_at_all(tmp_path):
    """And its neighbours do not suffer."""
    root = tmp_path / "models"
    for name, text in {
        "plain": "",
        "gpu": parameters(providers="cuda"),
        "engine": TENSORRT,
        "fallback": parameters(providers="tensorrt,cuda,cpu"),
    }.items():
        folder = backend_models.scale(tmp_path / name, 2.0, 1).parent.parent.rename(_made(root) / name)
        (folder / "config.pbtxt").write_text(text)
    with Backend(root) as backend:
        backend.wait_ready()
        async with grpc.aio.insecure_channel(backend.targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            index = {one.name: one for one in (await stub.RepositoryIndex(wire.RepositoryIndexRequest())).models}
            assert {name: one.state for name, one in index.items()} == {
                "plain": "READY", "gpu": "UNAVAILABLE", "engine": "UNAVAILABLE", "fallback": "READY"
            }  # fmt: skip
            assert "asked for [cuda] only, but it would run on CPUExecutionProvider" in index["gpu"].reason
            assert "CUDAExecutionProvider: " in index["gpu"].reason
            assert "asked for [tensorrt] only" in index["engine"].reason
            for name in ("gpu", "engine"):
                assert not (await stub.ModelReady(wire.ModelReadyRequest(name=name))).ready
            request = infer_request("fallback", ("x", "FP32", np.ones((1, 2), "<f4")))
            assert (await stub.ModelInfer(request)).model_version == "1"
            said = (await stub.ModelConfig(wire.ModelConfigRequest(name="fallback"))).config
            assert said.parameters["execution_provider"].string_value == "CPUExecutionProvider"
            await asyncio.to_thread(backend.signal)
    assert "model fallback version 1: not on TensorrtExecutionProvider: " in backend.log
    assert "; not on CUDAExecutionProvider: " in backend.log


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_a_graph_is_optimised_as_far_as_it_says(tmp_path):
    path = backend_models.deep(tmp_path, layers=20, rows=600)
    store = Store(tmp_path / "cache", 1 << 30)

    class Cache:
        graphs = Graphs(store, worth=0.0)

    given = {"index": np.array([[1], [2]])}
    found = [
        NativeSession(path, "model", ("cpu",), 1, Tuning(level=level), Cache()).run(["y"], given)[0]
        for level in ("basic", "extended", "all", "all")
    ]
    assert all(np.allclose(one, found[0], atol=1e-6) for one in found)
    assert sorted(entry.origin.options["level"] for entry in store.entries()) == ["all", "basic", "extended"]


# TensorRT's engines, with a stand-in for the provider.


class Provider:
    """Builds an engine for a shape unless its folder has one, as ONNX Runtime's TensorRT provider does."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.options: dict[str, str] = {}

    def make(self, said) -> Provider:
        self.options = dict(said)
        return self

    def run(self, shape: str) -> None:
        engine = Path(self.options["trt_engine_cache_path"]) / f"graph_{shape}_sm90.engine"
        if not engine.exists():
            self.built.append(shape)
            engine.write_text(f"engine for {shape}")
            Path(self.options["trt_timing_cache_path"], "sm90.timing").write_text(",".join(self.built))


@pytest.fixture
def engines(tmp_path):
    return Engines(Store(tmp_path / "cache", 1 << 20), "NVIDIA H100 9.0; driver 1")


def opened(engines: Engines, path: Path, **said: str):
    provider, folder = engines.open("model", path, "1.32", said, Provider().make)
    return provider, folder


def test_engines_are_built_once(scale, engines):
    path = scale / "1" / "model.onnx"
    first, folder = opened(engines, path)
    first.run("1x2")
    folder.publish()
    first.run("8x2")
    second, other = opened(engines, path)  # while the first is there, and has more
    assert first.options["trt_engine_cache_path"] != second.options["trt_engine_cache_path"]
    second.run("1x2")
    assert second.built == []
    second.run("4x2")
    other.publish()
    third, last = opened(engines, path)
    third.run("1x2")
    third.run("4x2")
    assert third.built == []
    last.publish()  # nothing that is new
    another, _ = opened(engines, path, trt_fp16_enable="1")
    another.run("1x2")
    assert another.built == ["1x2"]
    for one in (folder, other, last):
        one.close()
        assert not one.path.exists()


def test_what_is_no_place_for_engines(scale, engines, tmp_path, caplog):
    path = scale / "1" / "model.onnx"
    own, folder = opened(engines, path, trt_engine_cache_path="/operator")
    assert (own.options, folder) == ({"trt_engine_cache_path": "/operator"}, None)
    unnamed, folder = opened(Engines(Store(tmp_path / "cache", 1), ""), path)
    assert (unnamed.options, folder) == ({}, None)
    (tmp_path / "file").write_text("")
    broken, folder = opened(Engines(Store(tmp_path / "file", 1), "a GPU"), path)
    assert (broken.options, folder) == ({}, None)
    assert "cannot be used" in caplog.text

    def fail(said):
        raise OrtError("no")

    with pytest.raises(OrtError):
        engines.open("model", path, "1.32", {}, fail)
    gc.collect()
    assert list((tmp_path / "cache" / "work").iterdir()) == []


def test_a_gpu_has_a_name(monkeypatch, caplog):
    """By the real library's names of functions; it has no GPU to speak of here."""
    caplog.set_level(logging.DEBUG)
    gpus.nvml.cache_clear()
    library = gpus.nvml()
    if library is None:
        assert gpus.device_name() == ""
    made = create_autospec(pynvml)
    made.nvmlDeviceGetCount.return_value = 2
    made.nvmlDeviceGetCudaComputeCapability.return_value = (9, 0)
    made.nvmlDeviceGetName.return_value = "NVIDIA H100"
    made.nvmlSystemGetDriverVersion.return_value = "570.1"
    monkeypatch.setattr(gpus, "nvml", lambda: made)
    assert gpus.device_name() == "NVIDIA H100 9.0; driver 570.1"


async def test_what_gpus_tell_of_themselves(monkeypatch):
    """By the real library's functions and structures, with the numbers of a GPU that is not here."""
    made = create_autospec(pynvml)
    made.NVMLError = pynvml.NVMLError
    made.nvmlDeviceGetCount.return_value = 1
    made.nvmlDeviceGetUUID.return_value = "GPU-1"
    made.nvmlDeviceGetUtilizationRates.return_value = pynvml.c_nvmlUtilization_t(gpu=40, memory=10)
    made.nvmlDeviceGetMemoryInfo.return_value = pynvml.c_nvmlMemory_t(total=80 << 30, free=79 << 30, used=1 << 30)
    made.nvmlDeviceGetPowerUsage.return_value = 125_500
    made.nvmlDeviceGetEnforcedPowerLimit.side_effect = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    made.nvmlDeviceGetTotalEnergyConsumption.return_value = 2_000
    monkeypatch.setattr(gpus, "nvml", lambda: made)
    found = dict(line.rsplit(" ", 1) for line in gpus.metrics_text().splitlines() if not line.startswith("#"))
    assert found == {
        'nv_gpu_utilization{gpu_uuid="GPU-1"}': "0.4",
        'nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"}': str(80 << 30),
        'nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"}': str(1 << 30),
        'nv_gpu_power_usage{gpu_uuid="GPU-1"}': "125.5",
        'nv_energy_consumption{gpu_uuid="GPU-1"}': "2.0",
    }
    following = gpus.GpuMetrics()
    task = asyncio.ensure_future(following.follow())
    async with asyncio.timeout(10):
        while not following.text:
            await asyncio.sleep(0.01)
    task.cancel()
    assert following.text == gpus.metrics_text()
    monkeypatch.setattr(gpus, "nvml", lambda: None)
    assert gpus.metrics_text() == ""
    await gpus.GpuMetrics().follow()  # ends at once
