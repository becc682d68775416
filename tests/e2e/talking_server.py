"""A model server in the test's own process, whose model says several things to one request."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from lb.wire import grpc_service_pb2 as wire

_OPTIONS = [("grpc.so_reuseport", 0)]


class TalkingServer:
    """Its model `talk` repeats `text` BYTES [1] as `said` BYTES [1], `times` INT32 [1] times; then it fails where the
    parameter `fail` says so. It waits for `go` before the second answer where the parameter `slow` is true. `gone` is
    set when a client has left a stream. Without `configured` it is a plain server of the Open Inference Protocol, and
    the model no decoupled one; `bare`: its streams have the messages of MLServer."""

    def __init__(self, configured: bool = True, bare: bool = False) -> None:
        self.bare = bare
        self.go = asyncio.Event()
        self.gone = asyncio.Event()
        self.asked: list[Any] = []
        self.server = grpc.aio.server(options=_OPTIONS)
        handlers = {
            "ModelMetadata": grpc.unary_unary_rpc_method_handler(self._metadata),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        if configured:
            handlers["ModelConfig"] = grpc.unary_unary_rpc_method_handler(self._config)
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
        )

    async def start(self) -> TalkingServer:
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()
        return self

    async def _metadata(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        request = wire.ModelMetadataRequest.FromString(data)
        if request.name != "talk":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
        answer = wire.ModelMetadataResponse(name="talk", versions=["1"])
        answer.inputs.add(name="text", datatype="BYTES", shape=[1])
        answer.inputs.add(name="times", datatype="INT32", shape=[1])
        answer.outputs.add(name="said", datatype="BYTES", shape=[1])
        return answer.SerializeToString()

    async def _config(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        answer = wire.ModelConfigResponse()
        answer.config.name = "talk"
        answer.config.model_transaction_policy.decoupled = True
        return answer.SerializeToString()

    async def _infer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return self._answer(wire.ModelInferRequest.FromString(data)).SerializeToString()

    def _answer(self, request: Any) -> Any:
        answer = wire.ModelInferResponse(model_name="talk", model_version="1", id=request.id)
        answer.parameters["triton_final_response"].bool_param = False  # as Triton marks it
        answer.outputs.add(name="said", datatype="BYTES", shape=[1])
        answer.raw_output_contents.append(request.raw_input_contents[0])
        return answer

    async def _stream(self, requests: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            async for data in requests:
                request = wire.ModelInferRequest.FromString(data)
                self.asked.append(request)
                for at in range(int.from_bytes(request.raw_input_contents[1], "little")):
                    if at == 1 and request.parameters["slow"].bool_param:
                        await self.go.wait()
                    answer = self._answer(request)
                    message = answer if self.bare else wire.ModelStreamInferResponse(infer_response=answer)
                    yield message.SerializeToString()
                if request.parameters["fail"].string_param == "message":
                    yield wire.ModelStreamInferResponse(error_message="it has failed").SerializeToString()
                elif request.parameters["fail"].string_param == "status":
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no memory")
        except asyncio.CancelledError:
            self.gone.set()
            raise
