"""The models that the servers serve, and one request for each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError
from lb.wire import grpc_service_pb2 as wire

SIDE = 96  # of the light model's images, in pixels
_FETCHED = Path(__file__).parents[2] / "examples" / "real-models" / "models"


@dataclass(frozen=True)
class Model:
    """`make` writes the ONNX model; `shape` is that of its one input `x`, FP32; its one output is FP32."""

    name: str
    title: str
    shape: tuple[int, ...]
    make: Callable[[Path], None]

    def write(self, repository: Path) -> None:
        path = repository / self.name / "1" / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.make(path)

    def values(self) -> np.ndarray:
        return np.random.default_rng(1).standard_normal(self.shape).astype(np.float32)

    def request(self) -> bytes:
        """A ModelInferRequest."""
        message = wire.ModelInferRequest(model_name=self.name)
        message.inputs.add(name="x", datatype="FP32", shape=self.shape)
        message.raw_input_contents.append(self.values().tobytes())
        return bytes(message.SerializeToString())


def save(path: Path, nodes: list[Any], shape: list[Any], constants: dict[str, np.ndarray], result: list[Any]) -> None:
    """A model with the input `x` and the output `y`. Raises BenchError if onnx is not installed."""
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
        from onnx import save as write
    except ImportError as error:
        raise BenchError("onnx is missing; make dev installs it") from error
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes],
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    write(model, path)


def _affine(path: Path) -> None:
    nodes: list[Any] = [("Mul", ["x", "a"], ["t"], {}), ("Add", ["t", "b"], ["y"], {})]
    save(path, nodes, ["n", 4], {"a": np.array(2, np.float32), "b": np.array(1, np.float32)}, ["n", 4])


def _convolutions(path: Path) -> None:
    """Two convolutions, about a tenth of a millisecond on one core of 3 GHz."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.standard_normal((32, 3, 3, 3)).astype(np.float32) / 5,
        "w2": random.standard_normal((32, 32, 3, 3)).astype(np.float32) / 17,
    }
    step = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        ("Conv", ["x", "w1"], ["c1"], step),
        ("Relu", ["c1"], ["r1"], {}),
        ("Conv", ["r1", "w2"], ["c2"], step),
        ("Relu", ["c2"], ["r2"], {}),
        ("GlobalAveragePool", ["r2"], ["p"], {}),
        ("Flatten", ["p"], ["y"], {}),
    ]
    save(path, nodes, ["n", 3, SIDE, SIDE], weights, ["n", 32])


def _text_direction(path: Path) -> None:
    """The classifier of RapidOCR: whether a line of text stands on its head. Raises BenchError if it is not there."""
    fetched = _FETCHED / "text-direction" / "1" / "model.onnx"
    if not fetched.exists():
        raise BenchError(f"{fetched} is missing; make dev, or examples/real-models/fetch.py, brings it")
    shutil.copyfile(fetched, path)


MODELS = {
    model.name: model
    for model in (
        Model("tiny", "affine, 16 bytes", (1, 4), _affine),
        Model("light", "two convolutions, 110 kB", (1, 3, SIDE, SIDE), _convolutions),
        Model("direction", "RapidOCR's text direction, 110 kB", (1, 3, 48, 192), _text_direction),
    )
}
