"""The server that everybody writes first: grpc.aio and ONNX Runtime, a call at a time.

python -m bench.model_servers.naive --models DIR --listen ADDRESS
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from backend.runtime import onnxruntime
from lb.wire import grpc_service_pb2 as wire
from lb.wire.services import INFERENCE, serve


class Service:
    def __init__(self, models: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = {
            path.parent.parent.name: onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
            for path in models.glob("*/1/model.onnx")
        }

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        (tensor,) = request.inputs
        values = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(tuple(tensor.shape))
        (result,) = self.sessions[request.model_name].run(None, {tensor.name: values})
        answer = wire.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name="y", datatype="FP32", shape=result.shape)
        answer.raw_output_contents.append(result.tobytes())
        return answer


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    given = parser.parse_args()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    serve(server, INFERENCE, Service(given.models))
    server.add_insecure_port(given.listen)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
