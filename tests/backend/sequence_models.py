"""Models with state between inferences, and their configurations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from backend_models import save
from onnx import TensorProto, helper

IN, HIDDEN = 3, 5


def configure(path: Path, text: str, name: str = "config.pbtxt") -> Path:
    (path.parent.parent / name).write_text(text)
    return path


def accumulator(root: Path, name: str = "total", extra: str = "", rows: int = 8) -> Path:
    """`total`: the sum of the `x` FP32 [N,2] of a sequence so far is `y`; `start` INT32 [N,1] is not used for it."""
    path = save(
        root,
        name,
        [
            helper.make_node("Add", ["x", "before"], ["after"]),
            helper.make_node("Cast", ["start"], ["flag"], to=TensorProto.FLOAT),
            helper.make_node("Identity", ["after"], ["y"]),
            helper.make_node("Identity", ["flag"], ["begun"]),
        ],
        [("x", "FP32", ("N", 2)), ("start", "INT32", ("N", 1)), ("before", "FP32", ("N", 2))],
        [("y", "FP32", ("N", 2)), ("begun", "FP32", ("N", 1)), ("after", "FP32", ("N", 2))],
    )
    return configure(
        path,
        f"""max_batch_size: {rows}
        sequence_batching {{
          oldest {{}}
          control_input [{{name: "start" control [{{kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1]}}]}}]
          state [{{input_name: "before" output_name: "after" data_type: TYPE_FP32 dims: [2]}}]
          {extra}
        }}""",
    )


def controls(root: Path, corrid: str = "UINT64") -> Path:
    """`controls`: gives back each control as an output: start BOOL, ready FP32, end INT32, id."""
    names = ("start", "ready", "end", "id")
    types = ("BOOL", "FP32", "INT32", corrid)
    path = save(
        root,
        "controls",
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names]
        + [helper.make_node("Identity", ["x"], ["y"])],
        [("x", "FP32", ("N", 1)), *((name, datatype, ("N", 1)) for name, datatype in zip(names, types, strict=True))],
        [
            ("y", "FP32", ("N", 1)),
            *((f"{name}_out", datatype, ("N", 1)) for name, datatype in zip(names, types, strict=True)),
        ],
    )
    data_type = "STRING" if corrid == "BYTES" else corrid
    return configure(
        path,
        f"""max_batch_size: 4
        sequence_batching {{
          direct {{}}
          control_input [
            {{name: "start" control [{{kind: CONTROL_SEQUENCE_START bool_false_true: [false, true]}}]}},
            {{name: "ready" control [{{kind: CONTROL_SEQUENCE_READY fp32_false_true: [-1, 2.5]}}]}},
            {{name: "end" control [{{kind: CONTROL_SEQUENCE_END int32_false_true: [7, 8]}}]}},
            {{name: "id" control [{{kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_{data_type}}}]}}
          ]
        }}""",
    )


def lstm(root: Path) -> Path:
    """`lstm`: one step of an LSTM for each request, `x` FP32 [N,3] to `y` FP32 [N,5]; h and c are state [N,5], which
    begins with h from a file and c as zeros."""
    random = np.random.default_rng(7)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        values = random.standard_normal(shape).astype(np.float32)
        return helper.make_tensor(name, TensorProto.FLOAT, shape, values.reshape(-1))

    axes = helper.make_tensor("axis", TensorProto.INT64, [1], [0])
    path = save(
        root,
        "lstm",
        [
            helper.make_node("Unsqueeze", ["x", "axis"], ["steps"]),
            helper.make_node("Unsqueeze", ["h", "axis"], ["h0"]),
            helper.make_node("Unsqueeze", ["c", "axis"], ["c0"]),
            helper.make_node("LSTM", ["steps", "w", "r", "b", "", "h0", "c0"], ["", "h1", "c1"], hidden_size=HIDDEN),
            helper.make_node("Squeeze", ["h1", "axis"], ["h_after"]),
            helper.make_node("Squeeze", ["c1", "axis"], ["c_after"]),
            helper.make_node("Identity", ["h_after"], ["y"]),
        ],
        [("x", "FP32", ("N", IN)), ("h", "FP32", ("N", HIDDEN)), ("c", "FP32", ("N", HIDDEN))],
        [("y", "FP32", ("N", HIDDEN)), ("h_after", "FP32", ("N", HIDDEN)), ("c_after", "FP32", ("N", HIDDEN))],
        initializers=[axes, weights("w", 1, 4 * HIDDEN, IN), weights("r", 1, 4 * HIDDEN, HIDDEN),
                      weights("b", 1, 8 * HIDDEN)],
    )  # fmt: skip
    folder = path.parent.parent / "initial_state"
    folder.mkdir()
    (folder / "h").write_bytes(first_h().tobytes())
    return configure(
        path,
        f"""
max_batch_size: 16
sequence_batching:
  max_sequence_idle_microseconds: 60000000
  oldest: {{max_queue_delay_microseconds: 500}}
  state:
    - input_name: h
      output_name: h_after
      dims: [{HIDDEN}]
      initial_state: [{{data_file: h, dims: [{HIDDEN}], data_type: TYPE_FP32}}]
    - {{input_name: c, output_name: c_after, dims: [{HIDDEN}]}}
""",
        "config.yaml",
    )


def first_h() -> np.ndarray:
    return np.linspace(-1, 1, HIDDEN, dtype=np.float32)


def growing(root: Path) -> Path:
    """`growing`: the values `x` FP32 [1] of a sequence so far, one behind another, are `y` FP32 [K], which is its state
    and begins empty."""
    path = save(
        root,
        "growing",
        [helper.make_node("Concat", ["before", "x"], ["y"], axis=0)],
        [("x", "FP32", (1,)), ("before", "FP32", ("K",))],
        [("y", "FP32", ("L",))],
    )
    return configure(
        path,
        """output [{name: "y" data_type: TYPE_FP32 dims: [-1]}]
        sequence_batching {
          max_sequence_idle_microseconds: 60000000
          state [{
            input_name: "before" output_name: "y" data_type: TYPE_FP32 dims: [-1]
            initial_state [{name: "empty" data_type: TYPE_FP32 dims: [0] zero_data: true}]
          }]
        }""",
    )


def lookup(root: Path) -> Path:
    """`lookup`: adds row `index` INT64 [N,1] of a table of two to the state, and answers the sum; another index is an
    error inside the model."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [2], [1.0, 10.0])
    path = save(
        root,
        "lookup",
        [helper.make_node("Gather", ["table", "index"], ["value"]), helper.make_node("Add", ["value", "s"], ["t"])],
        [("index", "INT64", ("N", 1)), ("s", "FP32", ("N", 1))],
        [("t", "FP32", ("N", 1))],
        initializers=[table],
    )
    return configure(
        path,
        """max_batch_size: 4
        output [{name: "t" data_type: TYPE_FP32 dims: [1]}]
        sequence_batching { state [{input_name: "s" output_name: "t"}] }""",
    )
