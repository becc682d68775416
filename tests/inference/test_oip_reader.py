"""Requests of any size are read in steps, whatever they say."""

from __future__ import annotations

import json
import math
import random
import struct
from typing import Any

import numpy as np
import pytest
from compiled.inference import decimal, digest_hex, parse_in_steps, parse_request
from hypothesis import given
from hypothesis import strategies as st
from oip_requests import one

from lb.inference.errors import OipError
from lb.wire.grpc_service_pb2 import ModelInferRequest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)
NUMBERS = [
    "0", "-0", "0.0", "1e0", "1E+5", "-1.5e-7", "9007199254740993", "1.7976931348623157e308", "1.7976931348623159e308",
    "4.9e-324", "2.4703282292062327e-324", "2.4703282292062328e-324", "2.2250738585072011e-308", "1e-400", "-1e-400",
    "0.1", "0.30000000000000004", "1e23", "8.533e+68", "179769313486231580793e289", "123456789012345678901234567890",
    "0." + "0" * 400 + "1", "1" + "0" * 300, "6.631236846766476e-316", "3.237883913302901e-319", "9" * 1000,
    "1e22",
]  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_the_nearest_doubles(text: str) -> None:
    assert struct.pack("d", decimal(text.encode() + b",")) == struct.pack("d", float(text))


def test_random_numbers_are_the_nearest_doubles() -> None:
    made = random.Random(38)
    for _ in range(20_000):
        bits = made.getrandbits(64)
        (value,) = struct.unpack("d", struct.pack("Q", bits))
        if math.isfinite(value):
            assert decimal(repr(value).encode() + b"]") == value
        text = f"{made.randrange(10**18)}.{made.randrange(10**9)}e{made.randrange(-340, 300)}"
        assert decimal(text.encode() + b",") == float(text)


def read(body: bytes) -> ModelInferRequest | str:
    """The message; or why there is none."""
    try:
        return ModelInferRequest.FromString(parse_request(b"m", b"", body).message())
    except OipError as error:
        return str(error)


@given(st.dictionaries(st.text(), VALUES, max_size=6), st.booleans(), st.sampled_from([None, 1]))
def test_what_the_protocol_does_not_know_is_passed_over(extra: dict[str, Any], ascii: bool, indent: int | None) -> None:
    for name in ("id", "inputs", "outputs", "parameters"):
        extra.pop(name, None)
    tensor = {"name": "x", "shape": [2], "datatype": "INT8", "data": [1, -2]}
    plain = read(json.dumps({"inputs": [tensor], "outputs": [{"name": "y"}]}).encode())
    inner = {f"~{name}": value for name, value in extra.items()}
    document = extra | {"inputs": [inner | tensor | {"~": extra}], "outputs": [{"name": "y"} | inner]} | inner
    assert read(json.dumps(document, ensure_ascii=ascii, indent=indent).encode()) == plain


@given(VALUES, st.data())
def test_what_is_no_json_is_refused_wherever_it_is(value: Any, data: st.DataObject) -> None:
    """Any change of a text that Python's parser refuses is refused, in what is passed over and in what is kept."""
    text = json.dumps({"x": value, "inputs": [], "parameters": {"p": "é\n"}})
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from([*'"\\{}[],:1-.n', "\0", ""])) + text[at + 1 :]
    try:
        json.loads(changed)
    except ValueError:
        found = read(changed.encode())
        assert isinstance(found, str)
        assert "not valid JSON" in found


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":01,"inputs":[]}',
        b'{"x":1.,"inputs":[]}',
        b'{"x":.5,"inputs":[]}',
        b'{"x":+1,"inputs":[]}',
        b'{"x":1e,"inputs":[]}',
        b'{"x":-,"inputs":[]}',
        b'{"x":tru,"inputs":[]}',
        b'{"x":Nan,"inputs":[]}',
        b'{"x":-NaN,"inputs":[]}',
        b'{"x":Infinit,"inputs":[]}',
        b'{"x":"\\x41","inputs":[]}',
        b'{"x":"\\u00g0","inputs":[]}',
        b'{"x":"\\ud83d","inputs":[]}',
        b'{"x":"\\ud83d\\u0041","inputs":[]}',
        b'{"x":"\\ude00","inputs":[]}',
        b'{"x":"\x01","inputs":[]}',
        b'{"x":"\xed\xa0\x80","inputs":[]}',
        b'{"x":"\xc0\xaf","inputs":[]}',
        b'{"x":"\xf4\x90\x80\x80","inputs":[]}',
        b'{"\xff":1,"inputs":[]}',
        b'{"x":[1 2],"inputs":[]}',
        b'{"x":[1,],"inputs":[]}',
        b'{"x":[,1],"inputs":[]}',
        b'{"x":[1},"inputs":[]}',
        b'{"x":{"a"},"inputs":[]}',
        b'{"x":{"a":},"inputs":[]}',
        b'{"x":{"a":1,},"inputs":[]}',
        b'{"x":{1:1},"inputs":[]}',
        b'{"x" 1,"inputs":[]}',
        b'{"inputs":[]}{}',
        b'{"inputs":[]}\0',
        b'\xef\xbb\xbf{"inputs":[]}',
        b'{"inputs":[],"x":"',
        b'{"inputs":[],"x":"\\',
        b'{"inputs":[],"x":"\\u12',
        b'{"inputs":[],"x":"\\ud83d\\ude',
        b'{"inputs":[],"x":' + b"[" * 1025 + b"]" * 1025 + b"}",
    ],
)
def test_what_the_grammar_refuses(body: bytes) -> None:
    found = read(body)
    assert isinstance(found, str)
    assert "not valid JSON" in found
    with pytest.raises(OipError, match="not valid JSON"):
        parse_in_steps(b"m", b"", body)


@pytest.mark.parametrize(
    "body",
    [
        b' \t\r\n{ "inputs" : [ ] } \n',
        b'{"inputs":[],"x":' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"x":{"inputs":[1],"id":5},"inputs":[]}',
        b'{"x":[NaN,Infinity,-Infinity,"\\ud83d\\ude00\\u0000"],"inputs":[]}',
        b'{"\\u0069nputs":[]}',
        b'{"inputs":[{"name":"z"}],"inputs":[]}',
        b'{"inputs":[],"outputs":null}',
        b'{"inputs":[],"parameters":null}',
        b'{"inputs":[],"\\u00f9nputs":[1]}',
    ],
)
def test_what_it_takes(body: bytes) -> None:
    assert read(body) == ModelInferRequest(model_name="m")


@pytest.mark.parametrize("key", ["data", "\\u0064ata", "dat\\u0061"])
def test_keys_with_escapes_are_the_same_keys(key: str) -> None:
    body = f'{{"inputs":[{{"n\\u0061me":"x","shape":[1],"datatype":"INT8","{key}":[7]}}]}}'
    found = read(body.encode())
    assert isinstance(found, ModelInferRequest)
    assert list(found.raw_input_contents) == [b"\7"]


def test_of_a_member_that_occurs_twice_the_last_counts() -> None:
    body = b'{"inputs":[{"name":"x","shape":[2],"data":[[[9]]],"datatype":"INT8","data":[1,2],"shape":[1,2]}]}'
    found = read(body)
    assert isinstance(found, ModelInferRequest)
    assert list(found.raw_input_contents) == [b"\1\2"]
    assert list(found.inputs[0].shape) == [1, 2]


LARGE = 1 << 18
TEXT = "".join(chr(made) for made in (0x41, 0xE9, 0x20AC, 0x1F600, 0x22, 0x5C, 0x0A))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "raw"),
    [
        ("FP32", [2, LARGE // 2], np.linspace(-1, 1, LARGE, dtype="<f4").reshape(2, -1), None),
        ("FP64", [LARGE], np.geomspace(1e-300, 1e300, LARGE), None),
        ("INT64", [LARGE, 1], np.arange(-LARGE // 2, LARGE // 2).reshape(-1, 1), None),
        ("UINT8", [64, 64, 64], (np.arange(LARGE) % 256).astype("u1").reshape(64, 64, 64), None),
        ("BOOL", [LARGE], np.arange(LARGE) % 3 == 0, None),
        ("BYTES", [LARGE // 8], [TEXT[: i % 8] for i in range(LARGE // 8)], None),
        ("BYTES", [1], [TEXT * (LARGE // 4)], None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ascii", [False, True])
def test_steps_give_what_one_reading_gives(datatype: str, shape: list[int], data: Any, raw: Any, ascii: bool) -> None:
    if isinstance(data, np.ndarray):
        raw = data.tobytes()
        data = data.tolist()
    else:
        raw = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in data)
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data}
    small = {"name": "y", "shape": [1], "datatype": "INT8", "data": [5]}
    body = json.dumps({"inputs": [small, tensor, small | {"name": "z"}]}, ensure_ascii=ascii).encode()
    whole = parse_request(b"m", b"", body)
    parts, steps = parse_in_steps(b"m", b"", body)
    assert steps >= len(body) >> 14
    assert parts.message() == whole.message()
    assert digest_hex(parts, bytes(32)) == digest_hex(whole, bytes(32))
    found = ModelInferRequest.FromString(whole.message()).raw_input_contents
    assert [bytes(one) for one in found] == [b"\5", raw, b"\5"]


def test_binary_tensors_are_looked_at_in_steps() -> None:
    count = 1 << 20
    head = {"name": "x", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": 4 * count}}
    text = json.dumps({"inputs": [head, head | {"name": "y"}]}).encode()
    request, steps = parse_in_steps(b"m", b"", text + bytes(8 * count), len(text))
    assert steps >= 2 * count >> 14
    assert request.message() == parse_request(b"m", b"", text + bytes(8 * count), len(text)).message()
    with pytest.raises(OipError, match=f"input 1 is not {count} elements"):
        parse_in_steps(b"m", b"", text + bytes(8 * count - 1) + b"\1", len(text))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (one(parameters={f"k{i}": i for i in range(9000)}), "more than 8192 values beside"),
        (json.dumps({"inputs": [], "parameters": {"k": "x" * (1 << 20)}}).encode(), "more than 1048576 bytes beside"),
        (one(shape=[0] * 9000), "more than 8192 values beside"),
        (one(name="x" * (1 << 20)), "more than 1048576 bytes beside"),
        (json.dumps({"inputs": [{}] * 2_000_000}).encode(), "more than 500 inputs"),
        (json.dumps({"inputs": [[]] * 2_000_000}).encode(), "more than 500 inputs"),
        (json.dumps({"inputs": [], "outputs": [{}] * 2_000_000}).encode(), "more than 500 outputs"),
        (b'{"inputs":[]' + b',"inputs":[]' * 9000 + b"}", "more than 8192 values beside"),
        (one(datatype="INT8", data=[[0]] * 1_000_000), "more elements in data than the shape has"),
    ],
)
def test_what_is_kept_is_bounded(body: bytes, reason: str) -> None:
    with pytest.raises(OipError, match=reason):
        parse_request(b"m", b"", body)


def test_much_that_is_passed_over() -> None:
    for inner in (b"[[[[[[]]]]]]", b"{}", b"[]", b'{"a":[{}]}', b"1e-5", b'"\\u0041"', b"null"):
        body = b'{"x":[' + b",".join([inner] * 200_000) + b'],"inputs":[]}'
        assert read(body) == ModelInferRequest(model_name="m")
