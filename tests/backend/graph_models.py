"""ONNX models by what their operators do to the rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from backend.runtime import onnxruntime

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Tensor = tuple[str, int, Sequence[int | str]]


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """`inputs` and `output` are names with spaces between; "_" is an input that is left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op, names, output.split(), **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Tensor] = (("x", FLOAT, ("N", 4)),),
    outputs: Sequence[Tensor] = (("y", FLOAT, ("N", 4)),),
    opset: int = 17,
    **constants: np.ndarray,
) -> onnx.ModelProto:
    def described(tensors: Sequence[Tensor]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(*tensor) for tensor in tensors]

    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "model", described(inputs), described(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def transformer() -> onnx.ModelProto:
    """One block over `ids` and `mask` [batch,seq], with shapes computed in the graph, as PyTorch exports it."""
    heads, width = 4, 32
    nodes = [
        node("Gather", "embeddings ids", "x"),
        node("Shape", "ids", "shape"),
        node("Gather", "shape zero", "b"),
        node("Gather", "shape one", "s"),
        node("Unsqueeze", "b axis0", "b1"),
        node("Unsqueeze", "s axis0", "s1"),
        node("Concat", "b1 s1 heads size", "split", axis=0),
        node("Concat", "b1 s1 width", "joined", axis=0),
    ]
    for name in "qkv":
        nodes += [
            node("MatMul", f"x w{name}", f"{name}m"),
            node("Add", f"{name}m bias", f"{name}a"),
            node("Reshape", f"{name}a split", f"{name}r"),
            node("Transpose", f"{name}r", f"{name}t", perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        node("MatMul", "qt kt", "scores"),
        node("Cast", "mask", "seen", to=FLOAT),
        node("Unsqueeze", "seen axes12", "seen4"),
        node("Sub", "unit seen4", "hidden"),
        node("Mul", "hidden low", "penalty"),
        node("Add", "scores penalty", "masked"),
        node("Softmax", "masked", "weights", axis=-1),
        node("MatMul", "weights vt", "context"),
        node("Transpose", "context", "turned", perm=[0, 2, 1, 3]),
        node("Reshape", "turned joined", "flat"),
        node("MatMul", "flat wo", "projected"),
        node("Add", "projected x", "sum"),
        node("ReduceMean", "sum", "mean", axes=[-1]),
        node("Sub", "sum mean", "apart"),
        node("Mul", "apart apart", "squares"),
        node("ReduceMean", "squares", "variance", axes=[-1]),
        node("Add", "variance little", "above"),
        node("Sqrt", "above", "deviation"),
        node("Div", "apart deviation", "y"),
    ]
    return model(
        nodes,
        [("ids", INT64, ("batch", "seq")), ("mask", INT64, ("batch", "seq"))],
        [("y", FLOAT, ("batch", "seq", width))],
        embeddings=weights(100, width), zero=np.array(0), one=np.array(1), axis0=integers(0), axes12=integers(1, 2),
        heads=integers(heads), size=integers(width // heads), width=integers(width), bias=weights(width),
        unit=np.array(1, "f4"), low=np.array(-1e4, "f4"), little=np.array(1e-5, "f4"),
        **{f"w{name}": weights(width, width) for name in "qkvo"},
    )  # fmt: skip


def image_classifier() -> onnx.ModelProto:
    return model(
        [
            node("Conv", "x kernel", "c", pads=[1, 1, 1, 1]),
            node("BatchNormalization", "c scale shift mean variance", "n"),
            node("Relu", "n", "r"),
            node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Reshape", "p flat", "f"),
            node("Gemm", "f w b", "y"),
        ],
        [("x", FLOAT, ("N", 3, 8, 8))],
        [("y", FLOAT, ("N", 5))],
        kernel=weights(4, 3, 3, 3), scale=weights(4), shift=weights(4), mean=weights(4), variance=abs(weights(4)),
        flat=integers(-1, 64), w=weights(64, 5), b=weights(5),
    )  # fmt: skip


def recurrent() -> onnx.ModelProto:
    """Takes its first state from the number of rows."""
    return model(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("Shape", "x", "s"),
            node("Gather", "s zero", "b", axis=0),
            node("Unsqueeze", "b axis", "b1"),
            node("Concat", "one b1 hidden", "size", axis=0),
            node("ConstantOfShape", "size", "begin"),
            node("LSTM", "t W R _ _ begin begin", "Y Yh Yc", hidden_size=6),
            node("Squeeze", "Yh axis", "last"),
            node("Gemm", "last w b2", "y"),
        ],
        [("x", FLOAT, ("N", "T", 5))],
        [("y", FLOAT, ("N", 2))],
        zero=np.array(0), axis=integers(0), one=integers(1), hidden=integers(6), W=weights(1, 24, 5),
        R=weights(1, 24, 6), w=weights(6, 2), b2=weights(2),
    )  # fmt: skip


def perceptron() -> onnx.ModelProto:
    return model(
        [node("MatMul", "x w1", "a"), node("Relu", "a", "b"), node("Gemm", "b w2 b2", "y")],
        w1=weights(4, 32), w2=weights(32, 4), b2=weights(4),
    )  # fmt: skip


def quantized(folder: Path, made: onnx.ModelProto) -> onnx.ModelProto:
    onnx.save(made, folder / "plain.onnx")
    quantization = import_module(f"{onnxruntime.__name__}.quantization")
    quantization.quantize_dynamic(folder / "plain.onnx", folder / "quantized.onnx")
    return onnx.load(folder / "quantized.onnx")


# What merges rows in a way that a look at one pair of rows may miss -> words of the reason.
MIXING: dict[str, tuple[onnx.ModelProto, str]] = {
    "mean": (
        model([node("ReduceMean", "x", "m", axes=[0]), node("Sub", "x m", "y")]),
        "ReduceMean works over the rows",
    ),
    "mean of all": (model([node("ReduceMean", "x", "m"), node("Sub", "x m", "y")]), "ReduceMean works over the rows"),
    "softmax": (model([node("Softmax", "x", "y", axis=0)]), "Softmax works over the rows"),
    "softmax of old": (model([node("Softmax", "x", "y", axis=0)], opset=11), "Softmax works over the rows"),
    "gram": (
        model([node("Transpose", "x", "t"), node("MatMul", "t x", "g"), node("MatMul", "x g", "y")]),
        "MatMul works over the rows",
    ),
    "number of rows": (
        model(
            [
                node("Shape", "x", "s"),
                node("Cast", "s", "f", to=FLOAT),
                node("Gather", "f zero", "n"),
                node("Div", "x n", "y"),
            ],
            zero=np.array(0),
        ),
        "Div brings rows together with what belongs to certain rows",
    ),
    "columns by the number of rows": (
        model(
            [
                node("Shape", "x", "s", start=0, end=1),
                node("Slice", "x zero s one", "p"),
                node("ReduceSum", "p one", "m"),
                node("Add", "x m", "y"),
            ],
            zero=integers(0),
            one=integers(1),
        ),
        "Slice has a parameter that depends on the rows",
    ),
    "turned around": (
        model(
            [
                node("Slice", "x one all axis", "p"),
                node("Slice", "x zero one axis", "q"),
                node("Concat", "p q", "y", axis=0),
            ],
            zero=integers(0),
            one=integers(1),
            all=integers(2**40),
            axis=integers(0),
        ),
        "Slice works over the rows",
    ),
    "places": (
        model(
            [
                node("Shape", "x", "s"),
                node("Gather", "s zero", "n"),
                node("Range", "zero n one", "r"),
                node("Cast", "r", "f", to=FLOAT),
                node("Unsqueeze", "f axis", "u"),
                node("Add", "x u", "y"),
            ],
            zero=np.array(0),
            one=np.array(1),
            axis=integers(1),
        ),
        "Range counts the rows",
    ),
    "shuffled": (
        model(
            [node("Transpose", "x", "t", perm=[1, 0]), node("Reshape", "t shape", "y")],
            shape=integers(-1, 4),
        ),
        "Reshape moves rows into one another",
    ),
    "first row": (
        model([node("Gather", "x zero", "r", axis=0), node("Add", "x r", "y")], zero=np.array(0)),
        "Gather works over the rows",
    ),
    "largest": (
        model([node("TopK", "x one", "v i", axis=0), node("Add", "x v", "y")], one=integers(1)),
        "TopK works over the rows",
    ),
    "sums so far": (model([node("CumSum", "x zero", "y")], zero=np.array(0)), "CumSum works over the rows"),
    "batch statistics": (
        model(
            [node("BatchNormalization", "x one zero zero one", "y m v", training_mode=1)],
            one=np.ones(4, "f4"),
            zero=np.zeros(4, "f4"),
        ),
        "BatchNormalization is in training",
    ),
    "chance": (
        model([node("RandomUniformLike", "x", "r"), node("Add", "x r", "y")]),
        "RandomUniformLike is not known to keep rows apart",
    ),
}
