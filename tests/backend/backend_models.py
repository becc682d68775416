"""Small ONNX models that the tests write into a model repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

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
