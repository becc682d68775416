"""Stateful model servers in the test's own process: each knows the sequences that began there, and no others."""

from __future__ import annotations

from typing import Any

import grpc

from lb.wire import grpc_service_pb2 as wire

_OPTIONS = [("grpc.so_reuseport", 0)]


class SequenceServer:
    """Counts the steps of each sequence and answers with its count; refuses, as Triton does, one that did not begin
    here. `broken` are the ids of which a request came that should have gone elsewhere."""

    def __init__(self) -> None:
        self.open: dict[str, int] = {}
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.broken: list[str] = []
        self.plain = 0
        self.behave = self.answer
        self.server = grpc.aio.server(options=_OPTIONS)
        handlers = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
        )

    async def start(self) -> str:
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()
        return self.address

    def step(self, request: Any) -> int:
        """How many requests of its sequence have come, this one included; 0 when it belongs to none."""
        key = _text(request.parameters["sequence_id"]) if "sequence_id" in request.parameters else ""
        if key in ("", "0"):
            self.plain += 1
            return 0
        if request.parameters["sequence_start"].bool_param:
            self.open[key] = 0
            self.begun.append(key)
        if key not in self.open:
            self.broken.append(key)
            return -1
        self.open[key] += 1
        count = self.open[key]
        if request.parameters["sequence_end"].bool_param:
            del self.open[key]
            self.ended.append(key)
        return count

    async def _infer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return await self.behave(data, context)

    async def answer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        request = wire.ModelInferRequest.FromString(data)
        count = self.step(request)
        if count < 0:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "must specify the START flag on the first request")
        answer = wire.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name="count", datatype="INT32", shape=[1])
        answer.raw_output_contents.append(count.to_bytes(4, "little"))
        return answer.SerializeToString()

    async def _stream(self, requests: Any, context: grpc.aio.ServicerContext) -> Any:
        async for data in requests:
            count = self.step(wire.ModelInferRequest.FromString(data))
            yield wire.ModelStreamInferResponse(
                infer_response=wire.ModelInferResponse(id=str(count))
            ).SerializeToString()


def message(key: int | str, start: bool = False, end: bool = False, size: int = 4, **members: Any) -> Any:
    """A ModelInferRequest of the sequence `key` (0: of none), with `size` bytes of tensor."""
    request = wire.ModelInferRequest(model_name="m", **members)
    if isinstance(key, str):
        request.parameters["sequence_id"].string_param = key
    elif key:
        request.parameters["sequence_id"].int64_param = key
    if start:
        request.parameters["sequence_start"].bool_param = True
    if end:
        request.parameters["sequence_end"].bool_param = True
    request.inputs.add(name="x", datatype="UINT8", shape=[size])
    request.raw_input_contents.append(bytes(size))
    return request


def document(key: int | str, start: bool = False, end: bool = False) -> dict[str, Any]:
    """The same as the body of a REST request."""
    parameters = {"sequence_id": key, "sequence_start": start, "sequence_end": end}
    return {"parameters": parameters, "inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}]}


def _text(parameter: Any) -> str:
    kind = parameter.WhichOneof("parameter_choice")
    return str(getattr(parameter, kind)) if kind else ""
