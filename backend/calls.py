"""ModelInfer requests that the compiled core does not read (backend.inference.inference): with typed contents, with
parameters that mean something, or wrong. They are checked against their model, and their tensors made raw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.datatypes import BOOL, BYTES, DATATYPES, TensorSpec, shape_text
from backend.errors import InvalidInput

if TYPE_CHECKING:
    from backend.model import Model

_LENGTH = 4  # bytes of the length before a BYTES element


def _raw(spec: TensorSpec, shape: tuple[int, ...], raw: bytes) -> bytes:
    """The bytes of a tensor as the model takes them. Raises InvalidInput."""
    if spec.datatype is BYTES:
        _check_texts(spec, split_bytes(spec, raw, math.prod(shape)))
    if spec.datatype is BOOL:
        return raw.translate(_BOOLEANS)
    return raw


_BOOLEANS = b"\0" + b"\1" * 255  # whatever is not 0 is true


def _from_contents(spec: TensorSpec, contents: Any) -> bytes:
    datatype = spec.datatype
    assert datatype.contents is not None
    values = getattr(contents, datatype.contents)
    if datatype is BYTES:
        _check_texts(spec, values)
        return join_bytes(values)
    wide = np.array(values, dtype=_CONTENTS_DTYPES[datatype.contents])
    narrow = wide.astype(datatype.dtype)
    if datatype.dtype.kind in "iu" and not np.array_equal(wide, narrow):
        bad = wide[wide != narrow][0]
        raise InvalidInput(f"input '{spec.name}': expected {datatype.name} elements, got {bad}")
    return narrow.tobytes()


_CONTENTS_DTYPES = {
    "bool_contents": "?",
    "int_contents": "<i4",
    "int64_contents": "<i8",
    "uint_contents": "<u4",
    "uint64_contents": "<u8",
    "fp32_contents": "<f4",
    "fp64_contents": "<f8",
}


Operand = tuple[tuple[int, ...], bytes]  # shape, raw bytes


# The bytes of a tensor that is not in the message, by its name and parameters; None: it is.
Elsewhere = Callable[[str, Any], bytes | None]


def check(
    request: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], elsewhere: Elsewhere
) -> tuple[list[Operand], list[int]]:
    """The inputs of `request`, a ModelInferRequest, in the model's order, and the outputs that are asked for, by index.

    raw_input_contents has an entry for each input that is not `elsewhere`, or for all of them.

    Raises InvalidInput with what was expected and what was found, Unsupported for extensions that are not offered.
    """
    specs = {spec.name: spec for spec in inputs}
    raws = request.raw_input_contents
    tensors = request.inputs
    found = [elsewhere(f"input '{tensor.name}'", tensor.parameters) for tensor in tensors]
    absent = sum(raw is not None for raw in found)
    if raws and len(raws) not in (len(tensors), len(tensors) - absent):
        raise InvalidInput(f"expected one raw_input_contents entry for each of {len(tensors)} inputs, got {len(raws)}")
    every = len(raws) == len(tensors)
    entries = iter(raws)
    operands: dict[str, Operand] = {}
    for tensor, other in zip(tensors, found, strict=True):
        entry = next(entries) if raws and (every or other is None) else None
        spec = specs.get(tensor.name)
        if spec is None:
            raise InvalidInput(f"the model has no input '{tensor.name}'; expected {_names(inputs)}")
        if tensor.name in operands:
            raise InvalidInput(f"input '{tensor.name}' is given more than once")
        operands[tensor.name] = _operand(spec, tensor, entry if other is None else other)
    missing = [spec for spec in inputs if spec.name not in operands]
    if missing:
        raise InvalidInput(f"input {missing[0]} is missing; expected {_names(inputs)}")
    wanted = _wanted(request.outputs, outputs)
    return [operands[spec.name] for spec in inputs], wanted


Place = tuple[int | bytes, bool, bool]  # a sequence's id, whether the request is its first one, and its last one


def sequence_of(model: Model, request: Any) -> Place | None:
    """The place of a ModelInferRequest in its sequence; None: the model has none. Raises InvalidInput."""
    if model.sequencing is None:
        return None
    given = request.parameters.get("sequence_id")
    kind = None if given is None else given.WhichOneof("parameter_choice")
    number, text = 0, b""
    if given is not None and kind in ("int64_param", "uint64_param"):
        number = getattr(given, kind) % (1 << 64)
    elif given is not None and kind == "string_param":
        text = given.string_param.encode()
    elif kind is not None:
        raise InvalidInput(f"sequence_id: expected a whole number or a string, got {kind}")
    if not number and not text:
        raise InvalidInput(
            f"inference request to model '{model.name}' must specify a non-zero or non-empty correlation ID"
        )
    for control in model.sequencing.controls:
        most = control.most_id
        if most is not None and (text or number > most):
            raise InvalidInput(
                f"sequence_id: expected a number up to {most}, as the model's {control.spec}, got "
                f"{text.decode() if text else number}"
            )
    return text or number, _flag(request, "sequence_start"), _flag(request, "sequence_end")


def _flag(request: Any, name: str) -> bool:
    return name in request.parameters and request.parameters[name].bool_param


def _operand(spec: TensorSpec, tensor: Any, raw: bytes | None) -> Operand:
    name = spec.name
    if tensor.datatype != spec.datatype.name:
        known = "" if tensor.datatype in DATATYPES else ", which is no datatype of the protocol"
        raise InvalidInput(f"input '{name}': expected datatype {spec.datatype.name}, got '{tensor.datatype}'{known}")
    shape = tuple(tensor.shape)
    if spec.lacks(shape):
        raise InvalidInput(
            f"input '{name}': {shape_text(shape)} has no elements, and an operator of the model needs some"
        )
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
        return shape, _raw(spec, shape, raw)
    field = spec.datatype.contents
    if field is None:
        raise InvalidInput(f"input '{name}': {spec.datatype.name} must be sent in raw_input_contents")
    others = [other.name for other, _ in tensor.contents.ListFields() if other.name != field]
    if others:
        raise InvalidInput(f"input '{name}': expected {what} in {field}, got {others[0]}")
    found = len(getattr(tensor.contents, field))
    if found != count:
        raise InvalidInput(f"input '{name}': expected {count} elements for {what}, got {found}")
    return shape, _from_contents(spec, tensor.contents)


def _wanted(requested: Any, outputs: Sequence[TensorSpec]) -> list[int]:
    if not requested:
        return list(range(len(outputs)))
    specs = {spec.name: index for index, spec in enumerate(outputs)}
    wanted: dict[str, int] = {}
    for output in requested:
        name = output.name
        if name not in specs:
            raise InvalidInput(f"the model has no output '{name}'; expected {_names(outputs)}")
        if name in wanted:
            raise InvalidInput(f"output '{name}' is asked for more than once")
        wanted[name] = specs[name]
    return list(wanted.values())


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


def _check_texts(spec: TensorSpec, elements: Sequence[bytes]) -> None:
    """ONNX strings are text: ONNX Runtime takes UTF-8 only."""
    for index, element in enumerate(elements):
        try:
            element.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"input '{spec.name}': BYTES element {index} is not UTF-8, which ONNX strings are"
            ) from error


def join_bytes(elements: Sequence[bytes]) -> bytes:
    """Elements as a raw BYTES tensor: each behind its length."""
    parts = []
    for element in elements:
        parts += [len(element).to_bytes(_LENGTH, "little"), element]
    return b"".join(parts)
