"""Small ONNX models that the tests write into a model repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ELEMENTS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}

Tensor = tuple[str, str, Sequence[int | str]]


def save(
    root: Path,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    version: int = 1,
    initializers: Sequence[onnx.TensorProto] = (),
) -> Path:
    """Writes `root/name/version/model.onnx` and returns its path."""

    def info(tensors: Sequence[Tensor]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, ELEMENTS[datatype], shape) for name, datatype, shape in tensors]

    graph = helper.make_graph(list(nodes), name, info(inputs), info(outputs), list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = root / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def echo(root: Path, datatype: str) -> Path:
    """`echo_<datatype>`: gives back its [N,3] input `x` as `y`."""
    return save(
        root,
        f"echo_{datatype.lower()}",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", datatype, ("N", 3))],
        [("y", datatype, ("N", 3))],
    )


def scale(root: Path, factor: float, version: int) -> Path:
    """`scale`: multiplies its FP32 [N,2] input `x` by `factor`."""
    constant = helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])
    return save(
        root,
        "scale",
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", "FP32", ("N", 2))],
        [("y", "FP32", ("N", 2))],
        version,
        [constant],
    )


def pick(root: Path) -> Path:
    """`pick`: row `index` INT64 [N] of a table of two rows; another index is an error inside the model."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    return save(
        root,
        "pick",
        [helper.make_node("Gather", ["table", "index"], ["row"])],
        [("index", "INT64", ("N",))],
        [("row", "FP32", ("N", 2))],
        initializers=[table],
    )


def mixing(root: Path) -> Path:
    """`mixing`: a softmax over the rows, so a row's answer depends on the others."""
    return save(
        root,
        "mixing",
        [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
        [("x", "FP32", ("N", 2))],
        [("y", "FP32", ("N", 2))],
    )


def slow(root: Path) -> Path:
    """`slow`: counts to its INT64 scalar `count` one iteration at a time, a few hundred nanoseconds each or more."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still_going"]),
            helper.make_node("Add", ["value", "one"], ["next_value"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("still_going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next_value", TensorProto.INT64, []),
        ],
    )
    return save(
        root,
        "slow",
        [helper.make_node("Loop", ["count", "yes", "zero"], ["total"], body=body)],
        [("count", "INT64", ())],
        [("total", "INT64", ())],
        initializers=[
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
            helper.make_tensor("zero", TensorProto.INT64, [], [0]),
            helper.make_tensor("one", TensorProto.INT64, [], [1]),
        ],
    )


def deep(root: Path, layers: int = 1500, rows: int = 16_000, name: str = "deep") -> Path:
    """`deep`: row `index` INT64 [N,1] of a table of `rows` rows of 1 KiB, through so many layers of small operators. It
    takes long to optimise: about 0.1 ms a layer."""
    random = np.random.default_rng(0)
    table = (random.standard_normal((rows, 256)) / 16).astype(np.float32)
    constants = [numpy_helper.from_array(table, "table")]
    nodes = [helper.make_node("Gather", ["table", "index"], ["x0"])]
    for layer in range(layers):
        weight = (random.standard_normal(256) / 16).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("Mul", [f"x{layer}", f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"t{layer}"]))
        nodes.append(helper.make_node("Add", [f"t{layer}", f"w{layer}"], [f"x{layer + 1}"]))
    nodes.append(helper.make_node("Identity", [f"x{layers}"], ["y"]))
    return save(
        root, name, nodes, [("index", "INT64", ("N", 1))], [("y", "FP32", ("N", 1, 256))], initializers=constants
    )
