"""A model server with the answers of `sweep_cases`: `python sweep_peer.py SIZE` prints its address when it serves."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
from sweep_cases import ANSWERS

from lb.wire import grpc_service_pb2 as oip


async def serve(size: int) -> None:
    made = {name: body(size) for name, body in ANSWERS.items()}
    echo = oip.ModelInferResponse(model_name="echo").SerializeToString()

    async def infer(request: bytes, context: Any) -> bytes:
        # The model's name comes first in what the daemon writes, and in what the sweep does.
        name = request[2 : 2 + request[1]].decode() if request[:1] == b"\n" else ""
        return made.get(name, echo)

    async def metadata(request: oip.ModelMetadataRequest, context: Any) -> oip.ModelMetadataResponse:
        """Of a model of texts, and of one of bytes."""
        name, datatype = ("x", "INT8") if request.name == "raw" else ("text_input", "BYTES")
        found = oip.ModelMetadataResponse(name=request.name)
        found.inputs.add(name=name, datatype=datatype, shape=[-1])
        found.outputs.add(name="text_output", datatype="BYTES", shape=[-1])
        return found

    async def stream(requests: Any, context: Any) -> Any:
        async for _ in requests:
            yield oip.ModelStreamInferResponse(
                infer_response=oip.ModelInferResponse(model_name="m")
            ).SerializeToString()

    handlers = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(infer),
        "ModelMetadata": grpc.unary_unary_rpc_method_handler(
            metadata, oip.ModelMetadataRequest.FromString, oip.ModelMetadataResponse.SerializeToString
        ),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(stream),
    }
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=unlimited)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
