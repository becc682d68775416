"""An ONNX model's graph, read from its file without its weights.

A model's file is one protobuf message of up to 2 GB, nearly all of it weights. The file is mapped and walked by its
fields (protobuf's encoding, https://protobuf.dev/programming-guides/encoding/); a weight is stepped over.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from lb.wire import onnx_graph_pb2 as onnx

# Field numbers of ONNX IR.
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_FUNCTIONS = 7, 8, 25
_FUNCTION_NODE = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME = 1, 2, 8
_SMALL = 4096  # bytes of a constant whose values are read: shapes, axes, scales
_NUMBERS = {1: "<f4", 6: "<i4", 7: "<i8", 9: "?", 11: "<f8"}


class GraphError(Exception):
    """The file is not the ONNX model that it should be."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant tensor; `values` are those of a small one of numbers, flat, else None."""

    shape: tuple[int, ...]
    values: tuple[float, ...] | None


@dataclass(slots=True)
class Graph:
    """`inputs` are without those that have a constant as default. `opsets` is the version of each domain; "" is ONNX's
    own. `functions` has the nodes of the model's own functions, a list for each."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    functions: list[list[Any]] = field(default_factory=list)
    sparse: int = 0


def read_graph(path: Path) -> Graph:
    """The graph of a model's file. Raises GraphError, OSError."""
    graph = Graph()
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise GraphError(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            try:
                _read_model(data, graph)
            except (IndexError, ValueError, DecodeError) as error:
                raise GraphError(f"{path} is no ONNX model: {error}") from error
    return graph


def _read_model(data: memoryview, graph: Graph) -> None:
    for number, start, end in _fields(data, 0, len(data)):
        if number == _MODEL_GRAPH:
            _read_graph(data, start, end, graph)
        elif number == _MODEL_OPSETS:
            opset = onnx.OperatorSetIdProto.FromString(bytes(data[start:end]))
            graph.opsets["" if opset.domain == "ai.onnx" else opset.domain] = opset.version
        elif number == _MODEL_FUNCTIONS:
            nodes = [
                _node(data, begin, stop) for part, begin, stop in _fields(data, start, end) if part == _FUNCTION_NODE
            ]
            graph.functions.append(nodes)
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name not in graph.constants]


def _read_graph(data: memoryview, start: int, end: int, graph: Graph) -> None:
    for number, begin, stop in _fields(data, start, end):
        if number == _GRAPH_NODE:
            graph.nodes.append(_node(data, begin, stop))
        elif number == _GRAPH_INITIALIZER:
            name, constant = _read_constant(data, begin, stop)
            graph.constants[name] = constant
        elif number == _GRAPH_INPUT:
            graph.inputs.append(onnx.ValueInfoProto.FromString(bytes(data[begin:stop])))
        elif number == _GRAPH_OUTPUT:
            graph.outputs.append(onnx.ValueInfoProto.FromString(bytes(data[begin:stop])).name)
        elif number == _GRAPH_SPARSE:
            graph.sparse += 1


def _node(data: memoryview, start: int, end: int) -> Any:
    return onnx.NodeProto.FromString(bytes(data[start:end]))


def nested(node: Any) -> Iterator[Any]:
    """The nodes of the graphs within an operator (branches, bodies of loops), and of those within these.

    Raises GraphError.
    """
    for attribute in node.attribute:
        for body in (*attribute.graphs, *([attribute.g] if attribute.g else [])):
            inner = Graph()
            with memoryview(body) as data:
                try:
                    _read_graph(data, 0, len(data), inner)
                except (IndexError, ValueError, DecodeError) as error:
                    raise GraphError(f"a graph within {node.op_type} is none: {error}") from error
            for one in inner.nodes:
                yield one
                yield from nested(one)


def _read_constant(data: memoryview, start: int, end: int) -> tuple[str, Constant]:
    if end - start <= _SMALL:
        tensor = onnx.TensorProto.FromString(bytes(data[start:end]))
        return tensor.name, constant_of(tensor)
    name, shape = "", []
    for number, begin, stop in _fields(data, start, end):
        if number == _TENSOR_NAME:
            name = str(data[begin:stop], "utf-8")
        elif number == _TENSOR_DIMS:
            while begin < stop:
                size, begin = _varint(data, begin)
                shape.append(size)
    return name, Constant(tuple(shape), None)


def constant_of(tensor: Any) -> Constant:
    """A TensorProto's shape, and its values where it is small."""
    shape = tuple(tensor.dims)
    dtype = _NUMBERS.get(tensor.data_type)
    if dtype is None or len(tensor.raw_data) > _SMALL:
        return Constant(shape, None)
    if tensor.raw_data:
        values = np.frombuffer(tensor.raw_data, dtype).tolist()
    else:
        values = [*tensor.float_data, *tensor.int32_data, *tensor.int64_data]
    return Constant(shape, tuple(values) if len(values) == prod(shape) else None)


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number and extent of each field of a message; the extent of a number is that of its bytes."""
    while at < end:
        key, at = _varint(data, at)
        kind, start = key & 7, at
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            size, start = _varint(data, at)
            at = start + size
        elif kind == 5:
            at += 4
        else:
            raise ValueError(f"a field of wire type {kind}")
        if at > end:
            raise ValueError("a field beyond the end of its message")
        yield key >> 3, start, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
