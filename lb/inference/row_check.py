"""Whether a model treats each row of a batch apart, as far as trying finds out: rows of many kinds, batches of them,
and what their answers differ in.

Only the standard library: a daemon without a model server beside it has no numpy.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from lb.errors import TidegateError
from lb.wire import grpc_service_pb2 as wire

# Of one element, as struct has it. BF16 is the upper half of an FP32.
_FORMATS = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i",
    "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d", "BF16": "H",
}  # fmt: skip
_CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
FLOATS = ("FP16", "BF16", "FP32", "FP64")
# Relative, and a hundredth of it absolute: what a sum in another order differs by. The model server has the same.
TOLERANCE = {"FP16": 2e-2, "BF16": 2e-2, "FP32": 1e-3, "FP64": 1e-3}
# How far the values of a row spread. A scale that is taken over the batch shows where small and large ones meet.
_SPREADS = (1.0, 1e-3, 100.0, 3.0, 10.0, 0.03, 1000.0)
_WORDS = (b"a", b"b", b"", b"longer", b"sea gate", "straße".encode(), b"1", b"-7.5", b"x" * 300)
_INTEGERS = (2, 10, 100, 1000, 30_000)


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a model for one row: its shape without the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Elements of one row."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Output:
    """What an answer has of an output, as raw data."""

    datatype: str
    shape: tuple[int, ...]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model server answers: what it says beside the outputs, and these by name, in their order."""

    said: tuple[tuple[str, bytes], ...]
    outputs: dict[str, Output]


class NotRows(TidegateError):
    """A row's answer is not its own: the message says where."""


def random_row(inputs: Sequence[Input], random: Random, kind: int) -> dict[str, bytes]:
    """Raw data of one row for each input. Each `kind` is another: spread, sign, zeros, a single large value, values
    that are no numbers."""
    return {one.name: _random(one, random, kind) for one in inputs}


KINDS = 2 * len(_SPREADS) + 6  # of rows


def _random(one: Input, random: Random, kind: int) -> bytes:
    if one.datatype == "BYTES":
        words = [random.choice(_WORDS) for _ in range(one.count)]
        return b"".join(struct.pack("<I", len(word)) + word for word in words)
    if one.datatype in FLOATS:
        return encoded(one.datatype, _random_floats(one, random, kind))
    if one.datatype == "BOOL":
        share = (0.5, 0.1, 0.9, 0.0, 1.0)[kind % 5]
        return encoded("BOOL", [random.random() < share for _ in range(one.count)])
    bits = 8 * struct.calcsize(_FORMATS[one.datatype])
    most = (1 << bits - (one.datatype[0] == "I")) - 1
    # All values of a small type; a larger one may hold indices, of which most models have few.
    limit = min(most, _INTEGERS[kind % len(_INTEGERS)] - 1) if bits > 8 or kind % 2 else most
    return encoded(one.datatype, [random.randint(0, limit) for _ in range(one.count)])


def _random_floats(one: Input, random: Random, kind: int) -> list[float]:
    if kind < len(_SPREADS):
        return [random.gauss(0, _SPREADS[kind]) for _ in range(one.count)]
    kind -= len(_SPREADS)
    if kind < len(_SPREADS):
        return [abs(random.gauss(0, _SPREADS[kind])) for _ in range(one.count)]
    kind -= len(_SPREADS)
    values = [random.gauss(0, 1) for _ in range(one.count)]
    if kind == 0:
        return [0.0] * one.count
    if kind == 1:
        return [random.choice(values or [0.0])] * one.count
    if values and kind >= 2:
        values[random.randrange(one.count)] = (5e3, -5e3, math.inf, math.nan)[kind - 2]
    return values


def encoded(datatype: str, values: Sequence[Any]) -> bytes:
    """Raw data of numbers, little-endian."""
    if datatype == "BF16":
        wide = struct.pack(f"<{len(values)}f", *values)
        return b"".join(wide[at + 2 : at + 4] for at in range(0, len(wide), 4))
    return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)


def decoded(datatype: str, raw: bytes) -> list[Any]:
    """The elements of raw data; texts as bytes. Raises struct.error where it is cut off."""
    if datatype == "BYTES":
        return list(_texts(raw))
    size = struct.calcsize(_FORMATS[datatype])
    if datatype == "BF16":
        raw = b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    return list(struct.unpack(f"<{len(raw) // size}{_FORMATS[datatype]}", raw))


def _texts(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        yield raw[at + 4 : at + 4 + size]
        at += 4 + size


def request_of(
    model: str, version: str, inputs: Sequence[Input], rows: Sequence[Mapping[str, bytes]]
) -> wire.ModelInferRequest:
    """The request for these rows together."""
    made = wire.ModelInferRequest(model_name=model, model_version=version)
    for one in inputs:
        made.inputs.add(name=one.name, datatype=one.datatype, shape=(len(rows), *one.shape))
        made.raw_input_contents.append(b"".join(row[one.name] for row in rows))
    return made


def answer_of(message: wire.ModelInferResponse) -> Answer:
    """What a ModelInferResponse says, but for its id. Raises NotRows for one that cannot be right."""
    said = [("model", message.model_name.encode()), ("version", message.model_version.encode())]
    said += [(f"parameter '{key}'", value.SerializeToString()) for key, value in sorted(message.parameters.items())]
    outputs: dict[str, Output] = {}
    raws = list(message.raw_output_contents)
    for one in message.outputs:
        if one.datatype not in _FORMATS and one.datatype != "BYTES":
            raise NotRows(f"output '{one.name}' has the unknown datatype {one.datatype}")
        if raws:
            raw = raws.pop(0)
        elif one.datatype in _CONTENTS:
            values = getattr(one.contents, _CONTENTS[one.datatype])
            if one.datatype == "BYTES":
                raw = b"".join(struct.pack("<I", len(text)) + text for text in values)
            else:
                raw = encoded(one.datatype, values)
        else:
            raise NotRows(f"output '{one.name}' has no data")
        said += [
            (f"parameter '{key}' of output '{one.name}'", value.SerializeToString())
            for key, value in sorted(one.parameters.items())
        ]
        outputs[one.name] = Output(one.datatype, tuple(one.shape), raw)
    return Answer(tuple(said), outputs)


def rows_of(answer: Answer, count: int) -> list[dict[str, bytes]]:
    """Raw data of each output by rows. Raises NotRows where an output does not have that many."""
    found: list[dict[str, bytes]] = [{} for _ in range(count)]
    for name, output in answer.outputs.items():
        if not output.shape or output.shape[0] != count:
            rows = "1 row" if count == 1 else f"{count} rows"
            raise NotRows(f"output '{name}' of {rows} has the shape {list(output.shape)}")
        for row, raw in zip(found, _split(output, count), strict=True):
            row[name] = raw
    return found


def _split(output: Output, count: int) -> list[bytes]:
    if output.datatype != "BYTES":
        size = len(output.raw) // count
        return [output.raw[at * size : (at + 1) * size] for at in range(count)]
    texts = [struct.pack("<I", len(text)) + text for text in _texts(output.raw)]
    size = len(texts) // count
    return [b"".join(texts[at * size : (at + 1) * size]) for at in range(count)]


def difference(alone: Sequence[Answer], together: Answer) -> float:
    """The largest relative difference between rows alone and the same rows together; 0 where they are equal to the bit,
    or NaN in the same places. Raises NotRows where a row is another one among others, beyond TOLERANCE."""
    count = len(alone)
    worst = 0.0
    found = rows_of(together, count)
    for at, one in enumerate(alone):
        if list(one.outputs) != list(together.outputs):
            raise NotRows(f"outputs {list(one.outputs)} of a row alone, {list(together.outputs)} of {count} rows")
        if one.said != together.said:
            raise NotRows(_other(one, together, count))
        (row,) = rows_of(one, 1)
        for name, output in one.outputs.items():
            other = together.outputs[name]
            if (output.datatype, output.shape[1:]) != (other.datatype, other.shape[1:]):
                raise NotRows(
                    f"output '{name}' of a row alone is {output.datatype} {list(output.shape)}, "
                    f"of {count} rows {other.datatype} {list(other.shape)}"
                )
            if row[name] != found[at][name]:
                place = f"output '{name}' of row {at} of {count}"
                worst = max(worst, _compare(place, output.datatype, row[name], found[at][name]))
    return worst


def _other(alone: Answer, together: Answer, count: int) -> str:
    """What two answers say that is not the same. Such answers are never put together."""
    one, other = dict(alone.said), dict(together.said)
    what = next(key for key in [*one, *other] if one.get(key) != other.get(key))
    return f"the {what} is not the same for a row alone and for {count} rows, so that answers do not go together"


def _compare(place: str, datatype: str, alone: bytes, together: bytes) -> float:
    worst = 0.0
    tolerance = TOLERANCE.get(datatype, 0.0)
    for one, other in zip(decoded(datatype, alone), decoded(datatype, together), strict=True):
        if one == other or (datatype in FLOATS and math.isnan(one) and math.isnan(other)):
            continue
        finite = datatype in FLOATS and math.isfinite(one) and math.isfinite(other)
        if not finite or abs(one - other) > tolerance * abs(one) + tolerance / 100:
            raise NotRows(f"{place}: {_shown(other)} among the others, {_shown(one)} alone")
        worst = max(worst, abs(one - other) / max(abs(one), 1e-2))
    return worst


def _shown(value: Any) -> str:
    return f"{value:.8g}" if isinstance(value, float) else repr(value)
