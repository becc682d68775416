"""Requests of the Open Inference Protocol that are refused, and those just short of it."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from compiled.inference import parse_request
from oip_requests import BASE, FP32, one
from oip_tools import DATATYPES, NUMPY, Tensor, encode, tensor_of

from lb.inference.errors import OipError
from lb.inference.nonfinite import LARGEST
from lb.wire.grpc_service_pb2 import ModelInferRequest


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "raw"),
    [
        ("BOOL", [4], [True, False, 1, 0], b"\1\0\1\0"),
        ("FP32", [2], [1, 0.1], np.array([1, 0.1], "<f4").tobytes()),
        ("FP64", [1], [2**63], np.array([2.0**63], "<f8").tobytes()),
        ("FP16", [3], [65504, 6e-8, "-Infinity"], np.array([65504, 6e-8, -np.inf], "<f2").tobytes()),
        ("INT64", [], [-(2**63)], (-(2**63)).to_bytes(8, "little", signed=True)),
        ("INT64", [1, 2, 1], [[1, 2]], np.array([1, 2], "<i8").tobytes()),
        ("INT64", [2], [[1], [2]], np.array([1, 2], "<i8").tobytes()),
        ("INT64", [0], [], b""),
        ("INT64", [2, 0], [[], []], b""),
        ("INT64", [0, 1 << 62], [], b""),
        ("BYTES", [2], ["", "a\0é"], struct.pack("<I", 0) + struct.pack("<I", 4) + "a\0é".encode()),
        # Literals that only Python's json module writes.
        ("FP32", [3], [np.nan, np.inf, -np.inf], np.array([np.nan, np.inf, -np.inf], "<f4").tobytes()),
        ("FP64", [1, 2], [[0.5, np.inf]], np.array([0.5, np.inf], "<f8").tobytes()),
        ("FP16", [2], [-np.inf, 1], np.array([-np.inf, 1], "<f2").tobytes()),
        ("BF16", [2], [-np.inf, 1], b"\x80\xff\x80\x3f"),
    ],
)
def test_json_data(datatype: str, shape: list[int], data: Any, raw: bytes) -> None:
    document = {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}]}
    message = ModelInferRequest.FromString(parse_request(b"m", b"", json.dumps(document).encode()).message())
    assert list(message.raw_input_contents) == [raw]


def test_literals_beyond_json_in_the_json_part_of_binary_requests() -> None:
    item = {"name": "x", "shape": [2], "datatype": "FP32"}
    for _ in range(2):  # the second comes from what was kept of the first
        head = json.dumps(
            {"inputs": [item | {"parameters": {"binary_data_size": 8}}, item | {"name": "y", "data": [np.nan, 2]}]}
        )
        request = parse_request(b"m", b"", head.encode() + bytes(8), len(head))
        message = ModelInferRequest.FromString(request.message())
        assert list(message.raw_input_contents) == [bytes(8), np.array([np.nan, 2], "<f4").tobytes()]


def test_literals_beyond_json_in_parameters() -> None:
    head = b'{"inputs":[],"parameters":{"a":NaN,"b":-Infinity,"t":"'
    message = ModelInferRequest.FromString(parse_request(b"m", b"", head + b'x"}}').message())
    assert math.isnan(message.parameters["a"].double_param)
    assert message.parameters["b"].double_param == -math.inf
    with pytest.raises(OipError, match=f"parameters of up to {LARGEST} bytes"):
        parse_request(b"m", b"", head + b"x" * LARGEST + b'"}}')


def test_requests_without_inputs_pass() -> None:
    message = ModelInferRequest.FromString(parse_request(b"m", b"", b'{"inputs":[]}').message())
    assert message == ModelInferRequest(model_name="m")


def test_tensors_after_strings_are_aligned_and_right() -> None:
    inputs = [tensor_of(f"s{i}", "BYTES", (1,), ["a" * i]) for i in range(9)]
    inputs += [tensor_of(f"d{i}", "FP64", (1,), [float(i)]) for i in range(9)]
    mixed = [t for pair in zip(inputs[:9], inputs[9:], strict=True) for t in pair]
    message = ModelInferRequest.FromString(parse_request(b"m", b"", *encode(mixed, set())).message())
    assert list(message.raw_input_contents) == [t.raw for t in mixed]


def top(**fields: Any) -> bytes:
    return json.dumps({"inputs": []} | fields).encode()


BAD_JSON = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"[]", "must be a JSON object"),
    (b"null", "must be a JSON object"),
    (b"{}", "no 'inputs'"),
    (b'{"inputs":[]} x', "not valid JSON"),
    (b'{"inputs":[],}', "not valid JSON"),
    (b'{"id":"a",,"inputs":[]}', "not valid JSON"),
    (b'{"id":"a","id":"b","inputs":[]}', "'id' occurs twice"),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[nan]}]}', "not valid JSON"),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN,]}]}', "not valid JSON"),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":["Infinity"}]}', "not valid JSON"),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT32","data":[NaN]}]}', "NaN is not an integer"),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"BOOL","data":[Infinity]}]}', "Infinity is not a value"),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":[NaN]}]}', "NaN is not a string"),
    (b'{"inputs":[{"name":"x","shape":[NaN],"datatype":"FP32","data":[1]}]}', "'shape' must be a non-negative integer"),
    (b'{"id":NaN,"inputs":[]}', "'id' must be a string"),
    (b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[NaN,1' + b"0" * 400 + b"]}]}", "out of the range"),
    (
        b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[NaN,1' + b"0" * 9000 + b"]}]}",
        "more than 1024 characters",
    ),
    (b'{"inputs":[{"name":"\xffNaN","shape":[1],"datatype":"FP64","data":[NaN]}]}', "not valid JSON"),
    (b'{"id":"\\ud800","parameters":{"a":NaN},"inputs":[]}', "half a surrogate pair"),
    (b"[" * 100000 + b"NaN" + b"]" * 100000, "not valid JSON"),
    (
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1e999]}]}',
        "1e999 is out of the range of datatype FP64",
    ),
    (b'{"inputs":[{"name":"\xff","shape":[1],"datatype":"FP64","data":[1]}]}', "not valid JSON"),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\\ud800"]}]}', "not valid JSON"),
    (b"[" * 100000 + b"]" * 100000, "not valid JSON"),
    (top(id=1), "'id' must be a string"),
    (top(inputs=None), "'inputs' must be an array"),
    (top(inputs={}), "'inputs' must be an array"),
    (top(inputs=[1]), "each of 'inputs' must be an object"),
    (top(inputs=[{}]), "must have a 'name'"),
    (top(outputs={}), "'outputs' must be an array"),
    (top(outputs=[{"name": ""}]), "must have a 'name'"),
    (top(outputs=[{"name": "a"}, {"name": "a"}]), "output 'a' occurs twice"),
    (top(outputs=[{"name": "a", "parameters": {"binary_data": 1}}]), "'binary_data' must be a boolean"),
    (top(outputs=[{"name": str(i)} for i in range(501)]), "more than 500 outputs"),
    (top(parameters=[]), "'parameters' must be an object"),
    (top(parameters={"a": None}), "must be a string, number or boolean"),
    (top(parameters={"a": [1]}), "must be a string, number or boolean"),
    (top(parameters={"binary_data_output": "true"}), "must be a boolean"),
    (top(parameters={"sequence_id": -1}), "non-negative"),
    (top(parameters={"sequence_id": True}), "non-negative"),
    (top(parameters={"sequence_start": 1}), "must be a boolean"),
    (top(parameters={"timeout": -1}), "non-negative"),
    (top(parameters={"timeout": 1.5}), "non-negative"),
    (top(parameters={"timeout": 2**63}), "non-negative"),
    (top(parameters={"priority": "high"}), "non-negative"),
    (top(parameters={"priority": -1}), "non-negative"),
    (top(parameters={"priority": True}), "non-negative"),
    (top(parameters={"priority": 2**64}), "non-negative"),
    (one(name=5), "must have a 'name'"),
    (one(datatype="FP8"), "unknown datatype 'FP8'"),
    (one(datatype="int32"), "unknown datatype"),
    (one(datatype=None), "'datatype' must be a string"),
    (one(datatype="INT32\0"), "unknown datatype"),
    (one(shape=None), "'shape' must be an array"),
    (one(shape=1), "'shape' must be an array"),
    (one(shape=[-1]), "non-negative"),
    (one(shape=[1.0]), "non-negative"),
    (one(shape=[True]), "non-negative"),
    (one(shape=[2**63]), "non-negative"),
    (one(shape=[1] * 65), "at most 64 dimensions"),
    (one(shape=[2**62, 2]), "too large"),
    (one(shape=[0, 2**62, 2]), "too large"),
    (one(shape=[2**62]), "too large"),
    (one(shape=[2**60, 2**60, 2**60]), "too large"),
    (one(data=None), "neither 'data' nor 'binary_data_size'"),
    (one(data=1), "'data' must be an array"),
    (one(data={}), "'data' must be an array"),
    (one(data="1"), "'data' must be an array"),
    (one(data=[]), "0 elements in data where the shape has 1"),
    (one(data=[1, 2]), "more elements in data than the shape has"),
    (one(shape=[2**40], data=[1]), "1 elements in data"),
    (one(shape=[2, 2], data=[[1, 2], [3]]), "different lengths"),
    (one(shape=[2, 2], data=[[1, 2], 3]), "side by side"),
    (one(shape=[2, 2], data=[1, [2, 3]]), "an array is not an integer"),
    (one(shape=[2, 3], data=[[1, 2], [3, 4], [5, 6]]), "the nesting of data is not that of the shape"),
    (one(shape=[2], data=[[1], [[2]]]), "too deeply|different depths|not an integer"),
    (one(shape=[2], data=[[[1]], [2]]), "different depths|side by side"),
    (one(data=[1.0]), "not an integer"),
    (one(data=[True]), "not an integer"),
    (one(data=["1"]), "'1' is not an integer"),
    (one(data=[None]), "not an integer"),
    (one(data=[{}]), "an object is not an integer"),
    (one(data=[2**31]), "out of the range"),
    (one(datatype="UINT64", data=[-1]), "out of the range"),
    (one(datatype="UINT64", data=[2**64]), "18446744073709551616 is out of the range"),
    (one(datatype="UINT8", data=[256]), "out of the range"),
    (one(datatype="INT8", data=[-129]), "out of the range"),
    (one(datatype="BOOL", data=[2]), "not a value"),
    (one(datatype="BOOL", data=["true"]), "not a value"),
    (one(datatype="BOOL", data=[1.0]), "not a value"),
    (one(datatype="FP32", data=[True]), "not a number"),
    (one(datatype="FP32", data=[None]), "not a number"),
    (one(datatype="FP32", data=["1.5"]), "not a number"),
    (one(datatype="FP32", data=[1e39]), "out of the range"),
    (one(datatype="FP16", data=[65520]), "out of the range"),
    (one(datatype="BF16", data=[3.4e38]), "out of the range"),
    (one(datatype="BYTES", data=[1]), "not a string"),
    (one(parameters={"binary_data_size": 4}), "exclude each other"),
    (one(data=None, parameters={"binary_data_size": 4}), "without the header"),
    (one(data=None, parameters={"binary_data_size": -4}), "non-negative"),
    (one(data=None, parameters={"binary_data_size": "4"}), "non-negative"),
    (one(data=None, parameters={"binary_data_size": 5}), "binary_data_size is 5 where shape and datatype take 4"),
    (one(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 4}), "exclude each other"),
    (one(data=None, parameters={"shared_memory_region": "r", "binary_data_size": 4}), "exclude each other"),
]


@pytest.mark.parametrize(("body", "message"), BAD_JSON, ids=range(len(BAD_JSON)))
def test_refused_json(body: bytes, message: str) -> None:
    for _ in range(2):  # a refusal is not remembered as anything else
        with pytest.raises(OipError, match=message) as caught:
            parse_request(b"m", b"", body)
        assert caught.value.status == 400
        assert len(str(caught.value)) < 300


def test_duplicate_inputs_are_refused() -> None:
    with pytest.raises(OipError, match="input 'x' occurs twice"):
        parse_request(b"m", b"", *encode([FP32, FP32], {0, 1}))


def test_deep_data_is_refused_without_recursion() -> None:
    for depth in (65, 66, 1000):
        data = b"[" * depth + b"1" + b"]" * depth
        body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":%s}]}' % data
        with pytest.raises(OipError):
            parse_request(b"m", b"", body)
    body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1,%s]}]}' % (b"[" * 1000 + b"]" * 1000)
    with pytest.raises(OipError, match="more elements"):
        parse_request(b"m", b"", body)


@pytest.mark.parametrize("extra", [-1, 1, 1000, -16])
def test_sizes_must_add_up(extra: int) -> None:
    body, length = encode([FP32], {0})
    body = body[:extra] if extra < 0 else body + bytes(extra)
    with pytest.raises(OipError, match=r"binary_data_size adds up to 16 bytes, but \d+ bytes follow"):
        parse_request(b"m", b"", body, length)


def test_json_length_is_checked() -> None:
    body, length = encode([FP32], {0})
    with pytest.raises(OipError, match="but the body has only"):
        parse_request(b"m", b"", body, len(body) + 1)
    with pytest.raises(OipError, match="not valid JSON"):
        parse_request(b"m", b"", body, 0)
    with pytest.raises(OipError, match="not valid JSON"):
        parse_request(b"m", b"", body, length - 1)
    with pytest.raises(OipError, match="not valid JSON"):
        parse_request(b"m", b"", body, length + 1)


def test_bytes_follow_a_json_only_request() -> None:
    text = json.dumps(BASE).encode()
    assert parse_request(b"m", b"", text, len(text)).message() == parse_request(b"m", b"", text).message()
    with pytest.raises(OipError, match="0 bytes, but 1 bytes follow"):
        parse_request(b"m", b"", text + b"x", len(text))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\1\0\0",
        b"\1\0\0\0",
        struct.pack("<I", 0xFFFFFFFF) + b"a",
        struct.pack("<I", 1) + b"a",
        struct.pack("<I", 0) * 3,
        struct.pack("<I", 1) + b"ab" + struct.pack("<I", 0),
    ],
)
def test_bytes_framing_is_checked(raw: bytes) -> None:
    with pytest.raises(OipError, match="2 elements of length and bytes"):
        parse_request(b"m", b"", *encode([Tensor("x", "BYTES", (2,), raw, [])], {0}))


@pytest.mark.parametrize("datatype", DATATYPES)
def test_any_bits_pass_in_binary_form(datatype: str) -> None:
    size = 2 if datatype == "BF16" else 0 if datatype == "BYTES" else NUMPY[datatype].itemsize
    raw = struct.pack("<I", 3) + b"\xff\0\xfe" if datatype == "BYTES" else b"\xff" * size
    request = parse_request(b"m", b"", *encode([Tensor("x", datatype, (1,), raw, [])], {0}))
    assert list(ModelInferRequest.FromString(request.message()).raw_input_contents) == [raw]


def test_large_json_requests() -> None:
    values = np.random.default_rng(1).standard_normal(50000).astype("<f4")
    tensor = tensor_of("x", "FP32", (500, 100), [float(v) for v in values])
    flat = parse_request(b"m", b"", *encode([tensor], set(), extra={"id": "big"}))
    deep = parse_request(b"m", b"", *encode([tensor], set(), nest=True, extra={"id": "big"}))
    binary = parse_request(b"m", b"", *encode([tensor], {0}, extra={"id": "big"}))
    assert flat.message() == deep.message() == binary.message()
    assert flat.part_sizes()[1] == 200000
