"""Whether a model treats the rows of a batch apart, decided from its graph.

Calls of one model can run together only where a row's answer does not depend on its neighbours. The graph is followed
from the inputs, whose first dimension is the batch, to the outputs: for each tensor, which axis has the batch. An
operator that sums, sorts, normalises or quantises over that axis mixes rows; so may one that has no rule here. Doubt
means that nothing is merged, and says why. The batch stays apart when axes are merged or split behind it, since rows
lie one after another in memory.

Operators: https://onnx.ai/onnx/operators/. Only inference is meant; what a client may set for training is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

# Each puts its rules into the table.
from backend.graph import classical, elementwise, images, matrices, reductions, selections, shapes  # noqa: F401
from backend.graph.file import Graph
from backend.graph.step import Step
from backend.graph.values import ROWS, Doubt, Size, Value, value_of


def why_not(graph: Graph) -> str | None:
    """None where every output has a row for each of the inputs, and none depends on another; else the reason."""
    try:
        _follow(graph)
    except Doubt as doubt:
        return str(doubt)
    return None


def _follow(graph: Graph) -> None:
    if graph.functions:
        raise Doubt("the model has functions of its own")
    if graph.sparse:
        raise Doubt("the model has sparse weights")
    names = (f"size{number}" for number in count())
    values = {name: value_of(constant) for name, constant in graph.constants.items()}
    for tensor in graph.inputs:
        values[tensor.name] = _input(tensor, names)
    for node in graph.nodes:
        made = Step(node, values, graph.opsets.get(node.domain if node.domain != "ai.onnx" else "", 1), names).run()
        values.update((name, value) for name, value in zip(node.output, made, strict=False) if name)
    for name in graph.outputs:
        value = values.get(name)
        if value is None or value.batch != 0 or value.shape[0] != (1, (ROWS,)):
            raise Doubt(f"output '{name}' is not known to have a row for each of the inputs'")


def _input(tensor: Any, names: Iterator[str]) -> Value:
    if not tensor.type.HasField("tensor_type") or not tensor.type.tensor_type.HasField("shape"):
        raise Doubt(f"input '{tensor.name}' has no shape")
    dimensions = tensor.type.tensor_type.shape.dim
    if not dimensions or _fixed(dimensions[0]):
        raise Doubt(f"input '{tensor.name}' has a fixed first dimension")
    first = dimensions[0].dim_param
    shape: list[Size] = [(1, (ROWS,))]
    for dimension in dimensions[1:]:
        if _fixed(dimension):
            shape.append((dimension.dim_value, ()))
        elif first and dimension.dim_param == first:
            raise Doubt(f"input '{tensor.name}' has the number of rows in two dimensions")
        else:
            shape.append((1, (f"input.{dimension.dim_param}" if dimension.dim_param else next(names),)))
    return Value(tuple(shape), 0)


def _fixed(dimension: Any) -> bool:
    """Some exporters write -1 for a size that only a run knows."""
    return bool(dimension.WhichOneof("value") == "dim_value" and dimension.dim_value >= 0)
