"""A model server in the test's own process, and a client of the Open Inference Protocol's REST half."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from datapath import Gate

from lb.wire import grpc_service_pb2 as wire

Behaviour = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]
OIP: dict[str, Any] = {"protocol": "oip"}
INFER = "/v2/models/m/infer"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]


async def echo(request: Any, context: grpc.aio.ServicerContext) -> Any:
    """The inputs as outputs of the same name."""
    answer = wire.ModelInferResponse(
        model_name=request.model_name, model_version=request.model_version or "1", id=request.id
    )
    for tensor in request.inputs:
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    answer.raw_output_contents.extend(request.raw_input_contents)
    return answer


class ModelServer:
    """Answers ModelInfer as `behave` does (a message, or bytes as they are) and counts what it is asked; each message
    of a ModelStreamInfer likewise."""

    def __init__(self, behave: Behaviour = echo) -> None:
        self.behave = behave
        self.requests: list[Any] = []
        self.cancelled = 0
        self.management: dict[str, Any] = {}  # method -> its answer
        self.without: frozenset[str] = frozenset()  # methods that it does not know of
        self.server = grpc.aio.server(options=_UNLIMITED)

    async def start(self) -> str:
        handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer)}
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        for method in (
            "ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig",
            "ModelStatistics",
        ):  # fmt: skip
            if method in self.without:
                continue
            handlers[method] = grpc.unary_unary_rpc_method_handler(self._manage(method))
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
        )
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{port}"

    async def _infer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        request = wire.ModelInferRequest.FromString(data)
        self.requests.append(request)
        try:
            answer = await self.behave(request, context)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return answer if isinstance(answer, bytes) else answer.SerializeToString()

    async def _stream(self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for data in messages:
            answer = wire.ModelInferResponse.FromString(await self._infer(data, context))
            yield wire.ModelStreamInferResponse(infer_response=answer).SerializeToString()

    def _manage(self, method: str) -> Behaviour:
        async def handler(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            answer = self.management.get(method)
            if answer is None:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not here")
            return answer if isinstance(answer, bytes) else answer.SerializeToString()

        return handler


def failing(code: grpc.StatusCode, message: str) -> Behaviour:
    async def behave(request: Any, context: grpc.aio.ServicerContext) -> Any:
        await context.abort(code, message)

    return behave


class Dying:
    """Takes one HTTP/2 request and closes the connection without a word; counts them."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
        await reader.readexactly(24)  # the preface
        while True:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == 0 and head[4] & 1:  # DATA with END_STREAM
                self.requests += 1
                writer.close()
                return


# The client.


def without_times(status: str | None) -> str | None:
    """A Cache-Status field without times and key."""
    return status and "; ".join(part for part in status.split("; ") if not part.startswith(("ttl=", "key=")))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The JSON part."""
        length = self.headers.get("inference-header-content-length")
        return json.loads(self.body if length is None else self.body[: int(length)])

    @property
    def binary(self) -> bytes:
        return self.body[int(self.headers["inference-header-content-length"]) :]

    @property
    def cache(self) -> str | None:
        """What the cache did, without times and key."""
        return without_times(self.headers.get("cache-status"))


def request(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, close: bool = True
) -> bytes:
    fields = {"Host": "test", "Content-Length": str(len(body)), **(headers or {})}
    if close:
        fields["Connection"] = "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode()
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 30)
    return Answer(int(status.split()[1]), headers, body)


async def ask(
    gate: Gate,
    body: bytes | Any = b"",
    path: str = INFER,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own; what is not bytes becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reader, writer = await gate.connect()
    with contextlib.closing(writer):
        writer.write(request(method, path, data, headers))
        return await read_answer(reader)


def tensor(
    values: Sequence[Any], datatype: str = "FP32", name: str = "x", shape: Sequence[int] | None = None
) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape or [len(values)]), "data": list(values)}


def plain(*tensors: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"inputs": list(tensors or [tensor([1.5, -2.0])]), **members}


def binary(
    *tensors: tuple[dict[str, Any], bytes], all_out: bool = True, **members: Any
) -> tuple[bytes, dict[str, str]]:
    """A body of JSON and tensor data, and the header that tells their border."""
    inputs = []
    for described, data in tensors:
        item = {k: v for k, v in described.items() if k != "data"}
        inputs.append({**item, "parameters": {"binary_data_size": len(data)}})
    if all_out:
        members["parameters"] = {**members.get("parameters", {}), "binary_data_output": True}
    head = json.dumps({"inputs": inputs, **members}).encode()
    return head + b"".join(data for _, data in tensors), {"Inference-Header-Content-Length": str(len(head))}


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def statuses(data: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", data)]
