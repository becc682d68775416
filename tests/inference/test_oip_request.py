"""Requests: every encoding of the same tensors is one message and one digest."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from compiled.inference import digest_hex, memo_stats, parse_request
from hypothesis import given
from hypothesis import strategies as st
from oip_requests import BASE, FP32
from oip_tools import SECRET, Tensor, encode, parameter_maps, tensor_lists, tensor_of
from property import examples

from lb.inference.errors import OipError
from lb.wire.grpc_service_pb2 import ModelInferRequest


def digest(body: bytes, json_length: int = -1, model: bytes = b"m", version: bytes = b"") -> str:
    return digest_hex(parse_request(model, version, body, json_length), SECRET)


@pytest.mark.slow
@examples(300)
@given(tensor_lists, st.data())
def test_encodings_are_equal(inputs: list[Tensor], data: st.DataObject) -> None:
    extra = {"id": "7", "parameters": data.draw(parameter_maps)}
    own = data.draw(parameter_maps)
    binary = set(data.draw(st.sets(st.integers(0, len(inputs) - 1))))
    bodies = [
        encode(inputs, set(), extra=extra, input_parameters=own),
        encode(inputs, set(), nest=True, extra=extra, input_parameters=own),
        encode(inputs, set(range(len(inputs))), extra=extra, input_parameters=own),
        encode(inputs, binary, extra=extra, input_parameters=own),
    ]
    requests = [parse_request(b"m", b"3", body, length) for body, length in bodies]
    messages = {r.message() for r in requests}
    assert len(messages) == 1
    assert len({digest_hex(r, SECRET) for r in requests}) == 1
    for request in requests:
        assert sum(request.part_sizes()) == len(request.message())

    (message,) = messages
    parsed = ModelInferRequest.FromString(message)
    assert parsed.ByteSize() == len(message)  # nothing unknown, nothing twice, nothing that is a default
    assert (parsed.model_name, parsed.model_version, parsed.id) == ("m", "3", "7")
    assert list(parsed.raw_input_contents) == [t.raw for t in inputs]
    for tensor, item in zip(inputs, parsed.inputs, strict=True):
        assert (item.name, item.datatype, tuple(item.shape)) == (tensor.name, tensor.datatype, tensor.shape)
        assert not item.HasField("contents")
        assert {k: value_of(v) for k, v in item.parameters.items()} == own
    assert {k: value_of(v) for k, v in parsed.parameters.items()} == extra["parameters"]


def value_of(parameter: Any) -> Any:
    return getattr(parameter, parameter.WhichOneof("parameter_choice"))


@examples(100)
@given(st.permutations(range(3)))
def test_digest_knows_no_order_of_inputs(order: list[int]) -> None:
    inputs = [tensor_of(n, "INT8", (2,), [i, i]) for i, n in enumerate(("b", "a", "é"))]
    expected = digest(*encode(inputs, {0, 1, 2}))
    assert digest(*encode([inputs[i] for i in order], {0})) == expected


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(BASE)
    target: Any = document
    for step in path[:-1]:
        target = target.setdefault(step, {}) if isinstance(target, dict) else target[step]
    target[path[-1]] = value
    return document


@pytest.mark.parametrize(
    "document",
    [
        changed(["inputs", 0, "name"], "z"),
        changed(["inputs", 0, "shape"], [4]),
        changed(["inputs", 0, "shape"], [1, 2, 2]),
        changed(["inputs", 0, "datatype"], "UINT32"),
        changed(["inputs", 0, "data"], [1, 2, 3, 5]),
        changed(["inputs", 0, "parameters"], {"content_type": "np"}),
        changed(["outputs"], []),
        changed(["outputs"], [{"name": "z"}]),
        changed(["outputs"], [{"name": "y"}, {"name": "z"}]),
        changed(["outputs", 0, "parameters"], {"classification": 3}),
        changed(["parameters"], {"temperature": 1}),
        changed(["parameters"], {"temperature": 1.0}),
        changed(["parameters"], {"temperature": "1"}),
        changed(["parameters"], {"temperature": True}),
    ],
)
def test_digest_differs(document: dict[str, Any]) -> None:
    assert digest(json.dumps(document).encode()) != digest(json.dumps(BASE).encode())


@pytest.mark.parametrize(
    "document",
    [
        changed(["id"], "any"),
        changed(["parameters"], {}),
        changed(["parameters"], {"timeout": 5, "priority": 1}),
        changed(["parameters"], {"binary_data_output": True}),
        changed(["outputs", 0, "parameters"], {"binary_data": True}),
        changed(["unknown"], 1),
    ],
)
def test_digest_is_the_same(document: dict[str, Any]) -> None:
    assert digest(json.dumps(document).encode()) == digest(json.dumps(BASE).encode())


def test_digest_depends_on_model_version_and_secret() -> None:
    body = json.dumps(BASE).encode()
    seen = {digest(body), digest(body, version=b"1"), digest(body, version=b"2"), digest(body, model=b"n")}
    seen |= {
        digest(body, model=b"m1"),
        digest(body, model=b"m", version=b"11"),
        digest(body, model=b"m1", version=b"1"),
    }
    seen.add(digest_hex(parse_request(b"m", b"", body), b"\0" * 32))
    assert len(seen) == 8


def test_digest_is_keyed_blake2b_of_the_canonical_form() -> None:
    # Workers share entries: the form may only change together with its label.
    def frame(data: bytes) -> bytes:
        return struct.pack("<Q", len(data)) + data

    described = ModelInferRequest.InferInputTensor(name="x", datatype="INT32", shape=[2, 2]).SerializeToString()
    requested = ModelInferRequest.InferRequestedOutputTensor(name="y").SerializeToString()
    form = frame(b"tidegate oip request 2") + frame(b"m") + frame(b"5")
    form += struct.pack("<Q", 0)
    form += struct.pack("<Q", 1) + frame(described)
    form += struct.pack("<Q", 1) + frame(requested)
    form += frame(np.array([1, 2, 3, 4], "<i4").tobytes())
    expected = hashlib.blake2b(form, key=SECRET, digest_size=32).hexdigest()
    assert digest(json.dumps(BASE).encode(), version=b"5") == expected


def test_binary_tensors_stay_in_the_body() -> None:
    big = tensor_of("big", "UINT8", (4096,), [7] * 4096)
    small = tensor_of("small", "UINT8", (16,), [1] * 16)
    body, length = encode([small, big, small_named("last")], {0, 1, 2})
    request = parse_request(b"m", b"", body, length)
    head, slice_, tail = request.part_sizes()
    assert slice_ == 4096
    assert tail == 2 + 16
    assert head + slice_ + tail == len(request.message())


def small_named(name: str) -> Tensor:
    return tensor_of(name, "UINT8", (16,), [2] * 16)


# --- the memo -------------------------------------------------------------------------------------------------------


def test_other_ids_use_the_same_template() -> None:
    tensor = tensor_of("memo-ids", "FP32", (1,), [1.0])
    before = memo_stats()["headers"]
    ids = ["a", "b", "", "a b c", 'quote"', "back\\slash", "ünï", "tab\t", "x" * 300]
    for id_ in ids:
        body, length = encode([tensor], {0}, extra={"id": id_})
        request = parse_request(b"m", b"", body, length)
        assert request.id == id_.encode()
        assert ModelInferRequest.FromString(request.message()).id == id_
    body, length = encode([tensor], {0})
    assert parse_request(b"m", b"", body, length).id == b""
    after = memo_stats()["headers"]
    # The plain ids and the request without one are one template.
    assert after["misses"] - before["misses"] <= 6
    assert after["hits"] - before["hits"] >= 4


def test_memo_tells_models_and_versions_apart() -> None:
    body, length = encode([FP32], {0})
    for model, version in ((b"ab", b"1"), (b"a", b"b1"), (b"ab1", b""), (b"ab", b"11")):
        parsed = ModelInferRequest.FromString(parse_request(model, version, body, length).message())
        assert (parsed.model_name.encode(), parsed.model_version.encode()) == (model, version)


def test_memo_is_bounded() -> None:
    for i in range(3000):
        body, length = encode([tensor_of(f"n{i}", "FP32", (1,), [1.0])], {0})
        parse_request(b"m", b"", body, length)
        parse_request(b"m", b"", *encode([tensor_of(f"n{i}", "FP32", (1,), [1.0])], set()))
    assert memo_stats()["headers"]["size"] <= 1024
    assert memo_stats()["bodies"]["size"] <= 512


def test_a_template_in_use_outlives_thousands_of_others() -> None:
    hot, _ = encode([tensor_of("hot", "INT8", (1,), [1])], set())
    parse_request(b"m", b"", hot)
    before = memo_stats()["bodies"]["hits"]
    for i in range(10_000):
        parse_request(b"m", b"", encode([tensor_of(f"cold{i}", "INT8", (1,), [1])], set())[0])
        if i % 50 == 0:
            parse_request(b"m", b"", hot)
    assert memo_stats()["bodies"]["hits"] - before > 190  # now and then its four slots are asked for more often


def test_a_remembered_digest_is_that_of_its_secret() -> None:
    body, _ = encode([tensor_of("digests", "FP32", (3,), [1.0, 2.0, 3.0])], set())
    first, second = (
        [digest_hex(parse_request(b"m", b"", body), secret) for secret in (SECRET, bytes(32), SECRET, bytes(32))]
        for _ in range(2)
    )
    assert first == second
    assert len({*first}) == 2
    assert first[0] == digest(*encode([tensor_of("digests", "FP32", (3,), [1.0, 2.0, 3.0])], {0}))


def test_a_hit_checks_the_tensors_again() -> None:
    tensor = tensor_of("s", "BYTES", (2,), ["ab", "c"])
    body, length = encode([tensor], {0})
    parse_request(b"m", b"", body, length)
    broken = body[:length] + struct.pack("<I", 99) + body[length + 4 :]
    with pytest.raises(OipError, match="elements of length and bytes"):
        parse_request(b"m", b"", broken, length)
    with pytest.raises(OipError, match="bytes follow the JSON part"):
        parse_request(b"m", b"", body + b"\0", length)


def test_json_bodies_are_remembered_with_their_data() -> None:
    one, _ = encode([tensor_of("j", "INT8", (1,), [1])], set())
    two, _ = encode([tensor_of("j", "INT8", (1,), [2])], set())
    for body, value in ((one, b"\1"), (two, b"\2"), (one, b"\1")):
        assert list(ModelInferRequest.FromString(parse_request(b"m", b"", body).message()).raw_input_contents) == [
            value
        ]


# --- parameters -----------------------------------------------------------------------------------------------------


def with_parameters(**parameters: Any) -> Any:
    return parse_request(b"m", b"", *encode([FP32], {0}, extra={"parameters": parameters}))


@pytest.mark.parametrize(
    ("parameters", "sequence", "cacheable"),
    [
        ({}, b"", True),
        ({"sequence_id": 0}, b"", True),
        ({"sequence_id": ""}, b"", True),
        ({"sequence_id": 2**64 - 1}, b"18446744073709551615", False),
        ({"sequence_id": "é"}, '"é'.encode(), False),
        ({"sequence_id": "7"}, b'"7', False),
        ({"sequence_id": 1, "sequence_start": True, "sequence_end": False}, b"1", False),
        ({"sequence_start": True}, b"", False),
        ({"sequence_end": True}, b"", False),
        ({"triton_enable_empty_final_response": True}, b"", False),
        ({"timeout": 1000, "priority": 2}, b"", True),
        ({"priority": 2**64 - 1}, b"", True),
    ],
)
def test_reserved_parameters(parameters: dict[str, Any], sequence: bytes, cacheable: bool) -> None:
    request = with_parameters(**parameters)
    assert request.sequence == sequence
    assert request.cacheable is cacheable
    assert request.timeout_us == parameters.get("timeout", 0)
    sent = ModelInferRequest.FromString(request.message()).parameters
    assert {k: value_of(v) for k, v in sent.items()} == parameters


def test_binary_parameters_are_not_sent() -> None:
    extra = {
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
    }
    sent = ModelInferRequest.FromString(parse_request(b"m", b"", *encode([FP32], {0}, extra=extra)).message())
    assert not sent.parameters
    assert not sent.outputs[0].parameters
    assert not sent.inputs[0].parameters


def test_output_parameters_are_sent() -> None:
    extra = {"outputs": [{"name": "y", "parameters": {"classification": 3, "binary_data": True}}]}
    sent = ModelInferRequest.FromString(parse_request(b"m", b"", *encode([FP32], {0}, extra=extra)).message())
    assert {k: value_of(v) for k, v in sent.outputs[0].parameters.items()} == {"classification": 3}


def test_a_tensor_in_shared_memory_has_no_data() -> None:
    where = {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 4}
    shared = {"name": "b", "shape": [2], "datatype": "FP32", "parameters": where}
    others = [{"name": name, "shape": [1], "datatype": "INT8", "data": [value]} for name, value in (("a", 1), ("c", 2))]
    document = {"inputs": [others[0], shared, others[1]]}
    request = parse_request(b"m", b"", json.dumps(document).encode(), -1)
    parsed = ModelInferRequest.FromString(request.message())
    assert [item.name for item in parsed.inputs] == ["a", "b", "c"]
    assert list(parsed.raw_input_contents) == [b"\1", b"\2"]  # which skip it
    assert {key: value_of(value) for key, value in parsed.inputs[1].parameters.items()} == where
    assert not request.cacheable
    asked = {"inputs": others, "outputs": [{"name": "y", "parameters": where}]}
    request = parse_request(b"m", b"", json.dumps(asked).encode(), -1)
    parsed = ModelInferRequest.FromString(request.message())
    assert {key: value_of(value) for key, value in parsed.outputs[0].parameters.items()} == where
    assert not request.cacheable
