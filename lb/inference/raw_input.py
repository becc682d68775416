"""Raw binary requests: a body that is the bytes of a model's only input, with `Inference-Header-Content-Length: 0`.

The rules are Triton's ("Raw Binary Request" of its binary tensor data extension, and its core's normalisation of raw
inputs): the model has one input, whose name, datatype and shape come from the model; the batch is 1; at most one other
dimension is variable and follows from the size; BYTES have the shape [1], and the body is the element; all outputs are
binary.
"""

from __future__ import annotations

import math
from typing import Any

import orjson
from google.protobuf.message import DecodeError
from msgspec import Struct

from lb.errors import UpstreamError
from lb.inference.errors import OipError
from lb.inference.synthesis import MARK
from lb.wire import grpc_service_pb2 as wire

_BYTES = "BYTES"
_SIZES = {
    "BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2, "UINT32": 4, "INT32": 4, "FP32": 4,
    "UINT64": 8, "INT64": 8, "FP64": 8,
}  # fmt: skip


class RawInput(Struct, frozen=True):
    """A model's only input: its shape with the batch of 1, and at most one dimension of -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def prefixed(self) -> bool:
        """Whether the body's length stands before its bytes in the tensor."""
        return self.datatype == _BYTES

    def header(self, size: int) -> bytes:
        """The JSON part of the binary request that the raw one of `size` bytes is short for. Raises OipError."""
        shape = list(self.shape)
        if self.prefixed:
            size += 4
        elif -1 in shape:
            row = _SIZES[self.datatype] * math.prod(n for n in shape if n >= 0)
            if row == 0 or size % row:
                raise OipError(
                    f"raw request: {size} bytes are no whole number of rows for input '{self.name}' of datatype "
                    f"{self.datatype} and shape {shape}"
                )
            shape[shape.index(-1)] = size // row
        described = {
            "name": self.name,
            "shape": shape,
            "datatype": self.datatype,
            "parameters": {"binary_data_size": size},
        }
        return orjson.dumps({"parameters": {"binary_data_output": True}, "inputs": [described]})


def raw_input(metadata: bytes, config: bytes | None) -> RawInput:
    """The input of a model by its ModelMetadataResponse and its ModelConfigResponse; None, as one that is synthesised:
    its server has no configurations, and no dimension is known to be the batch.

    Raises OipError where raw requests cannot be made to the model, UpstreamError for anything but these messages.
    """
    try:
        described = wire.ModelMetadataResponse.FromString(metadata)
        configured = wire.ModelConfigResponse.FromString(config or b"")
    except DecodeError:
        raise UpstreamError("the endpoint's answer is not a description of a model") from None
    if len(described.inputs) != 1:
        raise OipError(f"raw requests are for models with one input; '{described.name}' has {len(described.inputs)}")
    batches = configured.config.max_batch_size > 0 and MARK not in configured.config.parameters
    return _checked(described.inputs[0], batches)


def _checked(tensor: Any, batches: bool) -> RawInput:
    shape = [max(n, -1) for n in tensor.shape]
    rest = shape[1:] if batches else shape
    where = f"input '{tensor.name}' of shape {shape}"
    if tensor.datatype == _BYTES:
        if any(n != 1 for n in rest):
            raise OipError(f"raw requests with datatype BYTES are for inputs of shape [1], not for {where}")
    elif tensor.datatype not in _SIZES:
        raise OipError(f"raw requests are not possible with datatype {tensor.datatype}")
    elif rest.count(-1) > 1:
        raise OipError(f"raw requests are for inputs with one variable dimension besides the batch, not for {where}")
    return RawInput(tensor.name, tensor.datatype, (1, *rest) if batches else tuple(rest))
