"""The stock HTTP client writes the requests and reads the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from compiled.inference import parse_request, render_bytes
from tritonclient.utils import np_to_triton_dtype

from lb.wire.grpc_service_pb2 import ModelInferRequest, ModelInferResponse

ARRAYS = {
    "flags": np.array([True, False]),
    "bytes": np.array([[b"ab", "é".encode()], [b"", b"c"]], dtype=object),
    "half": np.array([0.5, -2, np.inf, 6e-8], "f2"),
    "single": np.random.default_rng(3).standard_normal((3, 50)).astype("f4"),
    "special": np.array([[np.nan, np.inf], [-np.inf, 0.5]], "f4"),
    "double": np.array([[[1e300]]], "f8"),
    "small": np.array([-128, 127], "i1"),
    "large": np.array([2**64 - 1], "u8"),
    "none": np.zeros((0, 4), "i4"),
}


def request_body(binary: bool, **options: Any) -> tuple[bytes, int]:
    inputs = []
    for name, array in ARRAYS.items():
        if not binary and name in ("half",):
            continue  # the client does not write these as JSON
        item = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        item.set_data_from_numpy(array, binary_data=binary)
        inputs.append(item)
    body, length = triton.InferenceServerClient.generate_request_body(inputs, **options)
    return body, -1 if length is None else length


def raw(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype == object:
        return b"".join(len(e).to_bytes(4, "little") + e for e in array.reshape(-1))
    return array.tobytes()


def answer_of(message: bytes) -> bytes:
    """An endpoint that returns its inputs."""
    request = ModelInferRequest.FromString(message)
    answer = ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for item in request.inputs:
        answer.outputs.add(name=item.name, datatype=item.datatype, shape=item.shape)
    answer.raw_output_contents.extend(request.raw_input_contents)
    return answer.SerializeToString()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("binary_answer", [True, False])
def test_round_trip(binary: bool, binary_answer: bool) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_answer) for name in ARRAYS]
    body, length = request_body(binary, outputs=outputs, request_id="r1", timeout=1000, priority=1, parameters={"p": 1})
    request = parse_request(b"m", b"", body, length)
    assert (request.id, request.timeout_us, request.cacheable) == (b"r1", 1000, True)
    sent = ModelInferRequest.FromString(request.message())
    assert {i.name: d for i, d in zip(sent.inputs, sent.raw_input_contents, strict=True)} == {
        i.name: raw(ARRAYS[i.name]) for i in sent.inputs
    }
    assert len(sent.inputs) >= len(ARRAYS) - 1

    answered, json_length = render_bytes(request, answer_of(request.message()))
    assert (json_length >= 0) is binary_answer
    result = triton.InferenceServerClient.parse_response_body(
        answered, header_length=json_length if json_length >= 0 else None
    )
    assert result.get_response()["id"] == "r1"
    for item in sent.inputs:
        got = result.as_numpy(item.name)
        assert got.shape == ARRAYS[item.name].shape
        if got.dtype == object and not binary_answer:
            assert [e.encode() for e in got.reshape(-1)] == list(ARRAYS[item.name].reshape(-1))
        else:
            np.testing.assert_array_equal(got, ARRAYS[item.name])


def test_no_outputs_named_asks_for_binary() -> None:
    body, length = request_body(True)
    request = parse_request(b"m", b"", body, length)
    _, json_length = render_bytes(request, answer_of(request.message()))
    assert json_length > 0


def test_sequences() -> None:
    body, length = request_body(True, sequence_id=9, sequence_start=True, sequence_end=False)
    request = parse_request(b"m", b"", body, length)
    assert (request.sequence, request.cacheable) == (b"9", False)


def test_classification_is_sent_on() -> None:
    body, length = request_body(True, outputs=[triton.InferRequestedOutput("y", binary_data=True, class_count=3)])
    sent = ModelInferRequest.FromString(parse_request(b"m", b"", body, length).message())
    assert sent.outputs[0].parameters["classification"].int64_param == 3
