"""The models that every server gets, and those that only some can serve.

`affine` (y = 2x + 1 on rows of four FP32) and `spare`, the same for loads and unloads; `words` gives its strings back;
`sum` adds up a sequence; `repeat` is decoupled.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError

HERE = Path(__file__).parent

_SUM_OURS = """
max_batch_size: 8
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  direct {}
  state [ { input_name: "state" output_name: "next" data_type: TYPE_FP32 dims: [ 1 ]
            initial_state: { name: "zero" data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } } ]
}
"""
_SUM_TRITON = """
backend: "python"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  oldest { max_candidate_sequences: 64 }
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] }
  ]
}
"""
_REPEAT_TRITON = """
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "times" data_type: TYPE_INT32 dims: [ 1 ] }
]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] } ]
"""


def write_common(repository: Path) -> None:
    """Raises BenchError if onnx is not installed."""
    weights = {"w": np.full((4,), 2, np.float32), "b": np.ones((4,), np.float32)}
    affine = [("Mul", ["x", "w"], ["z"]), ("Add", ["z", "b"], ["y"])]
    for name in ("affine", "spare"):
        _save(repository / name, affine, [("x", "FLOAT", ["n", 4])], [("y", "FLOAT", ["n", 4])], weights)
    words = [("Identity", ["text_input"], ["text_output"])]
    _save(repository / "words", words, [("text_input", "STRING", ["n"])], [("text_output", "STRING", ["n"])], {})


def write_ours(repository: Path) -> None:
    """`sum` as a model with a state that the server keeps."""
    nodes = [("Add", ["x", "state"], ["y"]), ("Identity", ["y"], ["next"])]
    inputs = [("x", "FLOAT", ["n", 1]), ("state", "FLOAT", ["n", 1])]
    _save(repository / "sum", nodes, inputs, [("y", "FLOAT", ["n", 1]), ("next", "FLOAT", ["n", 1])], {})
    (repository / "sum" / "config.pbtxt").write_text(_SUM_OURS)


def write_triton(repository: Path) -> None:
    """`sum` and `repeat` as models of the Python backend."""
    for name, config in (("sum", _SUM_TRITON), ("repeat", _REPEAT_TRITON)):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config)
        shutil.copy(HERE / f"triton_{name}.py", repository / name / "1" / "model.py")


def _save(
    folder: Path,
    nodes: Sequence[tuple[str, list[str], list[str]]],
    inputs: Sequence[tuple[str, str, list[Any]]],
    outputs: Sequence[tuple[str, str, list[Any]]],
    constants: dict[str, np.ndarray],
) -> None:
    try:
        from onnx import TensorProto, checker, helper, numpy_helper, save
    except ImportError as error:
        raise BenchError("onnx is missing; make dev installs it") from error
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        folder.name,
        [helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape) for name, kind, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    (folder / "1").mkdir(parents=True)
    save(model, str(folder / "1" / "model.onnx"))
