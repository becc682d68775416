"""Model repositories that scenarios need besides the digits example."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError

SIZE = 256
BUSY_STEPS = 10
_DIGITS = Path(__file__).parent.parent / "examples" / "digits" / "models"


def repository(name: str, directory: Path) -> Path:
    """The model repository called `name`: `digits` is the example's, `busy` is written into `directory`.

    Raises BenchError if it is not there or cannot be made.
    """
    if name == "busy":
        write_busy_model(directory / "models", BUSY_STEPS)
        return directory / "models"
    if not any(_DIGITS.glob("digits/*/model.onnx")):
        raise BenchError(f"{_DIGITS} has no model; `make dev` makes it")
    return _DIGITS


def write_busy_model(repository: Path, steps: int) -> None:
    """A model `busy` that multiplies 256 x 256 matrices `steps` times: FP32 input `x` [1], output `y` [1, 256].

    On one core of 2 to 4 GHz a step takes about a millisecond or less. Raises BenchError if onnx is not installed.
    """
    try:
        import numpy as np
        from onnx import TensorProto, checker, helper, numpy_helper, save
    except ImportError as error:
        raise BenchError("onnx is missing; make dev installs it") from error
    weights = np.random.default_rng(1).standard_normal((SIZE, SIZE)).astype(np.float32) / SIZE**0.5
    # The first step depends on the input, or the whole graph would be folded into a constant.
    nodes = [helper.make_node("Add", ["w", "x"], ["h0"])]
    for step in range(steps):
        nodes.append(helper.make_node("MatMul", [f"h{step}", "w"], [f"m{step}"]))
        nodes.append(helper.make_node("Tanh", [f"m{step}"], [f"h{step + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"h{steps}"], ["y"], axes=[0], keepdims=1))
    graph = helper.make_graph(
        nodes,
        "busy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, SIZE])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    path = repository / "busy" / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(model, path)
