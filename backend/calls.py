"""A ModelInfer request, checked against its model and turned into arrays; and arrays turned into the answer.

`check` looks only at names, datatypes, shapes and sizes: it is cheap enough for the event loop. `Call.decode` and
`encode` touch every byte and belong in a worker thread.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.datatypes import BOOL, BYTES, DATATYPES, TensorSpec, shape_text
from backend.errors import InvalidInput, Unsupported

_LENGTH = 4  # bytes of the length before a BYTES element


@dataclass(frozen=True, slots=True)
class Operand:
    """One input tensor as it came: `raw` bytes, or else `contents`, a protobuf InferTensorContents."""

    spec: TensorSpec
    shape: tuple[int, ...]
    raw: bytes | None
    contents: Any

    def decode(self) -> np.ndarray:
        """The tensor as an array that must not be written to. Raises InvalidInput."""
        array = self._from_contents() if self.raw is None else self._from_raw(self.raw)
        try:
            return array.reshape(self.shape)
        except ValueError as error:  # an empty tensor whose other dimensions are beyond what memory could address
            raise InvalidInput(f"input '{self.spec.name}': the shape {shape_text(self.shape)} is too large") from error

    def _from_raw(self, raw: bytes) -> np.ndarray:
        datatype = self.spec.datatype
        if datatype is BYTES:
            return _strings(self.spec, split_bytes(self.spec, raw, math.prod(self.shape)))
        if datatype is BOOL and raw.translate(None, b"\0\1"):
            raise InvalidInput(f"input '{self.spec.name}': a BOOL element must be the byte 0 or 1")
        return np.frombuffer(raw, datatype.dtype)

    def _from_contents(self) -> np.ndarray:
        datatype = self.spec.datatype
        assert datatype.contents is not None
        values = getattr(self.contents, datatype.contents)
        if datatype is BYTES:
            return _strings(self.spec, values)
        wide = np.array(values, dtype=_CONTENTS_DTYPES[datatype.contents])
        narrow = wide.astype(datatype.dtype)
        if datatype.dtype.kind in "iu" and not np.array_equal(wide, narrow):
            bad = wide[wide != narrow][0]
            raise InvalidInput(f"input '{self.spec.name}': expected {datatype.name} elements, got {bad}")
        return narrow


_CONTENTS_DTYPES = {
    "bool_contents": "?",
    "int_contents": "<i4",
    "int64_contents": "<i8",
    "uint_contents": "<u4",
    "uint64_contents": "<u8",
    "fp32_contents": "<f4",
    "fp64_contents": "<f8",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One checked inference.

    `outputs` are the outputs to answer with, in the order asked for. `rows` is the size of the batch dimension. Calls
    of one model with equal `key` can run as one batch; None runs alone.
    """

    operands: tuple[Operand, ...]
    outputs: tuple[TensorSpec, ...]
    rows: int
    key: Hashable

    def decode(self) -> dict[str, np.ndarray]:
        return {operand.spec.name: operand.decode() for operand in self.operands}


def check(request: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batches: bool) -> Call:
    """`request`, a ModelInferRequest, as a Call; `batches` says that the model can run calls together.

    Raises InvalidInput with what was expected and what was found, Unsupported for extensions that are not offered.
    """
    specs = {spec.name: spec for spec in inputs}
    raws = request.raw_input_contents
    tensors = request.inputs
    if raws and len(raws) != len(tensors):
        raise InvalidInput(f"expected one raw_input_contents entry for each of {len(tensors)} inputs, got {len(raws)}")
    operands: dict[str, Operand] = {}
    for index, tensor in enumerate(tensors):
        spec = specs.get(tensor.name)
        if spec is None:
            raise InvalidInput(f"the model has no input '{tensor.name}'; expected {_names(inputs)}")
        if tensor.name in operands:
            raise InvalidInput(f"input '{tensor.name}' is given more than once")
        operands[tensor.name] = _operand(spec, tensor, raws[index] if raws else None)
    missing = [spec for spec in inputs if spec.name not in operands]
    if missing:
        raise InvalidInput(f"input {missing[0]} is missing; expected {_names(inputs)}")
    wanted = _wanted(request.outputs, outputs)
    ordered = tuple(operands[spec.name] for spec in inputs)
    if not batches or len({operand.shape[0] for operand in ordered}) != 1 or not ordered[0].shape[0]:
        return Call(ordered, wanted, 1, None)
    key = (tuple(operand.shape[1:] for operand in ordered), tuple(spec.name for spec in wanted))
    return Call(ordered, wanted, ordered[0].shape[0], key)


def _operand(spec: TensorSpec, tensor: Any, raw: bytes | None) -> Operand:
    name = spec.name
    if "shared_memory_region" in tensor.parameters:
        raise Unsupported(f"input '{name}': shared memory is not offered; send the tensor in the request")
    if tensor.datatype != spec.datatype.name:
        known = "" if tensor.datatype in DATATYPES else ", which is no datatype of the protocol"
        raise InvalidInput(f"input '{name}': expected datatype {spec.datatype.name}, got '{tensor.datatype}'{known}")
    shape = tuple(tensor.shape)
    if not spec.accepts(shape):
        raise InvalidInput(f"input '{name}': expected shape {shape_text(spec.shape)}, got {shape_text(shape)}")
    count = math.prod(shape)
    what = f"{spec.datatype.name} {shape_text(shape)}"
    if raw is not None:
        if tensor.HasField("contents"):
            raise InvalidInput(f"input '{name}': raw_input_contents and contents must not be mixed in one request")
        if spec.datatype is not BYTES and len(raw) != count * spec.datatype.size:
            raise InvalidInput(
                f"input '{name}': expected {count * spec.datatype.size} bytes for {what}, got {len(raw)}"
            )
        return Operand(spec, shape, raw, None)
    field = spec.datatype.contents
    if field is None:
        raise InvalidInput(f"input '{name}': {spec.datatype.name} must be sent in raw_input_contents")
    others = [other.name for other, _ in tensor.contents.ListFields() if other.name != field]
    if others:
        raise InvalidInput(f"input '{name}': expected {what} in {field}, got {others[0]}")
    found = len(getattr(tensor.contents, field))
    if found != count:
        raise InvalidInput(f"input '{name}': expected {count} elements for {what}, got {found}")
    return Operand(spec, shape, None, tensor.contents)


def _wanted(requested: Any, outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    if not requested:
        return tuple(outputs)
    specs = {spec.name: spec for spec in outputs}
    wanted: dict[str, TensorSpec] = {}
    for output in requested:
        name = output.name
        if name not in specs:
            raise InvalidInput(f"the model has no output '{name}'; expected {_names(outputs)}")
        if name in wanted:
            raise InvalidInput(f"output '{name}' is asked for more than once")
        if "shared_memory_region" in output.parameters:
            raise Unsupported(f"output '{name}': shared memory is not offered; take the tensor from the answer")
        if output.parameters["classification"].int64_param if "classification" in output.parameters else 0:
            raise Unsupported(f"output '{name}': the classification extension is not offered")
        wanted[name] = specs[name]
    return tuple(wanted.values())


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs))


def split_bytes(spec: TensorSpec, raw: bytes, count: int) -> list[bytes]:
    """The `count` elements of a raw BYTES tensor: each is its length in four little-endian bytes, then its bytes."""
    elements: list[bytes] = []
    position, end = 0, len(raw)
    while position < end:
        start = position + _LENGTH
        stop = start + int.from_bytes(raw[position:start], "little")
        if start > end or stop > end:
            raise InvalidInput(
                f"input '{spec.name}': BYTES element {len(elements)} ends after the {end} bytes of the tensor"
            )
        if len(elements) == count:
            raise InvalidInput(f"input '{spec.name}': expected {count} BYTES elements, got more")
        elements.append(raw[start:stop])
        position = stop
    if len(elements) != count:
        raise InvalidInput(f"input '{spec.name}': expected {count} BYTES elements, got {len(elements)}")
    return elements


def _strings(spec: TensorSpec, elements: Sequence[bytes]) -> np.ndarray:
    """ONNX strings are text: ONNX Runtime takes UTF-8 only."""
    array = np.empty(len(elements), BYTES.dtype)
    for index, element in enumerate(elements):
        try:
            array[index] = element.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"input '{spec.name}': BYTES element {index} is not UTF-8, which ONNX strings are"
            ) from error
    return array


def encode(spec: TensorSpec, array: np.ndarray) -> bytes:
    """`array` as an entry of raw_output_contents: little-endian, row-major, unpadded."""
    if spec.datatype is BYTES:
        parts = []
        for element in array.reshape(-1):
            data = str(element).encode()
            parts += [len(data).to_bytes(_LENGTH, "little"), data]
        return b"".join(parts)
    return array.astype(spec.datatype.dtype, copy=False).tobytes()
