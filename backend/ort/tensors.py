"""Tensors as ONNX Runtime describes them, and how numpy stores them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# ONNX's number of an element type -> how numpy stores it; BFLOAT16, which numpy does not know, as its 16 bits.
DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(dtype)
    for number, dtype in (
        (1, "<f4"), (2, "u1"), (3, "i1"), (4, "<u2"), (5, "<i2"), (6, "<i4"), (7, "<i8"), (8, "O"), (9, "?"),
        (10, "<f2"), (11, "<f8"), (12, "<u4"), (13, "<u8"), (16, "<u2"),
    )
}  # fmt: skip
KINDS = {2: "sequence", 3: "map", 4: "opaque", 5: "sparse tensor", 6: "optional"}  # ONNXType


class TensorInfo(NamedTuple):
    """An input or output of a model.

    `kind` is "tensor", or what it is instead. `element` is ONNX's number of a tensor's element type. A dimension of
    `shape` that takes any size is -1; `symbols` has the names of such dimensions, "" where there is none.
    """

    name: str
    kind: str
    element: int
    shape: tuple[int, ...]
    symbols: tuple[str, ...]
