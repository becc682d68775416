"""Triton's generate extension: an inference whose inputs are keys of a JSON object, and its outputs keys of another.

`POST /v2/models/M[/versions/V]/generate` has one answer, `…/generate_stream` any number, as server-sent events. A key
that names an input of the model is that tensor, `id` is the request's, `parameters` and every other key are its
parameters. A value is one element or a list of them: its elements fill the fixed dimensions of the input, and the last
dimension of any size; others of any size are 1 (protocol/extension_generate.md of Triton, and what its server does).
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from google.protobuf.message import DecodeError
from msgspec import Struct

from lb.errors import UpstreamError
from lb.inference.errors import OipError
from lb.inference.stream_messages import translate
from lb.wire import grpc_service_pb2 as wire

EVENTS = "text/event-stream; charset=utf-8"
ONE = "generate expects model to produce exactly 1 response, use generate stream for model that generates various number of responses"  # noqa: E501 - Triton's words
_FINAL = "triton_final_response"  # a parameter of the answers of streams, which says nothing to clients here
_BINARY = "binary_data_output"  # a parameter of inference requests, whose answers are not JSON alone then
# What is read and made here takes the loop's time, which is that of all clients: texts may be long, but values few.
_MOST_KEYS = 1024  # of an object
_MOST_ANSWER = 4 << 20  # bytes of an answer in JSON
_PATH = re.compile(rb"/v2/models/([^/]+)(?:/versions/([0-9]+))?/generate(_stream)?")


class Target(Struct, frozen=True):
    """Which model a request is for, and whether its answers are events."""

    model: bytes
    version: bytes
    stream: bool


def target_of(path: bytes) -> Target | None:
    """None: the path is no generate route's. Raises OipError for a name that is not UTF-8."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    name = unquote_to_bytes(match[1])
    try:
        name.decode()
    except UnicodeDecodeError:
        raise OipError("the model's name in the path is not UTF-8") from None
    return Target(name, match[2] or b"", match[3] is not None)


class Schema(Struct, frozen=True):
    """The inputs of a model: datatype and shape by name. `decoupled`: it gives any number of answers to a request, and
    gives them to streams alone."""

    inputs: dict[str, tuple[str, tuple[int, ...]]]
    decoupled: bool = False

    def document(self, text: bytes, counts: list[int]) -> dict[str, Any]:
        """The inference request that a generate request stands for. `text` is what the reader keeps of it: a value of
        an input is an index into `counts`, its number of elements, -1 where it is no array. Raises OipError."""
        given = _parse(text)
        document: dict[str, Any] = {"inputs": []}
        parameters: dict[str, Any] = {}
        for key, value in given.items():
            if key in self.inputs:
                document["inputs"].append(self._tensor(key, value, abs(counts[value])))
            elif key == "parameters":
                if not isinstance(value, dict):
                    raise OipError("'parameters' must be an object")
                parameters.update(value)
            elif key == "id":
                if not isinstance(value, str):
                    raise OipError("'id' must be a string")
                document["id"] = value
            else:
                parameters[key] = value
        for key, value in parameters.items():
            if not isinstance(value, str | int | float | bool):
                raise OipError(f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string'.")
        if _BINARY in parameters:
            raise OipError(f"parameter '{_BINARY}' is none of generate requests, whose answers are JSON alone")
        if len(document["inputs"]) != len(self.inputs):
            missing = [name for name in self.inputs if name not in given]
            raise OipError(
                f"expected {len(self.inputs)} inputs but got {len(document['inputs'])}; missing: {', '.join(missing)}"
            )
        if parameters:
            document["parameters"] = parameters
        return document

    def _tensor(self, name: str, index: int, count: int) -> dict[str, Any]:
        datatype, shape = self.inputs[name]
        return {"name": name, "datatype": datatype, "shape": _filled(name, shape, count), "data": index}


def schema_of(metadata: bytes, config: bytes | None = None) -> Schema:
    """By a ModelMetadataResponse and a ModelConfigResponse; None: the model's server has no configurations. Raises
    UpstreamError for anything but these messages."""
    try:
        described = wire.ModelMetadataResponse.FromString(metadata)
        configured = wire.ModelConfigResponse.FromString(config or b"")
    except DecodeError:
        raise UpstreamError("the endpoint's answer is not a description of a model") from None
    inputs = {tensor.name: (tensor.datatype, tuple(tensor.shape)) for tensor in described.inputs}
    return Schema(inputs, configured.config.model_transaction_policy.decoupled)


def _filled(name: str, shape: tuple[int, ...], count: int) -> list[int]:
    left = count
    for size in shape:
        if size >= 0:
            if size == 0 or left % size:
                raise OipError(
                    f"the schema can not convert input '{name}' to tensor with proper shape: {count} elements for "
                    f"{list(shape)}"
                )
            left //= size
    made = list(shape)
    for axis in reversed(range(len(shape))):
        if shape[axis] < 0:
            made[axis], left = left, 1
    if left != 1:
        raise OipError(
            f"the schema can not convert input '{name}' to tensor with proper shape: {count} elements for {list(shape)}"
        )
    return made


def _parse(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as problem:
        raise OipError(f"the request is not valid JSON: {problem}") from None
    if not isinstance(given, dict):
        raise OipError("the request must be a JSON object")
    return given


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if len(pairs) > _MOST_KEYS:
        raise OipError(f"an object of the request has {len(pairs)} keys; at most {_MOST_KEYS} are taken")
    for name, value in pairs:
        if name in made:
            raise OipError(f"input '{name}' already exists in request")
        made[name] = value
    return made


def answer(infer: bytes) -> bytes:
    """The answer to a generate request, of an inference's answer in JSON: each output is a key, a single element as
    it is, several as a list; the parameters of the answer are keys, too. Raises UpstreamError for one that is too
    large."""
    if len(infer) > _MOST_ANSWER:
        raise UpstreamError(f"the answer is too large for generate, {len(infer)} bytes: send an inference")
    document = orjson.loads(infer)
    made = {key: value for key in ("id", "model_name", "model_version") if (value := document.get(key))}
    made |= {key: value for key, value in document.get("parameters", {}).items() if key != _FINAL}
    for output in document.get("outputs", ()):
        data = output.get("data", [])
        made[output["name"]] = data[0] if len(data) == 1 else data
    return orjson.dumps(made)


def error(text: str) -> bytes:
    """An error as the protocol shapes it."""
    return orjson.dumps({"error": text})


def split(message: bytes) -> tuple[str, bytes]:
    """The error of a stream's message, "" where it has none, and its ModelInferResponse; the message is Triton's
    ModelStreamInferResponse, or the ModelInferResponse itself, as of MLServer. Raises UpstreamError."""
    wrapped, _ = translate([b"\0" + len(message).to_bytes(4, "big") + message], False)
    try:
        found = wire.ModelStreamInferResponse.FromString(wrapped[5:])
    except DecodeError:
        raise UpstreamError("the endpoint's answer is not a ModelStreamInferResponse") from None
    return found.error_message, found.infer_response.SerializeToString()


def event(data: bytes) -> bytes:
    """A server-sent event."""
    return b"data: " + data + b"\n\n"
