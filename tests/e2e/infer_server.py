"""A model server in the test's own process, whose answers a subclass makes."""

from __future__ import annotations

import asyncio

import grpc

from lb.wire import grpc_service_pb2 as wire


class InferServer:
    """On one port, which it keeps over `stop` and `start`. Requests wait while `open` is clear."""

    def __init__(self) -> None:
        self.port = self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def start(self) -> None:
        self._server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self._infer)
        service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})
        self._server.add_generic_rpc_handlers((service,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    async def numbers(self, sent: wire.ModelInferRequest) -> list[int]:
        """What is answered."""
        raise NotImplementedError

    async def _infer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        sent = wire.ModelInferRequest.FromString(data)
        self.asked += 1
        numbers = await self.numbers(sent)
        made = wire.ModelInferResponse(model_name="m", id=sent.id)
        made.outputs.add(name="n", datatype="INT32", shape=[len(numbers)]).contents.int_contents.extend(numbers)
        return made.SerializeToString()
