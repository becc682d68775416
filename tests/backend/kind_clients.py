"""One inference by each way that a client has: gRPC with raw and with typed tensors, a stream, REST with JSON and with
binary tensors."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from traffic import Answer, Client, request

from lb.wire import grpc_service_pb2 as wire
from lb.wire.services import INFERENCE, Stub

WAYS = ("raw", "typed", "stream", "json", "binary")
TIMEOUT = 60.0
Tensors = dict[str, np.ndarray]
DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": "<u2", "BYTES": "O",
}  # fmt: skip
CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """An inference of a model: `datatypes` of its inputs by name; `wanted` outputs, none for all."""

    id: str
    model: str
    datatypes: dict[str, str]
    feeds: Tensors
    wanted: Sequence[str] = ()
    version: str = ""


@dataclass(frozen=True)
class Reply:
    """The outputs, or why there are none: `code` is the name of a gRPC status, or a status of HTTP."""

    tensors: Tensors | None
    code: str = ""
    reason: str = ""


def to_bytes(datatype: str, array: np.ndarray) -> bytes:
    if datatype == "BYTES":
        texts = [text.encode() for text in array.reshape(-1)]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return array.astype(DTYPES[datatype], copy=False).tobytes()


def from_bytes(datatype: str, shape: Sequence[int], raw: bytes) -> np.ndarray:
    if datatype != "BYTES":
        return np.frombuffer(raw, DTYPES[datatype]).reshape(shape)
    texts, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        texts.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    made = np.empty(len(texts), object)
    made[:] = texts
    return made.reshape(shape)


def to_json(datatype: str, array: np.ndarray) -> list[Any]:
    if datatype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    values: list[Any] = array.reshape(-1).tolist()
    return values


def from_json(datatype: str, shape: Sequence[int], data: list[Any]) -> np.ndarray:
    if datatype == "BYTES":
        made = np.empty(len(data), object)
        made[:] = data
        return made.reshape(shape)
    if datatype == "BF16":
        return (np.array(data, "<f4").view(np.uint32) >> 16).astype("<u2").reshape(shape)
    if datatype.startswith("FP"):
        data = [float(value) for value in data]  # "NaN" and "Infinity" are strings
    return np.array(data, DTYPES[datatype]).reshape(shape)


def message(question: Question, typed: bool) -> Any:
    """A ModelInferRequest. Datatypes without a field for typed contents are raw all the same, and then all inputs."""
    typed = typed and all(datatype in CONTENTS for datatype in question.datatypes.values())
    made = wire.ModelInferRequest(model_name=question.model, model_version=question.version, id=question.id)
    for name, array in question.feeds.items():
        datatype = question.datatypes[name]
        tensor = made.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if not typed:
            made.raw_input_contents.append(to_bytes(datatype, array))
            continue
        values = array.reshape(-1).tolist()
        if datatype == "BYTES":
            values = [text.encode() for text in values]
        getattr(tensor.contents, CONTENTS[datatype]).extend(values)
    for name in question.wanted:
        made.outputs.add(name=name)
    return made


def tensors_of(answer: Any, question: Question) -> Tensors:
    """Of a ModelInferResponse."""
    assert (answer.id, answer.model_name, answer.model_version) == (question.id, question.model, "1")
    return {
        output.name: from_bytes(output.datatype, output.shape, raw)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def http_request(question: Question, binary: bool) -> bytes:
    inputs, parts = [], []
    for name, array in question.feeds.items():
        datatype = question.datatypes[name]
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if binary:
            parts.append(to_bytes(datatype, array))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = to_json(datatype, array)
        inputs.append(tensor)
    document: dict[str, Any] = {"id": question.id, "inputs": inputs}
    if binary:
        document["parameters"] = {"binary_data_output": True}
    if question.wanted:
        document["outputs"] = [{"name": name} for name in question.wanted]
    head = json.dumps(document).encode()
    fields = {"Inference_Header_Content_Length": str(len(head))} if binary else {}
    version = f"/versions/{question.version}" if question.version else ""
    return request("POST", f"/v2/models/{question.model}{version}/infer", head + b"".join(parts), **fields)


def reply_of(answer: Answer, question: Question) -> Reply:
    if answer.status != 200:
        return Reply(None, str(answer.status), answer.json["error"])
    document, at, found = answer.json, 0, {}
    told = (document["id"], document["model_name"], document["model_version"])
    assert told == (question.id, question.model, "1")
    for output in document["outputs"]:
        datatype, shape = output["datatype"], output["shape"]
        if "data" in output:
            found[output["name"]] = from_json(datatype, shape, output["data"])
        else:
            size = output["parameters"]["binary_data_size"]
            found[output["name"]] = from_bytes(datatype, shape, answer.binary[at : at + size])
            at += size
    return Reply(found)


class Clients:
    """Asks the server at a port of this machine, any number of questions at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub = Stub(self._channel, INFERENCE)
        self._idle: list[Client] = []

    async def close(self) -> None:
        await self._channel.close()
        for client in self._idle:
            client.close()

    async def ask(self, way: str, questions: Sequence[Question]) -> list[Reply]:
        """All at once; those of a stream in their order."""
        if way == "stream":
            return await asyncio.wait_for(self._stream(questions), TIMEOUT)
        one = self._http if way in ("json", "binary") else self._call
        return list(await asyncio.gather(*[one(way, question) for question in questions]))

    async def _call(self, way: str, question: Question) -> Reply:
        try:
            answer = await self.stub.ModelInfer(message(question, way == "typed"), timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return Reply(None, error.code().name, error.details() or "")
        return Reply(tensors_of(answer, question))

    async def _stream(self, questions: Sequence[Question]) -> list[Reply]:
        call = self.stub.ModelStreamInfer(message(question, False) for question in questions)
        replies = []
        for question in questions:
            answer = await call.read()
            assert answer is not grpc.aio.EOF, await call.details()
            if answer.error_message:
                replies.append(Reply(None, "stream", answer.error_message))
            else:
                replies.append(Reply(tensors_of(answer.infer_response, question)))
        assert await call.read() is grpc.aio.EOF
        return replies

    async def _http(self, way: str, question: Question) -> Reply:
        client = self._idle.pop() if self._idle else Client(self._port)
        answer = await asyncio.wait_for(client.ask(http_request(question, way == "binary")), TIMEOUT)
        self._idle.append(client)
        return reply_of(answer, question)
