"""Whether a file is likely an ONNX model, without loading it: a walk over the top-level fields of its protobuf message
(ModelProto of onnx.proto), which are skipped, however long they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

_IR_VERSION = (1, 0)  # field and wire type
_GRAPH = (7, 2)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_FIELDS = 10_000
_LFS = b"version https://git-lfs"


def model_problem(file: Path) -> str:
    """What keeps the file from being a model; "" where it may be one. Raises OSError."""
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            return "is empty; put an ONNX model there"
        if stream.read(len(_LFS)) == _LFS:
            return "is a pointer of Git LFS and no model; fetch the model with `git lfs pull`"
        stream.seek(0)
        return _walk(stream, size)


def _walk(stream: BinaryIO, size: int) -> str:
    seen = set()
    for _ in range(_MOST_FIELDS):
        at = stream.tell()
        if at == size:
            break
        tag = _varint(stream)
        field, wire = (tag >> 3, tag & 7) if tag is not None else (0, 0)
        if field == 0 or wire not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            return "is not an ONNX model: it is no protobuf message"
        seen.add((field, wire))
        known = bool(seen & {_IR_VERSION, _GRAPH})
        length = _varint(stream) if wire in (_VARINT, _BYTES) else {_FIXED64: 8, _FIXED32: 4}[wire]
        end = stream.tell() + (0 if wire == _VARINT or length is None else length)
        if length is None or end > size:
            return "is cut short" if known else "is not an ONNX model: it is no protobuf message"
        stream.seek(end)
    if not seen & {_IR_VERSION, _GRAPH}:
        return "is not an ONNX model: it has neither ir_version nor graph"
    return ""


def _varint(stream: BinaryIO) -> int | None:
    """A number of at most 64 bits; None where there is none."""
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
