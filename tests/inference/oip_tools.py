"""What the tests of the codec share: tensors of every datatype, and requests in both encodings."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

NUMPY = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = [*NUMPY, "BF16", "BYTES"]
SECRET = bytes(range(32))


@dataclass(frozen=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes
    flat: list[Any]  # the elements as JSON has them


def bfloat_values(raw: bytes) -> list[float]:
    wide = np.frombuffer(raw, "<u2").astype("<u4") << 16
    return [float(v) for v in wide.view("<f4")]


def tensor_of(name: str, datatype: str, shape: tuple[int, ...], elements: list[Any]) -> Tensor:
    """`elements` are bool, int, float (already a value of the datatype; for BF16 the 16 bits) or str."""
    if datatype == "BYTES":
        texts = [e.encode() for e in elements]
        return Tensor(name, datatype, shape, b"".join(struct.pack("<I", len(t)) + t for t in texts), elements)
    if datatype == "BF16":
        raw = np.array(elements, "<u2").tobytes()
        return Tensor(name, datatype, shape, raw, [plain(v) for v in bfloat_values(raw)])
    return Tensor(name, datatype, shape, np.array(elements, NUMPY[datatype]).tobytes(), [plain(e) for e in elements])


def plain(value: Any) -> Any:
    """What JSON cannot say is a string."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value


def nested(tensor: Tensor) -> Any:
    array = np.empty(tensor.shape, dtype=object)
    array.reshape(-1)[:] = tensor.flat
    return array.tolist()


def element(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BOOL":
        return st.booleans()
    if datatype == "BYTES":
        return st.text(max_size=12)
    if datatype == "BF16":
        # One NaN only: what is not a number in JSON has no payload.
        return st.integers(0, 0xFFFF).filter(lambda b: (b & 0x7FFF) <= 0x7F80) | st.just(0x7FC0)
    if datatype in ("FP16", "FP32", "FP64"):
        width = NUMPY[datatype].itemsize * 8
        return st.floats(width=width, allow_nan=False) | st.just(float("nan"))
    limits = np.iinfo(NUMPY[datatype])
    return st.integers(int(limits.min), int(limits.max)) | st.sampled_from([int(limits.min), int(limits.max), 0])


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
names = st.text(min_size=1, max_size=10)


@st.composite
def tensors(draw: Any, name: st.SearchStrategy[str] = names) -> Tensor:
    datatype = draw(st.sampled_from(DATATYPES))
    shape = draw(shapes)
    count = int(np.prod(shape, dtype=np.int64))
    elements = draw(st.lists(element(datatype), min_size=count, max_size=count))
    return tensor_of(draw(name), datatype, shape, elements)


tensor_lists = st.lists(tensors(), min_size=1, max_size=4, unique_by=lambda t: t.name)
scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False)
)
# Reserved names and prefixes have meanings of their own.
keys = st.text(min_size=1, max_size=6).map("x".__add__)
parameter_maps = st.dictionaries(keys, scalars, max_size=3)


def encode(
    inputs: list[Tensor],
    binary: set[int],
    *,
    nest: bool = False,
    extra: dict[str, Any] | None = None,
    input_parameters: dict[str, Any] | None = None,
) -> tuple[bytes, int]:
    """(body, json_length) with the inputs of the given indices in binary form."""
    items: list[dict[str, Any]] = []
    tail = b""
    for i, tensor in enumerate(inputs):
        item: dict[str, Any] = {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype}
        parameters = dict(input_parameters or {})
        if i in binary:
            parameters["binary_data_size"] = len(tensor.raw)
            tail += tensor.raw
        else:
            item["data"] = nested(tensor) if nest and tensor.shape else tensor.flat
        if parameters:
            item["parameters"] = parameters
        items.append(item)
    text = json.dumps({**(extra or {}), "inputs": items}).encode()
    return text + tail, len(text) if binary else -1
