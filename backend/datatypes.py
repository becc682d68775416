"""The protocol's datatypes, and how each is called and stored by numpy, protobuf and ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lb.wire import model_config_pb2


@dataclass(frozen=True, slots=True)
class DataType:
    """One element type.

    `size` is the bytes of an element on the wire, 0 for BYTES, whose elements carry their own length. `dtype` is how
    elements are kept in memory: BF16, which numpy does not know, as its 16 bits in UINT16; BYTES as `str` objects.
    `contents` is the field of InferTensorContents that carries the type, None when it travels raw only. `config` is
    the type's number in a ModelConfig, `onnx` the one in ONNX's TensorProto.
    """

    name: str
    size: int
    dtype: np.dtype[np.generic]
    contents: str | None
    config: int
    runtime: str
    onnx: int

    def __repr__(self) -> str:
        return self.name


def _datatype(name: str, dtype: str, contents: str | None, config: str, runtime: str, onnx: int) -> DataType:
    kind = np.dtype(dtype)
    number = model_config_pb2.DataType.Value(f"TYPE_{config}")
    return DataType(name, 0 if kind.hasobject else kind.itemsize, kind, contents, number, f"tensor({runtime})", onnx)


_ALL = (
    _datatype("BOOL", "?", "bool_contents", "BOOL", "bool", 9),
    _datatype("UINT8", "u1", "uint_contents", "UINT8", "uint8", 2),
    _datatype("UINT16", "<u2", "uint_contents", "UINT16", "uint16", 4),
    _datatype("UINT32", "<u4", "uint_contents", "UINT32", "uint32", 12),
    _datatype("UINT64", "<u8", "uint64_contents", "UINT64", "uint64", 13),
    _datatype("INT8", "i1", "int_contents", "INT8", "int8", 3),
    _datatype("INT16", "<i2", "int_contents", "INT16", "int16", 5),
    _datatype("INT32", "<i4", "int_contents", "INT32", "int32", 6),
    _datatype("INT64", "<i8", "int64_contents", "INT64", "int64", 7),
    _datatype("FP16", "<f2", None, "FP16", "float16", 10),
    _datatype("FP32", "<f4", "fp32_contents", "FP32", "float", 1),
    _datatype("FP64", "<f8", "fp64_contents", "FP64", "double", 11),
    _datatype("BF16", "<u2", None, "BF16", "bfloat16", 16),
    _datatype("BYTES", "O", "bytes_contents", "STRING", "string", 8),
)

DATATYPES: dict[str, DataType] = {datatype.name: datatype for datatype in _ALL}
BY_RUNTIME: dict[str, DataType] = {datatype.runtime: datatype for datatype in _ALL}
BY_CONFIG: dict[int, DataType] = {datatype.config: datatype for datatype in _ALL}
BY_ONNX: dict[int, DataType] = {datatype.onnx: datatype for datatype in _ALL}

# Elements of ONNX that the protocol does not have, by their numbers.
UNKNOWN_ELEMENTS = {
    14: "COMPLEX64", 15: "COMPLEX128", 17: "FLOAT8E4M3FN", 18: "FLOAT8E4M3FNUZ", 19: "FLOAT8E5M2",
    20: "FLOAT8E5M2FNUZ", 21: "UINT4", 22: "INT4", 23: "FLOAT4E2M1", 24: "FLOAT8E8M0",
}  # fmt: skip

BF16 = DATATYPES["BF16"]
BOOL = DATATYPES["BOOL"]
BYTES = DATATYPES["BYTES"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model; -1 in `shape` is a dimension of any size, `batch` the first one's name, if any.
    `filled` are the axes that must not be 0."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    batch: str | None = None
    filled: frozenset[int] = frozenset()

    def __str__(self) -> str:
        return f"'{self.name}' {self.datatype.name} {shape_text(self.shape)}"

    @property
    def free_first(self) -> bool:
        """The first dimension takes any size."""
        return bool(self.shape) and self.shape[0] == -1

    def accepts(self, shape: tuple[int, ...]) -> bool:
        return (
            len(shape) == len(self.shape)
            and all(have >= 0 and want in (-1, have) for want, have in zip(self.shape, shape, strict=True))
            and not self.lacks(shape)
        )

    def lacks(self, shape: tuple[int, ...]) -> bool:
        """Whether an axis is 0 that must not be."""
        return any(size == 0 and axis in self.filled for axis, size in enumerate(shape))


def shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
