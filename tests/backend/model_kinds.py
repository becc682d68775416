"""Models of many kinds: what a request for each looks like, and what bare ONNX Runtime answers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import graph_models
import numpy as np
import onnx
from backend_models import ELEMENTS
from graph_models import FLOAT, INT64, integers, node, weights
from onnx import TensorProto, helper

from backend.runtime import onnxruntime

Random = np.random.Generator
Tensors = dict[str, np.ndarray]
DATATYPES = {number: name for name, number in ELEMENTS.items()}
STRING, BOOL, DOUBLE = TensorProto.STRING, TensorProto.BOOL, TensorProto.DOUBLE
FP16, BF16, INT32, UINT64 = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT32, TensorProto.UINT64


@dataclass(frozen=True)
class Kind:
    """`make` gives the model (the folder is for what it writes meanwhile), `feeds` the inputs of one request: BF16 as
    its bits in UINT16, strings as `str` objects. `merges` says whether calls may run together. `configuration` is what
    config.yaml says, if anything."""

    make: Callable[[Path], onnx.ModelProto]
    feeds: Callable[[Random], Tensors]
    merges: bool
    configuration: str = ""


class Bare:
    """The model of a file in ONNX Runtime alone, on one thread. `inputs` and `outputs` have the protocol's datatypes
    by name."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        constants = {tensor.name for tensor in graph.initializer}
        self.inputs = {one.name: _datatype(one) for one in graph.input if one.name not in constants}
        self.outputs = {one.name: _datatype(one) for one in graph.output}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._quiet = onnxruntime.RunOptions()
        self._quiet.log_severity_level = 4

    def run(self, feeds: Mapping[str, np.ndarray]) -> Tensors | None:
        """All outputs; None where ONNX Runtime refuses the inputs."""
        try:
            if "BF16" in self.inputs.values():
                return self._run_bf16(feeds)
            return dict(zip(self.outputs, self._session.run(None, dict(feeds), self._quiet), strict=True))
        except Exception:  # its errors have no base of their own
            return None

    def _run_bf16(self, feeds: Mapping[str, np.ndarray]) -> Tensors:
        """numpy has no BF16, so ONNX Runtime's own tensors are made from the bits, and their memory is read."""
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BF16) for name, array in feeds.items()
        }
        found = {}
        for name, value in zip(self.outputs, self._session.run_with_ort_values(None, values, self._quiet), strict=True):
            shape = tuple(value.shape())
            raw = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape))) if 0 not in shape else b""
            found[name] = np.frombuffer(raw, "<u2").reshape(shape)
        return found


def _datatype(tensor: onnx.ValueInfoProto) -> str:
    return DATATYPES[tensor.type.tensor_type.elem_type]


def floats(random: Random, *shape: int) -> np.ndarray:
    """Values of small and large spread, so that what is quantised or normalised over a batch shows."""
    return (random.standard_normal(shape) * random.choice([1e-3, 1.0, 30.0])).astype(np.float32)


def rows(random: Random, least: int = 0) -> int:
    """Mostly a few, sometimes none."""
    return int(random.integers(least, 6))


def words(random: Random, *shape: int) -> np.ndarray:
    known = ["", "sea", "gate", "straße", "潮", "a\0b", '"quoted"\\\n', "x" * 300]
    made = np.empty(shape, object)
    for at in np.ndindex(shape):
        made[at] = known[random.integers(len(known))] if random.random() < 0.7 else f"{random.integers(10**9)}é"
    return made


def x_of(*shape: int) -> Callable[[Random], Tensors]:
    """Feeds: `x`, a few rows of floats of this shape."""
    return lambda random: {"x": floats(random, rows(random), *shape)}


def tokens(random: Random) -> Tensors:
    shape = rows(random), int(random.integers(1, 6))
    return {"ids": random.integers(0, 100, shape), "mask": random.integers(0, 2, shape)}


def statically_quantized(folder: Path) -> onnx.ModelProto:
    """QDQ: each tensor is quantised by a scale from calibration, so rows keep apart."""
    quantization = import_module(f"{onnxruntime.__name__}.quantization")

    class Images(quantization.CalibrationDataReader):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            random = np.random.default_rng(1)
            self.left = [{"x": random.standard_normal((4, 3, 8, 8)).astype("f4")} for _ in range(4)]

        def get_next(self) -> Tensors | None:
            return self.left.pop() if self.left else None

    plain, made = folder / "plain.onnx", folder / "qdq.onnx"
    onnx.save(graph_models.image_classifier(), plain)
    quantization.quantize_static(plain, made, Images(), quant_format=quantization.QuantFormat.QDQ)
    return onnx.load(made)


def bidirectional(_: Path) -> onnx.ModelProto:
    """A GRU over sequences of different lengths."""
    return graph_models.model(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("GRU", "t W R B lengths", "Y Yh", hidden_size=6, direction="bidirectional"),
            node("Transpose", "Yh", "last", perm=[1, 0, 2]),
            node("Flatten", "last", "f"),
            node("Gemm", "f w b", "y"),
        ],
        [("x", FLOAT, ("N", "T", 5)), ("lengths", INT32, ("N",))],
        [("y", FLOAT, ("N", 3))],
        W=weights(2, 18, 5), R=weights(2, 18, 6), B=weights(2, 36), w=weights(12, 3), b=weights(3),
    )  # fmt: skip


def sequences(random: Random) -> Tensors:
    count, length = rows(random, 1), int(random.integers(1, 5))
    return {"x": floats(random, count, length, 5), "lengths": random.integers(1, length + 1, count).astype(np.int32)}


def stateful(_: Path) -> onnx.ModelProto:
    """An LSTM that takes its state and gives it back, as speech models do: [1,N,H]."""
    return graph_models.model(
        [
            node("Unsqueeze", "x axis", "t"),
            node("LSTM", "t W R _ _ h c", "Y hn cn", hidden_size=4),
            node("Squeeze", "Y axes", "y"),
        ],
        [("x", FLOAT, ("N", 3)), ("h", FLOAT, (1, "N", 4)), ("c", FLOAT, (1, "N", 4))],
        [("y", FLOAT, ("N", 4)), ("hn", FLOAT, (1, "N", 4)), ("cn", FLOAT, (1, "N", 4))],
        axis=integers(0), axes=integers(0, 1), W=weights(1, 16, 3), R=weights(1, 16, 4),
    )  # fmt: skip


def state(random: Random) -> Tensors:
    count = rows(random, 1)
    return {"x": floats(random, count, 3), "h": floats(random, 1, count, 4), "c": floats(random, 1, count, 4)}


def loop(_: Path) -> onnx.ModelProto:
    """Halves and adds `count` times, until a value is large."""
    body = helper.make_graph(
        [
            node("Mul", "value half", "halved"),
            node("Add", "halved x", "next"),
            node("ReduceSum", "next", "whole", keepdims=0),
            node("Less", "whole limit", "going_on"),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", INT64, []),
            helper.make_tensor_value_info("going", BOOL, []),
            helper.make_tensor_value_info("value", FLOAT, None),
        ],
        [helper.make_tensor_value_info("going_on", BOOL, []), helper.make_tensor_value_info("next", FLOAT, None)],
    )
    return graph_models.model(
        [node("Loop", "count yes x", "y", body=body)],
        [("x", FLOAT, ("N", 4)), ("count", INT64, ())],
        yes=np.array(True), half=np.array(0.5, "f4"), limit=np.array(20, "f4"),
    )  # fmt: skip


def branches(_: Path) -> onnx.ModelProto:
    """Which of two ways depends on the sum of all values."""

    def branch(operator: str) -> onnx.GraphProto:
        return helper.make_graph(
            [node(operator, "x", "found")], operator, [], [helper.make_tensor_value_info("found", FLOAT, ("N", 4))]
        )

    return graph_models.model(
        [
            node("ReduceSum", "x", "whole", keepdims=0),
            node("Greater", "whole zero", "positive"),
            node("If", "positive", "y", then_branch=branch("Relu"), else_branch=branch("Neg")),
        ],
        zero=np.array(0, "f4"),
    )


def labels(_: Path) -> onnx.ModelProto:
    """Strings to numbers by a table, and the strings themselves."""
    made = graph_models.model(
        [
            node(
                "LabelEncoder", "x", "y", domain="ai.onnx.ml",
                keys_strings=["", "sea", "gate", "straße", "潮"], values_int64s=[5, 1, 2, 3, 4], default_int64=-9,
            ),
            node("Identity", "x", "same"),
        ],
        [("x", STRING, ("N", 2))],
        [("y", INT64, ("N", 2)), ("same", STRING, ("N", 2))],
    )  # fmt: skip
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    return made


def numbers_as_text(_: Path) -> onnx.ModelProto:
    """Text that is no number is refused."""
    return graph_models.model(
        [node("Cast", "text", "y", to=FLOAT), node("Cast", "number", "z", to=STRING)],
        [("text", STRING, ("N", 2)), ("number", INT64, ("N",))],
        [("y", FLOAT, ("N", 2)), ("z", STRING, ("N",))],
    )


def texts(random: Random) -> Tensors:
    count = rows(random)
    text = np.empty((count, 2), object)
    for at in np.ndindex(text.shape):
        text[at] = "no number" if random.random() < 0.02 else str(random.integers(-(10**6), 10**6) / 64)
    return {"text": text, "number": random.integers(-(2**62), 2**62, count)}


def halves(element: int) -> Callable[[Path], onnx.ModelProto]:
    """Computes with 16-bit floats: BF16 in 32 bits between."""
    if element == FP16:
        nodes = [node("MatMul", "x w", "m"), node("Relu", "m", "y"), node("Add", "x x", "z")]
        constants = {"w": weights(4, 4).astype("f2")}
    else:
        nodes = [
            node("Cast", "x", "f", to=FLOAT),
            node("MatMul", "f w", "m"),
            node("Cast", "m", "y", to=BF16),
            node("Identity", "x", "z"),
        ]
        constants = {"w": weights(4, 4)}
    return lambda _: graph_models.model(
        nodes, [("x", element, ("N", 4))], [("y", element, ("N", 4)), ("z", element, ("N", 4))], **constants
    )


def bf16(random: Random) -> Tensors:
    return {"x": (floats(random, rows(random), 4).view(np.uint32) >> 16).astype("<u2")}


def widths(_: Path) -> onnx.ModelProto:
    """A sum over inputs of every width."""
    kinds = ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "UINT64", "FP64")
    nodes = [node("Cast", kind, f"{kind}_", to=DOUBLE) for kind in kinds]
    nodes += [node("Sum", " ".join(f"{kind}_" for kind in kinds), "y"), node("Identity", "UINT64", "z")]
    inputs = [(kind, ELEMENTS[kind], ("N", 2)) for kind in kinds]
    return graph_models.model(nodes, inputs, [("y", DOUBLE, ("N", 2)), ("z", UINT64, ("N", 2))])


def wide(random: Random) -> Tensors:
    count = rows(random)
    made: Tensors = {"FP64": random.standard_normal((count, 2)) * 1e100}
    for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64"):
        limits = np.iinfo(kind)
        made[kind.upper()] = random.integers(limits.min, limits.max, (count, 2), kind, endpoint=True)
    return made


def whole_numbers(_: Path) -> onnx.ModelProto:
    """INT64 to its limits, where products wrap around."""
    return graph_models.model(
        [node("Mul", "x x", "p"), node("Add", "p x", "y"), node("ArgMax", "x", "z", axis=1, keepdims=0)],
        [("x", INT64, ("N", 3))],
        [("y", INT64, ("N", 3)), ("z", INT64, ("N",))],
    )


def boxes(random: Random) -> Tensors:
    count = int(random.integers(1, 12))
    corner = random.uniform(0, 20, (1, count, 2))
    placed = np.concatenate([corner, corner + random.uniform(1, 15, corner.shape)], 2).astype("f4")
    return {"boxes": placed, "scores": random.uniform(0, 1, (1, 2, count)).astype("f4")}


def suppression(_: Path) -> onnx.ModelProto:
    """The last step of a detector: how many it gives depends on the values."""
    return graph_models.model(
        [node("NonMaxSuppression", "boxes scores most overlap least", "y")],
        [("boxes", FLOAT, (1, "B", 4)), ("scores", FLOAT, (1, 2, "B"))],
        [("y", INT64, ("M", 3))],
        most=integers(5), overlap=np.array([0.4], "f4"), least=np.array([0.1], "f4"),
    )  # fmt: skip


def logic(_: Path) -> onnx.ModelProto:
    return graph_models.model(
        [node("Not", "a", "n"), node("Xor", "n b", "y"), node("And", "a b", "z")],
        [("a", BOOL, ("N", 7)), ("b", BOOL, ("N", 7))],
        [("y", BOOL, ("N", 7)), ("z", BOOL, ("N", 7))],
    )


def order(_: Path) -> onnx.ModelProto:
    """What lies within a row: its largest, its sums so far, its place."""
    return graph_models.model(
        [node("TopK", "x two", "y z", axis=1), node("CumSum", "x one", "s"), node("Softmax", "x", "p", axis=-1)],
        [("x", FLOAT, ("N", 6))],
        [("y", FLOAT, ("N", 2)), ("z", INT64, ("N", 2)), ("s", FLOAT, ("N", 6)), ("p", FLOAT, ("N", 6))],
        two=integers(2), one=np.array(1),
    )  # fmt: skip


def ragged(_: Path) -> onnx.ModelProto:
    """Rows of any length, none too, and an output of each rank."""
    return graph_models.model(
        [node("ReduceSum", "x one", "y", keepdims=0), node("Mul", "x x", "z"), node("Unsqueeze", "x one", "u")],
        [("x", FLOAT, ("N", "L"))],
        [("y", FLOAT, ("N",)), ("z", FLOAT, ("N", "L")), ("u", FLOAT, ("N", 1, "L"))],
        one=integers(1),
    )


def unlimited(random: Random) -> Tensors:
    """With infinities and what is no number."""
    x = floats(random, rows(random), int(random.integers(0, 7)))
    if x.size and random.random() < 0.3:
        x.flat[random.integers(x.size)] = random.choice([np.inf, -np.inf, np.nan])
    return {"x": x}


def scalars(_: Path) -> onnx.ModelProto:
    return graph_models.model(
        [node("Div", "a b", "y"), node("Unsqueeze", "a zero", "z")],
        [("a", DOUBLE, ()), ("b", DOUBLE, ())],
        [("y", DOUBLE, ()), ("z", DOUBLE, (1,))],
        zero=integers(0),
    )


def one_row(operator: str, **attributes: object) -> Callable[[Path], onnx.ModelProto]:
    """Rows that meet in one operator."""
    return lambda _: graph_models.model([node(operator, "x", "m", **attributes), node("Sub", "x m", "y")])


def batch_statistics(_: Path) -> onnx.ModelProto:
    """A normalisation by the mean and the variance of the batch."""
    return graph_models.model(
        [
            node("ReduceMean", "x", "mean", axes=[0]),
            node("Sub", "x mean", "apart"),
            node("Mul", "apart apart", "squares"),
            node("ReduceMean", "squares", "variance", axes=[0]),
            node("Add", "variance little", "above"),
            node("Sqrt", "above", "deviation"),
            node("Div", "apart deviation", "y"),
        ],
        little=np.array(1e-3, "f4"),
    )


def constant_beside(_: Path) -> onnx.ModelProto:
    """One of its outputs has no rows."""
    return graph_models.model(
        [node("MatMul", "x w", "y"), node("Identity", "c", "k")],
        [("x", FLOAT, ("N", 4))],
        [("y", FLOAT, ("N", 4)), ("k", FLOAT, (2,))],
        w=weights(4, 4), c=weights(2),
    )  # fmt: skip


def table(_: Path) -> onnx.ModelProto:
    """An index beyond the table is refused."""
    return graph_models.model(
        [node("Gather", "table index", "y")],
        [("index", INT64, ("N",))],
        [("y", FLOAT, ("N", 3))],
        table=weights(100, 3),
    )


KINDS: dict[str, Kind] = {
    "perceptron": Kind(lambda _: graph_models.perceptron(), x_of(4), True),
    "quantized": Kind(lambda folder: graph_models.quantized(folder, graph_models.perceptron()), x_of(4), False),
    "qdq": Kind(statically_quantized, x_of(3, 8, 8), True),
    "lstm": Kind(
        lambda _: graph_models.recurrent(),
        lambda random: {"x": floats(random, rows(random, 1), int(random.integers(1, 5)), 5)},
        True,
    ),
    "gru": Kind(bidirectional, sequences, True),
    "stateful": Kind(stateful, state, False),
    "loop": Kind(
        loop, lambda random: {"x": floats(random, rows(random), 4), "count": np.array(random.integers(0, 9))}, False
    ),
    "if": Kind(branches, x_of(4), False),
    "nonzero": Kind(
        lambda _: graph_models.model([node("NonZero", "x", "y")], outputs=[("y", INT64, (2, "M"))]),
        lambda random: {"x": floats(random, rows(random), 4) * random.integers(0, 2, 4).astype("f4")},
        False,
    ),
    "suppression": Kind(suppression, boxes, False),
    "labels": Kind(labels, lambda random: {"x": words(random, rows(random), 2)}, True),
    "texts": Kind(numbers_as_text, texts, False, "warmup: skip\n"),
    "fp16": Kind(halves(FP16), lambda random: {"x": floats(random, rows(random), 4).astype("f2")}, True),
    "bf16": Kind(halves(BF16), bf16, True),
    "mean_of_rows": Kind(one_row("ReduceMean", axes=[0]), x_of(4), False),
    "softmax_over_rows": Kind(one_row("Softmax", axis=0), x_of(4), False),
    "batch_statistics": Kind(batch_statistics, x_of(4), False),
    "images": Kind(lambda _: graph_models.image_classifier(), x_of(3, 8, 8), True),
    "transformer": Kind(lambda _: graph_models.transformer(), tokens, True),
    "quantized_transformer": Kind(
        lambda folder: graph_models.quantized(folder, graph_models.transformer()), tokens, False
    ),
    "ragged": Kind(ragged, unlimited, True),
    "scalars": Kind(
        scalars,
        lambda random: {"a": np.array(random.standard_normal()), "b": np.array(float(random.integers(-9, 9)))},
        False,
    ),
    "logic": Kind(
        logic,
        lambda random: dict(zip("ab", random.integers(0, 2, (2, rows(random), 7)).astype(bool), strict=True)),
        True,
    ),
    "whole_numbers": Kind(
        whole_numbers, lambda random: {"x": random.integers(-(2**63), 2**63 - 1, (rows(random), 3))}, True
    ),
    "widths": Kind(widths, wide, True),
    "order": Kind(order, x_of(6), True),
    "table": Kind(table, lambda random: {"index": random.integers(-100, 101, rows(random))}, True),
    "constant_beside": Kind(constant_beside, x_of(4), False),
    "rows_in_pairs": Kind(
        lambda _: graph_models.model(
            [node("Reshape", "x pairs", "y")], outputs=[("y", FLOAT, ("M", 2))], pairs=integers(-1, 2)
        ),
        x_of(4),
        False,
    ),
}


def write(root: Path, scratch: Path) -> dict[str, Bare]:
    """A model repository of all kinds in `root`, and each of them in ONNX Runtime alone."""
    found = {}
    for name, kind in KINDS.items():
        path = root / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(kind.make(scratch), path)
        if kind.configuration:
            (root / name / "config.yaml").write_text(kind.configuration)
        found[name] = Bare(path)
    return found
