"""Which inputs of a model must not be empty, decided from its graph.

ONNX Runtime ends its whole process at tensors without elements in some operators: LSTM and GRU call std::terminate,
Einsum divides by zero (seen with 1.32). One request would take the server from all others, and the balancer would
take it to the next one. What a run makes empty by its values alone is not known here.
"""

from __future__ import annotations

from typing import Any

from backend.graph.file import Graph, nested

_FATAL = frozenset({"LSTM", "GRU", "Einsum", "DynamicQuantizeLSTM"})
_SIZES_ALONE = frozenset({"Shape", "Size"})  # give elements for a tensor that has none


def filled_inputs(graph: Graph) -> dict[str, frozenset[int]]:
    """By the name of an input, the axes that must not be 0, as an empty tensor would reach one of these operators.

    An axis along which an input is only joined to what the graph makes may be 0: so decoders take the keys of no
    earlier tokens. Raises GraphError.
    """
    if any(_fatal(node) for nodes in graph.functions for node in nodes):
        return {tensor.name: _all_axes(tensor) for tensor in graph.inputs}
    free: dict[str, set[int]] = {}  # of the names that lead there: the axes that may be 0 all the same
    inputs = {tensor.name: _all_axes(tensor) for tensor in graph.inputs}
    for node in reversed(graph.nodes):
        inner = list(nested(node))
        if not _fatal(node) and not any(map(_fatal, inner)) and free.keys().isdisjoint(node.output):
            continue
        if node.op_type in _SIZES_ALONE:
            continue
        joins = node.op_type == "Concat" and not inputs.keys() >= set(node.input)
        for name in (*node.input, *(name for one in inner for name in one.input)):
            axes = {_axis(node, len(inputs[name]))} if joins and name in inputs else set()
            free[name] = axes & free[name] if name in free else axes
    return {name: axes - free[name] for name, axes in inputs.items() if name in free}


def _fatal(node: Any) -> bool:
    return node.op_type in _FATAL


def _axis(node: Any, rank: int) -> int:
    """Of a Concat."""
    axis: int = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return axis % rank if rank else 0


def _all_axes(tensor: Any) -> frozenset[int]:
    return frozenset(range(len(tensor.type.tensor_type.shape.dim)))
