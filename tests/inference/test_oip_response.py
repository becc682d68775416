"""Answers: from messages that google's protobuf wrote to what clients read."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np
import pytest
from compiled.inference import parse_request, render_again_bytes, render_bytes, store_form_bytes
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from oip_tools import NUMPY, Tensor, parameter_maps, tensor_lists, tensor_of
from property import examples

from lb.errors import TidegateError, UpstreamError
from lb.inference.errors import OipError
from lb.inference.response import part_sizes
from lb.wire.grpc_service_pb2 import ModelInferResponse

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def asking(**document: Any) -> Any:
    return parse_request(b"asked", b"", json.dumps({"inputs": []} | document).encode())


SHARED = {"name": "c", "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}}
JSON = asking()
BINARY = asking(parameters={"binary_data_output": True})


def answer(outputs: list[Tensor], *, typed: bool = False, **fields: Any) -> ModelInferResponse:
    message = ModelInferResponse(model_name="m", model_version="1", **fields)
    for tensor in outputs:
        item = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if typed:
            elements = [e.encode() if isinstance(e, str) and tensor.datatype == "BYTES" else e for e in tensor.flat]
            if tensor.datatype in ("FP32", "FP64"):
                elements = [float(e) for e in elements]
            getattr(item.contents, CONTENTS[tensor.datatype]).extend(elements)
        else:
            message.raw_output_contents.append(tensor.raw)
    return message


def set_parameters(target: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        kind = {bool: "bool_param", str: "string_param", float: "double_param"}.get(type(value))
        if kind is None:
            kind = "int64_param" if value < 2**63 else "uint64_param"
        setattr(target[key], kind, value)


def read_binary(body: bytes, json_length: int) -> tuple[dict[str, Any], list[bytes]]:
    """The JSON part, and the data of the outputs that have some behind it."""
    document = json.loads(body[:json_length])
    tail = body[json_length:]
    data = []
    for output in document["outputs"]:
        size = output["parameters"]["binary_data_size"]
        data.append(tail[:size])
        tail = tail[size:]
    assert not tail
    return document, data


def to_raw(output: dict[str, Any]) -> bytes:
    """Packs JSON data as a client would."""
    data, datatype = output["data"], output["datatype"]
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in data)
    if datatype == "BF16":
        return (np.array(data, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.array(data, NUMPY[datatype]).tobytes()


def canonical(tensor: Tensor) -> bytes:
    """Raw data with one kind of NaN, for comparisons across text."""
    if tensor.datatype in ("FP16", "FP32", "FP64"):
        return np.array([float(v) for v in tensor.flat], NUMPY[tensor.datatype]).tobytes()
    return tensor.raw


@pytest.mark.slow
@examples(300)
@given(tensor_lists, parameter_maps, parameter_maps)
def test_json_round_trip(outputs: list[Tensor], top: dict[str, Any], own: dict[str, Any]) -> None:
    message = answer(outputs, id="other")
    set_parameters(message.parameters, top)
    for item in message.outputs:
        set_parameters(item.parameters, own)
    body, length = render_bytes(JSON, message.SerializeToString())
    assert length == -1
    document = json.loads(body)
    assert document["model_name"] == "m"
    assert document["model_version"] == "1"
    assert "id" not in document
    assert document.get("parameters", {}) == top
    for tensor, output in zip(outputs, document["outputs"], strict=True):
        assert (output["name"], output["datatype"], tuple(output["shape"])) == (
            tensor.name,
            tensor.datatype,
            tensor.shape,
        )
        assert output.get("parameters", {}) == own
        assert to_raw(output) == canonical(tensor)


@pytest.mark.slow
@examples(200)
@given(tensor_lists, parameter_maps)
def test_binary_round_trip(outputs: list[Tensor], own: dict[str, Any]) -> None:
    message = answer(outputs)
    for item in message.outputs:
        set_parameters(item.parameters, own)
    document, data = read_binary(*render_bytes(BINARY, message.SerializeToString()))
    assert data == [t.raw for t in outputs]
    for output in document["outputs"]:
        del output["parameters"]["binary_data_size"]
        assert output["parameters"] == own
        assert "data" not in output


@pytest.mark.slow
@examples(200)
@given(tensor_lists.map(lambda ts: [t for t in ts if t.datatype in CONTENTS]))
def test_typed_contents_are_the_same_answer(outputs: list[Tensor]) -> None:
    typed = answer(outputs, typed=True).SerializeToString()
    raw = answer(outputs).SerializeToString()
    assert render_bytes(JSON, typed) == render_bytes(JSON, raw)
    if all(t.raw == canonical(t) for t in outputs):
        assert render_bytes(BINARY, typed) == render_bytes(BINARY, raw)


def test_contents_may_be_unpacked_and_in_pieces() -> None:
    contents = bytes([0x18, 1, 0x18, 2]) + bytes([0x1A, 2, 3, 4]) + bytes([0x1A, 0]) + bytes([0x18, 5])
    output = ModelInferResponse.InferOutputTensor(name="y", datatype="INT64", shape=[5]).SerializeToString()
    output += bytes([0x2A, len(contents)]) + contents
    body, _ = render_bytes(JSON, bytes([0x2A, len(output)]) + output)
    assert json.loads(body)["outputs"][0]["data"] == [1, 2, 3, 4, 5]


def test_large_tensors_are_parts_of_their_own() -> None:
    sizes = [4096, 16, 600, 512]
    outputs = [tensor_of(f"o{n}", "UINT8", (n,), [1] * n) for n in sizes]
    message = answer(outputs).SerializeToString()
    body, length = render_bytes(BINARY, message)
    assert part_sizes(BINARY, message) == [length, 4096, 16, 600, 512]
    assert len(body) == length + sum(sizes)
    assert part_sizes(JSON, message) == [len(render_bytes(JSON, message)[0])]


def test_id_is_the_requests() -> None:
    message = answer([], id="of another").SerializeToString()
    for id_ in ("mine", 'with "quotes"', "é\n"):
        assert json.loads(render_bytes(asking(id=id_), message)[0])["id"] == id_


def test_model_name_defaults_to_the_requests() -> None:
    assert json.loads(render_bytes(JSON, b"")[0]) == {"model_name": "asked", "outputs": []}


@pytest.mark.parametrize(
    ("default", "own", "binary"),
    [
        (None, None, False),
        (True, None, True),
        (False, None, False),
        (True, False, False),
        (False, True, True),
        (None, True, True),
    ],
)
def test_output_encoding(default: bool | None, own: bool | None, binary: bool) -> None:
    document: dict[str, Any] = {"outputs": [{"name": "other"}, {"name": "y"}]}
    if default is not None:
        document["parameters"] = {"binary_data_output": default}
    if own is not None:
        document["outputs"][1]["parameters"] = {"binary_data": own}
    message = answer([tensor_of("y", "INT8", (1,), [1])]).SerializeToString()
    assert (render_bytes(asking(**document), message)[1] >= 0) is binary


def test_encodings_mix() -> None:
    request = asking(outputs=[{"name": "b", "parameters": {"binary_data": True}}])
    outputs = [
        tensor_of("a", "INT8", (1,), [1]),
        tensor_of("b", "INT8", (2,), [2, 3]),
        tensor_of("c", "INT8", (1,), [4]),
    ]
    body, length = render_bytes(request, answer(outputs).SerializeToString())
    document = json.loads(body[:length])
    assert [o.get("data") for o in document["outputs"]] == [[1], None, [4]]
    assert document["outputs"][1]["parameters"] == {"binary_data_size": 2}
    assert body[length:] == b"\2\3"


def test_numbers_in_json() -> None:
    outputs = [
        tensor_of("f", "FP32", (4,), [0.1, -0.0, 1e-45, 3.4028235e38]),
        tensor_of("d", "FP64", (3,), [0.1, float("nan"), float("-inf")]),
        tensor_of("h", "FP16", (2,), [0.5, float("inf")]),
        tensor_of("i", "INT64", (2,), [-(2**63), 2**63 - 1]),
        tensor_of("u", "UINT64", (1,), [2**64 - 1]),
        tensor_of("t", "BOOL", (2,), [True, False]),
        tensor_of("s", "BYTES", (2,), ['a"\\\x00\x1f\x7f/', "é€😀"]),
    ]
    text = render_bytes(JSON, answer(outputs).SerializeToString())[0].decode()
    assert '"data":[0.1,-0.0,1e-45,3.4028235e38]' in text
    assert '"data":[0.1,"NaN","-Infinity"]' in text
    assert '"data":[0.5,"Infinity"]' in text
    assert '"data":[-9223372036854775808,9223372036854775807]' in text
    assert '"data":[18446744073709551615]' in text
    assert '"data":[true,false]' in text
    assert json.loads(text)["outputs"][-1]["data"] == outputs[-1].flat


@pytest.mark.parametrize(
    "raw", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xf8\x88\x80\x80\x80"]
)
def test_bytes_that_are_not_text(raw: bytes) -> None:
    tensor = Tensor("y", "BYTES", (1,), struct.pack("<I", len(raw)) + raw, [])
    message = answer([tensor]).SerializeToString()
    with pytest.raises(
        OipError, match="output 'y' holds bytes that are not UTF-8 text: ask for it as binary"
    ) as caught:
        render_bytes(JSON, message)
    assert caught.value.status == 400
    assert read_binary(*render_bytes(BINARY, message))[1] == [tensor.raw]


@examples(300)
@given(st.binary(max_size=12))
def test_text_is_checked_as_python_checks_it(raw: bytes) -> None:
    message = answer([Tensor("y", "BYTES", (1,), struct.pack("<I", len(raw)) + raw, [])]).SerializeToString()
    try:
        expected = raw.decode()
    except UnicodeDecodeError:
        with pytest.raises(OipError):
            render_bytes(JSON, message)
    else:
        assert json.loads(render_bytes(JSON, message)[0])["outputs"][0]["data"] == [expected]


def test_last_parameter_of_a_key_counts() -> None:
    def entry(value: int) -> bytes:
        return bytes([0x22, 7, 0x0A, 1, ord("k"), 0x12, 2, 0x10, value])

    document = json.loads(render_bytes(JSON, entry(1) + entry(2))[0])
    assert document["parameters"] == {"k": 2}


# --- what endpoints may get wrong -----------------------------------------------------------------------------------


def output(**fields: Any) -> bytes:
    raw = fields.pop("raw", b"\1\0\0\0")
    message = ModelInferResponse()
    message.outputs.add(**({"name": "y", "datatype": "INT32", "shape": [1]} | fields))
    if raw is not None:
        message.raw_output_contents.append(raw)
    return message.SerializeToString()


BAD = [
    (b"\x00", "not a ModelInferResponse"),
    (b"\xff" * 11, "not a ModelInferResponse"),
    (b"\x0a", "not a ModelInferResponse"),
    (b"\x0a\x05abc", "not a ModelInferResponse"),
    (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "not a ModelInferResponse"),
    (b"\x0b\x0c", "not a ModelInferResponse"),
    (b"\x08\x01", "a field of another type"),
    (b"\x0a\x01\xff", "not UTF-8"),
    (b"\x22\x02\x08\x01", "a parameter of another type"),
    (b"\x22\x01\x0a", "a malformed parameter"),
    (b"\x2a\x01\x0a", "a malformed output"),
    (output(datatype="FP8"), "unknown datatype"),
    (output(datatype=""), "unknown datatype"),
    (output(shape=[-1]), "impossible shape"),
    (output(shape=[2**62, 2]), "impossible shape"),
    (output(shape=[1] * 65), "too many dimensions"),
    (output(shape=[2]), "does not have the size"),
    (output(raw=b"\1\0\0"), "does not have the size"),
    (output(raw=None), "an output without data"),
    (output(shape=[2**60], raw=b""), "does not have the size"),
    (output(datatype="BYTES"), "BYTES data"),
    (output(datatype="BYTES", raw=struct.pack("<I", 2**32 - 1)), "BYTES data"),
    (output(datatype="BYTES", shape=[2**40], raw=struct.pack("<I", 0)), "BYTES data"),
    (output() + bytes([0x32, 0]), "more raw_output_contents than outputs"),
    (output(contents={"int_contents": [1]}), "more raw_output_contents than outputs"),
    (output(contents={"int64_contents": [1]}, raw=None), "contents that do not fit"),
    (output(contents={"int_contents": [1, 2]}, raw=None), "does not have the size"),
    (output(datatype="INT8", contents={"int_contents": [128]}, raw=None), "contents that do not fit"),
    (output(datatype="UINT8", contents={"uint_contents": [256]}, raw=None), "contents that do not fit"),
    (output(datatype="FP16", contents={"fp32_contents": [1]}, raw=None), "contents that do not fit"),
    (b"\x2a\x00" * 501, "too many outputs"),
    (b"\x32\x00" * 501, "too many raw_output_contents"),
    (b"\x22\x00" * 129, "too many parameters"),
]


@pytest.mark.parametrize(("message", "why"), BAD, ids=range(len(BAD)))
def test_malformed_answers(message: bytes, why: str) -> None:
    for request in (JSON, BINARY):
        with pytest.raises(UpstreamError, match=why) as caught:
            render_bytes(request, message)
        assert caught.value.status == 502


def mutate(random_: random.Random, data: bytes) -> bytes:
    mutated = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        kind = random_.randrange(4)
        at = random_.randrange(len(mutated) + 1)
        if kind == 0 and at < len(mutated):
            mutated[at] = random_.randrange(256)
        elif kind == 1:
            del mutated[at : at + random_.randint(1, 8)]
        elif kind == 2:
            mutated[at:at] = random_.randbytes(random_.randint(1, 8))
        else:
            mutated[at:] = mutated[at:][: random_.randint(0, 40)]
    return bytes(mutated)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_answers_are_refused_or_read_as_protobuf_reads_them(seed: int) -> None:
    random_ = random.Random(seed)
    outputs = [
        tensor_of("f", "FP32", (2, 2), [0.1, 2.0, -3.0, 4e10]),
        tensor_of("s", "BYTES", (2,), ["ab", "é"]),
        tensor_of("i", "INT64", (3,), [1, -2, 3]),
    ]
    base = answer(outputs, typed=seed % 2 == 1, id="12")
    set_parameters(base.parameters, {"a": 1.5, "b": "c", "d": True, "e": -7})
    set_parameters(base.outputs[0].parameters, {"p": 2**64 - 1})
    data = base.SerializeToString()
    read = 0
    for _ in range(4000):
        # Exactly as long as its memory: whatever is read behind the end is somebody else's.
        mutated = mutate(random_, data)
        try:
            body, _length = render_bytes(JSON, mutated)
            render_bytes(BINARY, mutated)
        except TidegateError:
            continue
        document = json.loads(body)
        try:
            theirs = ModelInferResponse.FromString(mutated)
        except DecodeError:
            # Text that is not UTF-8 where nothing shows it: the id, or a field that a later one replaces.
            continue
        read += 1
        assert document["model_name"] == (theirs.model_name or "asked")
        assert document.get("model_version", "") == theirs.model_version
        assert [(o["name"], o["datatype"], o["shape"]) for o in document["outputs"]] == [
            (o.name, o.datatype, list(o.shape)) for o in theirs.outputs
        ]
        stored = store_form_bytes(mutated)
        assert stored is not None
        theirs.ClearField("id")
        assert ModelInferResponse.FromString(stored) == theirs
    assert read > 10


@examples(300)
@given(st.binary(max_size=60))
def test_noise_is_refused_or_read(noise: bytes) -> None:
    try:
        body, length = render_bytes(BINARY, noise)
    except TidegateError:
        return
    json.loads(body[:length] if length >= 0 else body)


# --- the cached form ------------------------------------------------------------------------------------------------


@examples(100)
@given(tensor_lists, st.text(max_size=5))
def test_store_form_is_the_message_without_its_id(outputs: list[Tensor], id_: str) -> None:
    stored = store_form_bytes(answer(outputs, id=id_).SerializeToString())
    assert stored == answer(outputs).SerializeToString()


@pytest.mark.parametrize("message", [b"\x0a\x05abc", b"\x1a\x01", b"\x00", b"\x0a\x01m\xff"])
def test_store_form_of_garbage(message: bytes) -> None:
    assert store_form_bytes(message) is None
    with pytest.raises(DecodeError):
        ModelInferResponse.FromString(message)


@pytest.mark.parametrize("entries", [True, False], ids=["an empty entry for each", "no entry"])
@pytest.mark.parametrize("said", [True, False], ids=["said", "not said"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_an_output_in_shared_memory_has_no_data(binary: bool, said: bool, entries: bool) -> None:
    request_ = asking(parameters={"binary_data_output": binary}, outputs=[SHARED])
    message = answer([tensor_of("a", "INT8", (1,), [1]), tensor_of("b", "FP32", (1,), [2.0])])
    where = message.outputs.add(name="c", datatype="FP32", shape=[2]).parameters
    if said:
        where["shared_memory_region"].string_param = "r"
        where["shared_memory_byte_size"].int64_param = 8
    if entries:
        message.raw_output_contents.append(b"")
    body, length = render_bytes(request_, message.SerializeToString())
    document = json.loads(body if length < 0 else body[:length])
    shared = document["outputs"][2]
    assert shared == {"name": "c", "datatype": "FP32", "shape": [2]}  # as from Triton
    if length < 0:
        assert [item["data"] for item in document["outputs"][:2]] == [[1], [2.0]]
    else:
        assert body[length:] == b"\1" + struct.pack("<f", 2.0)


def test_an_output_in_shared_memory_that_has_data_is_malformed() -> None:
    message = answer([tensor_of("c", "INT8", (1,), [1])])
    with pytest.raises(UpstreamError, match="in shared memory with data"):
        render_bytes(asking(outputs=[SHARED]), message.SerializeToString())


# --- answers that are given again -----------------------------------------------------------------------------------


def again(request: Any, message: ModelInferResponse) -> Any:
    """What is given, which is what `render` makes of it; the object, to see whether it was made anew."""
    serialized = message.SerializeToString()
    body, length, made = render_again_bytes(request, serialized)
    assert (body, length) == render_bytes(request, serialized)
    return made


def test_an_answer_is_rendered_once() -> None:
    one = answer([tensor_of("a", "FP32", (2,), [1.0, 2.5])])
    two = answer([tensor_of("a", "FP32", (2,), [1.0, 2.25])])
    first = again(asking(parameters={"n": 1}), one)
    assert again(asking(parameters={"n": 1}), one) is first
    assert again(asking(parameters={"n": 2}), one) is not first
    assert again(asking(parameters={"n": 1}), two) is not first
    assert again(asking(parameters={"n": 1}), one) is not first  # one of each request is kept


@pytest.mark.parametrize("which", ["with an id", "large", "not copied", "binary inputs"])
def test_what_is_rendered_each_time(which: str) -> None:
    message = answer([tensor_of("a", "INT32", (3000,), [7] * 3000) if which == "large"
                      else tensor_of("a", "FP32", (200,), [1.5] * 200)])  # fmt: skip
    document: dict[str, Any] = {"parameters": {"which": which, "binary_data_output": which == "not copied"}}
    if which == "with an id":
        document["id"] = "7"

    def request() -> Any:
        if which != "binary inputs":
            return asking(**document)
        item = {"name": "x", "datatype": "INT8", "shape": [1], "parameters": {"binary_data_size": 1}}
        text = json.dumps({"inputs": [item]} | document).encode()
        return parse_request(b"asked", b"", text + b"\1", len(text))

    assert again(request(), message) is not again(request(), message)


def test_ids_are_those_of_the_request() -> None:
    message = answer([tensor_of("a", "INT8", (1,), [3])])
    for id_ in ("", "1", "", "2"):
        request = asking(parameters={"ids": True}, **({"id": id_} if id_ else {}))
        assert json.loads(render_again_bytes(request, message.SerializeToString())[0]).get("id", "") == id_
