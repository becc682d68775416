"""What a trial of a model's rows is made of, without a model."""

from __future__ import annotations

import math
import struct
from random import Random

import numpy as np
import pytest
from oip_tools import NUMPY

from lb.inference.row_check import (
    KINDS,
    Input,
    NotRows,
    answer_of,
    decoded,
    difference,
    encoded,
    random_row,
    request_of,
    rows_of,
)
from lb.wire.grpc_service_pb2 import ModelInferResponse

DATATYPES = [*NUMPY, "BF16", "BYTES"]


def reply(raw: bytes, rows: int = 1, datatype: str = "FP32", shape: tuple[int, ...] = (2,), version: str = "1"):  # type: ignore[no-untyped-def]
    made = ModelInferResponse(model_name="m", model_version=version)
    made.outputs.add(name="y", datatype=datatype, shape=(rows, *shape))
    made.raw_output_contents.append(raw)
    return made


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_rows_of_every_kind_fit_the_datatype(datatype: str) -> None:
    inputs = [Input("x", datatype, (3, 2)), Input("none", datatype, (0,))]
    seen = set()
    for kind in range(KINDS):
        row = random_row(inputs, Random(kind), kind)
        assert row["none"] == b""
        values = decoded(datatype, row["x"])
        assert len(values) == 6
        seen.add(row["x"])
        if datatype in NUMPY:
            assert encoded(datatype, values) == row["x"]
            assert np.array_equal(np.frombuffer(row["x"], NUMPY[datatype]), values, equal_nan=datatype[:2] == "FP")
    assert len(seen) > 4
    message = request_of("m", "2", inputs, [random_row(inputs, Random(0), 0), random_row(inputs, Random(1), 1)])
    assert [tuple(tensor.shape) for tensor in message.inputs] == [(2, 3, 2), (2, 0)]
    assert (message.model_name, message.model_version) == ("m", "2")


def test_floats_have_large_and_small_rows_and_what_is_no_number() -> None:
    one = [Input("x", "FP32", (64,))]
    rows = [decoded("FP32", random_row(one, Random(1), kind)["x"]) for kind in range(KINDS)]
    largest = [max(map(abs, row)) for row in rows]
    assert min(largest) == 0
    assert max(number for number in largest if math.isfinite(number)) > 1000
    assert any(math.isinf(value) for row in rows for value in row)
    assert any(math.isnan(value) for row in rows for value in row)


def test_bf16_is_the_upper_half_of_a_float() -> None:
    assert encoded("BF16", [1.0, -2.5]) == b"\x80\x3f\x20\xc0"
    assert decoded("BF16", b"\x80\x3f\x20\xc0") == [1.0, -2.5]


@pytest.mark.parametrize(
    ("alone", "together", "apart"),
    [
        ((1.0, 2.0), (1.0, 2.0), 0.0),
        ((1.0, math.nan), (1.0, math.nan), 0.0),
        ((math.inf, 2.0), (math.inf, 2.0), 0.0),
        ((0.0, 2.0), (-0.0, 2.0), 0.0),
        ((1.0, 200.0), (1.0, 200.1), 0.0005),
        ((0.0, 2.0), (9e-6, 2.0), 9e-4),
    ],
)
def test_what_is_near_enough(alone: tuple[float, ...], together: tuple[float, ...], apart: float) -> None:
    one = answer_of(reply(floats(*alone)))
    both = answer_of(reply(floats(*together) + floats(*alone), rows=2))
    assert difference([one, one], both) == pytest.approx(apart, rel=1e-2)


@pytest.mark.parametrize(
    ("alone", "together"),
    [
        ((1.0, 2.0), (1.0, 2.1)),
        ((1.0, 2.0), (2.0, 1.0)),
        ((1.0, math.nan), (1.0, 2.0)),
        ((1.0, 2.0), (1.0, math.nan)),
        ((1.0, math.inf), (1.0, -math.inf)),
        ((1.0, 2.0), (1.0, math.inf)),
        ((0.0, 2.0), (2e-5, 2.0)),
    ],
)
def test_what_is_another_answer(alone: tuple[float, ...], together: tuple[float, ...]) -> None:
    one = answer_of(reply(floats(*alone)))
    with pytest.raises(NotRows, match=r"output 'y' of row 1 of 2: .* among the others, .* alone"):
        difference([one, one], answer_of(reply(floats(*alone) + floats(*together), rows=2)))


def test_whole_numbers_and_texts_are_equal_or_not() -> None:
    one = answer_of(reply(struct.pack("<2q", 1, 2), datatype="INT64"))
    assert difference([one], one) == 0
    with pytest.raises(NotRows, match="3 among the others, 2 alone"):
        difference([one], answer_of(reply(struct.pack("<2q", 1, 3), datatype="INT64")))
    text = struct.pack("<I2sI3s", 2, b"ab", 3, b"cde")
    words = answer_of(reply(text, datatype="BYTES"))
    assert rows_of(answer_of(reply(text, datatype="BYTES", rows=2, shape=())), 2) == [
        {"y": text[:6]},
        {"y": text[6:]},
    ]
    with pytest.raises(NotRows, match="b'cdf' among the others, b'cde' alone"):
        difference([words], answer_of(reply(text[:-1] + b"f", datatype="BYTES")))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (reply(floats(1, 2, 3, 4), rows=2, version="2"), "the version is not the same"),
        (reply(floats(1, 2, 3), rows=1, shape=(3,)), "output 'y' of 2 rows has the shape"),
        (reply(floats(1, 2, 3, 4, 5, 6), rows=2, shape=(3,)), "of a row alone is FP32 .1, 2., of 2 rows FP32 .2, 3."),
        (reply(floats(1, 2, 3, 4), rows=2, datatype="INT32"), "of a row alone is FP32 .1, 2., of 2 rows INT32"),
        (ModelInferResponse(model_name="m", model_version="1"), r"outputs \['y'\] of a row alone, \[\] of 2 rows"),
    ],
)
def test_answers_that_would_never_be_put_together(other: ModelInferResponse, reason: str) -> None:
    one = answer_of(reply(floats(1, 2)))
    with pytest.raises(NotRows, match=reason):
        difference([one, one], answer_of(other))


def test_a_parameter_that_tells_batches_apart() -> None:
    one, other = reply(floats(1, 2)), reply(floats(1, 2))
    other.outputs[0].parameters["rows"].int64_param = 2
    with pytest.raises(NotRows, match="the parameter 'rows' of output 'y' is not the same for a row alone"):
        difference([answer_of(one)], answer_of(other))


def test_typed_contents_are_as_good_as_raw_ones() -> None:
    typed = ModelInferResponse(model_name="m", model_version="1")
    typed.outputs.add(name="y", datatype="FP32", shape=(1, 2)).contents.fp32_contents.extend([1.5, 2.0])
    typed.outputs.add(name="t", datatype="BYTES", shape=(1, 1)).contents.bytes_contents.append(b"ab")
    found = answer_of(typed)
    assert found.outputs["y"].raw == floats(1.5, 2.0)
    assert found.outputs["t"].raw == b"\x02\0\0\0ab"


@pytest.mark.parametrize(("datatype", "reason"), [("FP99", "unknown datatype FP99"), ("FP16", "has no data")])
def test_answers_that_cannot_be_right(datatype: str, reason: str) -> None:
    made = ModelInferResponse(model_name="m")
    made.outputs.add(name="y", datatype=datatype, shape=(1, 2))
    with pytest.raises(NotRows, match=reason):
        answer_of(made)
