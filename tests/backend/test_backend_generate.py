"""Triton's generate extension, by plain HTTP clients."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import backend_models
import numpy as np
import pytest
from backend_process import Backend
from compiled.inference import parse_generate
from onnx import helper

from lb.errors import UpstreamError
from lb.inference.errors import OipError
from lb.inference.generate import Schema, answer, target_of
from lb.wire.grpc_service_pb2 import ModelInferRequest


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`chat`: gives back its texts and numbers; `half`: an FP16 and a BOOL."""
    root: Path = tmp_path_factory.mktemp("models")
    backend_models.save(
        root,
        "chat",
        [
            helper.make_node("Identity", ["text_input"], ["text_output"]),
            helper.make_node("Identity", ["count"], ["counted"]),
        ],
        [("text_input", "BYTES", ("N", 1)), ("count", "INT32", ("N", "M"))],
        [("text_output", "BYTES", ("N", 1)), ("counted", "INT32", ("N", "M"))],
    )
    backend_models.save(
        root,
        "half",
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["flag"], ["told"])],
        [("x", "FP16", (2, 2)), ("flag", "BOOL", (1,))],
        [("y", "FP16", (2, 2)), ("told", "BOOL", (1,))],
    )
    with Backend(root, "--threads", "1", "--concurrency", "1") as backend:
        yield backend.wait_ready()


def post(server: Any, path: str, body: Any) -> tuple[int, str, bytes]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{server.targets[0]}/v2/models/{path}", data)
    try:
        with urllib.request.urlopen(request, timeout=30) as found:
            return found.status, found.headers["Content-Type"], found.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_a_text(generating: Any) -> None:
    status, kind, body = post(generating, "chat/generate", {"text_input": "Hello é", "count": 3, "id": "one"})
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {
        "id": "one", "model_name": "chat", "model_version": "1", "text_output": "Hello é", "counted": 3,
    }  # fmt: skip


def test_lists_and_parameters(generating: Any) -> None:
    asked = {"text_input": ["a"], "count": [1, 2, 3], "parameters": {"temperature": 0.5}, "stream": False}
    status, _, body = post(generating, "chat/versions/1/generate", asked)
    assert status == 200
    assert json.loads(body)["counted"] == [1, 2, 3]
    status, _, body = post(generating, "half/generate", {"x": [1, 2.5, -3, 0], "flag": True})
    assert status == 200, body
    assert json.loads(body)["y"] == [1, 2.5, -3, 0]
    assert json.loads(body)["told"] is True


def test_a_stream_of_events(generating: Any) -> None:
    status, kind, body = post(generating, "chat/generate_stream", {"text_input": "x", "count": 1})
    assert (status, kind) == (200, "text/event-stream; charset=utf-8")
    assert body.startswith(b"data: {")
    assert body.endswith(b"}\n\n")
    assert json.loads(body[6:])["text_output"] == "x"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "expected 2 inputs but got 0"),
        ({"abc": 123}, "expected 2 inputs but got 0"),
        ({"text_input": "x"}, "expected 2 inputs but got 1"),
        ({"text_input": 5, "count": 1}, "text_input"),
        ({"text_input": "x", "count": "many"}, "count"),
        ({"text_input": {"user": "x"}, "count": 1}, "text_input"),
        ({"text_input": ["x", [["y"]]], "count": 1}, "text_input"),
        ({"text_input": "x", "count": 1, "deep": {"a": 1}}, "parameter 'deep' has invalid type"),
        ({"text_input": "x", "count": 1, "parameters": [1]}, "'parameters' must be an object"),
        ({"text_input": "x", "count": 1, "id": 7}, "'id' must be a string"),
        (b'{"text_input": "x", "count": 1, "text_input": "y"}', "input 'text_input' already exists in request"),
        (b'{"text_input": "x", "count": 1, "binary_data_output": true}', "is none of generate requests"),
        (b"[1]", "must be a JSON object"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
@pytest.mark.parametrize("what", ["generate", "generate_stream"])
def test_what_is_refused(generating: Any, what: str, body: Any, reason: str) -> None:
    status, _, found = post(generating, f"chat/{what}", body)
    assert status == 400
    assert reason in json.loads(found.removeprefix(b"data: "))["error"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{" + b",".join(b'"k%d":1' % number for number in range(1000)) + b',"k999":1}', "'k999' already exists"),
        (b"{" + b",".join(b'"k%d":1' % number for number in range(1025)) + b"}", "has 1025 keys; at most 1024"),
        (b'{"parameters":{' + b",".join(b'"k%d":1' % number for number in range(1025)) + b"}}", "has 1025 keys"),
        (b'{"x":[' + b"1," * 200_000 + b"1]}", "more than 8192 values beside the data of its tensors"),
        (b'{"x":"' + b"x" * 70_000 + b'"}', "more than 65536 bytes beside the data of its tensors"),
    ],
)
def test_what_would_take_the_time_of_others_is_refused(body: bytes, reason: str) -> None:
    """Python reads what is no tensor, on the loop: 400,000 keys took seconds, and minutes with one of them twice."""
    with pytest.raises(OipError, match=reason):
        parse_generate(b"m", b"", body, Schema({}))


def test_an_input_may_be_large() -> None:
    schema = Schema({"text": ("BYTES", (1,)), "x": ("INT64", (-1,))})
    text = '\u00e9\U0001f600"' * 200_000
    for body in (
        json.dumps({"text": text, "x": list(range(300_000))}),
        json.dumps({"x": list(range(300_000)), "text": [text]}, ensure_ascii=False),
    ):
        message = ModelInferRequest.FromString(parse_generate(b"m", b"", body.encode(), schema).message())
        found = {tensor.name: raw for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)}
        assert found["text"][4:].decode() == text
        assert found["x"] == np.arange(300_000, dtype="<i8").tobytes()


def test_an_answer_of_many_values_is_refused() -> None:
    infer = b'{"outputs":[{"name":"y","data":[' + b"0.25," * 1_000_000 + b"1]}]}"
    with pytest.raises(UpstreamError, match="the answer is too large for generate, 5000"):
        answer(infer)


def test_models_that_are_not_there(generating: Any) -> None:
    status, _, body = post(generating, "nobody/generate", {"x": 1})
    assert status == 404
    assert "unknown model 'nobody'" in json.loads(body)["error"]
    assert post(generating, "%FF/generate", {"x": 1})[0] == 400
    assert post(generating, "chat/versions/9/generate", {"x": 1})[0] == 404
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(f"http://{generating.targets[0]}/v2/models/chat/generate", timeout=30)


def test_elements_fill_the_shape() -> None:
    schema = Schema({"x": ("FP32", (-1, -1, 3))})

    def shape(count: int) -> list[int]:
        body = json.dumps({"x": [0.5] * count}).encode()
        return list(ModelInferRequest.FromString(parse_generate(b"m", b"", body, schema).message()).inputs[0].shape)

    assert shape(3) == [1, 1, 3]
    assert shape(12) == [1, 4, 3]
    with pytest.raises(OipError, match="can not convert input 'x' to tensor with proper shape"):
        shape(4)
    with pytest.raises(OipError, match="proper shape"):
        parse_generate(b"m", b"", b'{"x": [1, 2, 3, 4]}', Schema({"x": ("FP32", (2,))}))


def test_what_an_answer_looks_like() -> None:
    made = answer(
        b'{"model_name":"m","id":"","parameters":{"sequence_id":0,"triton_final_response":true},"outputs":[{"name":"a","data":[]},'
        b'{"name":"b","data":["NaN"]}]}'
    )
    assert json.loads(made) == {"model_name": "m", "sequence_id": 0, "a": [], "b": "NaN"}


def test_paths() -> None:
    assert target_of(b"/v2/models/a%20b/generate").model == b"a b"
    found = target_of(b"/v2/models/m/versions/3/generate_stream")
    assert (found.version, found.stream) == (b"3", True)
    assert target_of(b"/v2/models/m/generated") is None
    assert target_of(b"/v2/models/m/versions/x/generate") is None
