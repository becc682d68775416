"""Two answers compared: as numpy.allclose does, output by output."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from tests.compiled.compare import compare

from lb.wire import grpc_service_pb2 as wire

SAME, VALUES, SHAPE, DATATYPE, MISSING, ADDED = range(6)
KINDS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


def answer(*outputs: tuple[str, str, list[int], bytes], **more: Any) -> bytes:
    """A ModelInferResponse with raw contents."""
    made = wire.ModelInferResponse(model_name="m", **more)
    for name, datatype, shape, raw in outputs:
        made.outputs.add(name=name, datatype=datatype, shape=shape)
        made.raw_output_contents.append(raw)
    return made.SerializeToString()


def floats(*values: float, datatype: str = "FP32", name: str = "y") -> bytes:
    raw = np.array(values, KINDS[datatype]).tobytes()
    return answer((name, datatype, [len(values)], raw))


def what(first: bytes, second: bytes, **tolerance: Any) -> list[tuple[str, int]]:
    result, outputs = compare(first, second, **tolerance)
    assert result == int(any(row[1] for row in outputs))
    return [row[:2] for row in outputs]


values = some.floats(width=16) | some.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-6])


@given(
    some.sampled_from(sorted(KINDS)),
    some.lists(some.tuples(values, values | some.none()), min_size=1, max_size=20),
    some.sampled_from([0.0, 1e-5, 0.1]),
    some.sampled_from([0.0, 1e-3, 0.5]),
    some.booleans(),
)
def test_floats_as_numpy_compares_them(
    datatype: str, pairs: list[tuple[float, float | None]], absolute: float, relative: float, nan: bool
) -> None:
    first = np.array([a for a, _ in pairs], KINDS[datatype])
    second = np.array([a if b is None else b for a, b in pairs], KINDS[datatype])
    wide = first.astype(np.float64), second.astype(np.float64)
    # numpy's second argument is the one that the tolerance is relative to.
    close = np.isclose(wide[1], wide[0], rtol=relative, atol=absolute, equal_nan=nan)
    result, [found] = compare(
        floats(*first, datatype=datatype), floats(*second, datatype=datatype), absolute, relative, nan
    )
    name, _, count, different, largest, _, at, *_ = found
    assert (name, count, different) == ("y", len(pairs), int((~close).sum()))
    assert result == int(different > 0)
    assert at == (int(np.argmin(close)) if different else -1)
    finite = np.isfinite(wide[0]) & np.isfinite(wide[1])
    assert largest >= (np.abs(wide[1] - wide[0])[finite].max() if finite.any() else 0)


def test_other_datatypes_have_to_be_the_same() -> None:
    for datatype, form, low, high in (
        ("INT8", "b", -5, -4), ("UINT8", "B", 250, 251), ("BOOL", "?", 0, 1), ("INT16", "h", -300, 300),
        ("UINT16", "H", 1, 60_000), ("INT32", "i", -70_000, 70_000), ("UINT32", "I", 1, 4_000_000_000),
        ("INT64", "q", 2**60, 2**60 + 1), ("UINT64", "Q", 2**63, 2**63 + 1),
    ):  # fmt: skip
        one, other = (answer(("y", datatype, [2], struct.pack(f"<2{form}", low, value))) for value in (low, high))
        assert what(one, one) == [("y", SAME)]
        result, [row] = compare(one, other, 1e9, 1.0)
        assert (result, row[1], row[3], row[6]) == (1, VALUES, 1, 1), datatype
        assert row[4] == float(high) - float(low)
    half = struct.pack("<2H", 0x3F80, 0x3F81)  # BF16: 1 and 1.0078125
    assert what(answer(("y", "BF16", [2], half)), answer(("y", "BF16", [2], half[:2] * 2))) == [("y", VALUES)]
    assert what(answer(("y", "BF16", [2], half)), answer(("y", "BF16", [2], half[:2] * 2)), relative=0.01) == [
        ("y", SAME)
    ]


def test_text() -> None:
    def words(*texts: bytes) -> bytes:
        return answer(("y", "BYTES", [len(texts)], b"".join(struct.pack("<I", len(t)) + t for t in texts)))

    assert what(words(b"a", b""), words(b"a", b"")) == [("y", SAME)]
    result, [row] = compare(words(b"a", b"bc", b"d"), words(b"ab", b"c", b"d"))
    assert (result, row[1], row[2], row[3], row[6]) == (1, VALUES, 3, 2, 0)


def test_outputs_go_together_by_name() -> None:
    a, b = ("a", "FP32", [1], bytes(4)), ("b", "INT32", [1], b"\1\0\0\0")
    assert what(answer(a, b), answer(b, a)) == [("a", SAME), ("b", SAME)]
    assert what(answer(a, b), answer(a)) == [("a", SAME), ("b", MISSING)]
    assert what(answer(a), answer(a, b)) == [("a", SAME), ("b", ADDED)]
    assert what(answer(a, a), answer(a)) == [("a", SAME), ("a", MISSING)]
    assert what(answer(), answer()) == []
    assert what(answer(), answer(a)) == [("a", ADDED)]
    assert what(answer(a), answer(("a", "INT32", [1], bytes(4)))) == [("a", DATATYPE)]
    assert what(answer(("a", "FP32", [2, 1], bytes(8))), answer(("a", "FP32", [1, 2], bytes(8)))) == [("a", SHAPE)]
    assert what(answer(("a", "FP32", [1, 0], b"")), answer(("a", "FP32", [1, 0], b""))) == [("a", SAME)]
    assert what(answer(a, model_version="1", id="x"), answer(a, model_version="2")) == [("a", SAME)]


def test_typed_contents_are_the_same_as_raw_ones() -> None:
    made = wire.ModelInferResponse(model_name="m")
    made.outputs.add(name="y", datatype="FP32", shape=[2]).contents.fp32_contents.extend([1.0, 2.0])
    made.outputs.add(name="z", datatype="INT32", shape=[1]).contents.int_contents.extend([7])
    raw = answer(("z", "INT32", [1], b"\7\0\0\0"), ("y", "FP32", [2], struct.pack("<2f", 1, 2)))
    assert what(made.SerializeToString(), raw) == [("y", SAME), ("z", SAME)]


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff",
        answer(("y", "FP32", [2], bytes(4))),
        answer(("y", "FP33", [1], bytes(4))),
        answer(("y", "FP32", [-1], bytes(4))),
        answer(("y", "BYTES", [1], b"\xff\xff\xff\xff")),
    ],
)
def test_what_is_no_answer_is_not_compared(bad: bytes) -> None:
    assert compare(bad, floats(1.0))[0] == -1
    assert compare(floats(1.0), bad)[0] == -1


@given(some.binary(max_size=200), some.binary(max_size=200))
def test_any_bytes(first: bytes, second: bytes) -> None:
    assert compare(first, second)[0] in (-1, 0, 1)


def test_many_outputs() -> None:
    many = answer(*((f"y{i}", "FP32", [1], bytes(4)) for i in range(500)))
    result, outputs = compare(many, answer(*((f"y{i}", "FP32", [1], bytes(4)) for i in reversed(range(500)))))
    assert (result, len(outputs)) == (0, 64)
    assert compare(many, answer(*((f"y{i}", "FP32", [1], bytes(4)) for i in range(499))))[0] == 1
