"""Answers that Python makes of what a run gave: outputs as classes, outputs into shared memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.calls import Operand, join_bytes
from backend.datatypes import BF16, BYTES, TensorSpec
from backend.errors import InvalidInput, Unsupported
from backend.regions import Region, Regions
from lb.wire import grpc_service_pb2 as wire

Finish = Callable[[Sequence[Operand]], bytes]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an output goes in shared memory."""

    region: Region
    offset: int
    room: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of an output: the best `classes` of each row (0: all of it), and where to put it."""

    spec: TensorSpec
    classes: int
    placed: Placed | None


def wanted_of(output: Any, spec: TensorSpec, regions: Regions) -> Wanted:
    """Of an InferRequestedOutputTensor. Raises InvalidInput, NotFound, Unsupported."""
    classes = output.parameters["classification"].int64_param if "classification" in output.parameters else 0
    if classes and (spec.datatype is BYTES or spec.datatype.dtype.kind == "b"):
        raise Unsupported(f"output '{spec.name}': {spec.datatype.name} has no classes")
    if classes < 0:
        raise InvalidInput(f"output '{spec.name}': expected a number of classes from 1, got {classes}")
    return Wanted(spec, classes, placed(f"output '{spec.name}'", output.parameters, regions))


def placed(what: str, parameters: Any, regions: Regions) -> Placed | None:
    """Where the parameters of a tensor say that it is; None: in the message. Raises InvalidInput, NotFound,
    Unsupported."""
    if "shared_memory_region" not in parameters:
        return None
    region = regions.get(parameters["shared_memory_region"].string_param)
    if "shared_memory_byte_size" not in parameters:
        raise InvalidInput(f"{what}: shared_memory_byte_size is missing")
    offset = parameters["shared_memory_offset"].int64_param if "shared_memory_offset" in parameters else 0
    return Placed(region, offset, parameters["shared_memory_byte_size"].int64_param)


@dataclass(frozen=True, slots=True)
class Finishing:
    """Makes the ModelInferResponse of one request. `rows`: the first dimension of outputs counts rows."""

    name: str
    version: str
    id: str
    wanted: tuple[Wanted, ...]
    rows: bool
    final: bool

    def __call__(self, outputs: Sequence[Operand]) -> bytes:
        """Raises InvalidInput."""
        answer = wire.ModelInferResponse(model_name=self.name, model_version=self.version, id=self.id)
        if self.final:
            answer.parameters["triton_final_response"].bool_param = True
        for one, (shape, raw) in zip(self.wanted, outputs, strict=True):
            datatype = one.spec.datatype.name
            if one.classes:
                shape, raw = classes_of(one.spec, tuple(shape), raw, one.classes, self.rows)
                datatype = BYTES.name
            output = answer.outputs.add(name=one.spec.name, datatype=datatype, shape=shape)
            if one.placed is None:
                answer.raw_output_contents.append(raw)
                continue
            what = f"output '{one.spec.name}'"
            one.placed.region.write(what, one.placed.offset, one.placed.room, raw)
            output.parameters["shared_memory_region"].string_param = one.placed.region.name
            output.parameters["shared_memory_byte_size"].int64_param = len(raw)
            if one.placed.offset:
                output.parameters["shared_memory_offset"].int64_param = one.placed.offset
            answer.raw_output_contents.append(b"")  # one for each output, so that the others keep their places
        return bytes(answer.SerializeToString())


def classes_of(spec: TensorSpec, shape: tuple[int, ...], raw: bytes, count: int, rows: bool) -> Operand:
    """The best `count` classes of each row, best first, as Triton's classification extension writes them:
    "value:index", values with six digits behind the point."""
    values = np.frombuffer(raw, spec.datatype.dtype)
    if spec.datatype is BF16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    batch = shape[0] if rows and shape else 1
    table = values.reshape(batch, -1) if batch else values.reshape(0, math.prod(shape[1:]))
    count = min(count, table.shape[1])
    best = np.argsort(-table.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = [
        f"{table[row, index]:.6f}:{index}" if table.dtype.kind == "f" else f"{table[row, index]}:{index}"
        for row in range(batch)
        for index in best[row]
    ]
    made = (batch, count) if rows and shape else (count,)
    return made, join_bytes([text.encode() for text in texts])
