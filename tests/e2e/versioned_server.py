"""Model servers in the test's own process whose models are replaced: each answer says by which release it was made."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc

from lb.wire import grpc_service_pb2 as wire

_OPTIONS = [("grpc.so_reuseport", 0)]


class VersionedServer:
    """Models m and n. A load makes another release of one; answers that are under way are of the one before, and take
    up to `slow` seconds."""

    def __init__(self, slow: float = 0.0, releases: dict[str, int] | None = None, index: bool = True) -> None:
        self.slow = slow
        self.releases = releases if releases is not None else {"m": 1, "n": 1}
        self.versions = {"m": "1", "n": "1"}
        self.asked = 0
        self.described = 0  # models, by their metadata
        self.server = grpc.aio.server(options=_OPTIONS)
        handlers = {
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ModelInfer": self._infer,
            "ModelMetadata": self._metadata,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            **({"RepositoryIndex": self._index} if index else {}),
        }
        self.server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "inference.GRPCInferenceService",
                    {name: grpc.unary_unary_rpc_method_handler(method) for name, method in handlers.items()},
                ),
            )
        )

    async def start(self, port: int = 0) -> VersionedServer:
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        await self.server.start()
        return self

    async def stop(self) -> None:
        await self.server.stop(None)

    async def _ready(self, data: bytes, context: Any) -> bytes:
        return bytes(wire.ServerReadyResponse(ready=True).SerializeToString())

    async def _model_ready(self, data: bytes, context: Any) -> bytes:
        name = wire.ModelReadyRequest.FromString(data).name
        return bytes(wire.ModelReadyResponse(ready=name in self.releases).SerializeToString())

    async def _index(self, data: bytes, context: Any) -> bytes:
        answer = wire.RepositoryIndexResponse()
        for name in self.releases:
            answer.models.add(name=name, version=self.versions[name], state="READY")
        return bytes(answer.SerializeToString())

    async def _metadata(self, data: bytes, context: Any) -> bytes:
        self.described += 1
        name = wire.ModelMetadataRequest.FromString(data).name
        if name not in self.releases:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return bytes(wire.ModelMetadataResponse(name=name, versions=[self.versions[name]]).SerializeToString())

    async def _load(self, data: bytes, context: Any) -> bytes:
        name = wire.RepositoryModelLoadRequest.FromString(data).model_name
        await asyncio.sleep(random.random() * self.slow)
        self.releases[name] = self.releases.get(name, 0) + 1
        return b""

    async def _unload(self, data: bytes, context: Any) -> bytes:
        self.releases.pop(wire.RepositoryModelUnloadRequest.FromString(data).model_name, None)
        return b""

    async def _infer(self, data: bytes, context: Any) -> bytes:
        request = wire.ModelInferRequest.FromString(data)
        self.asked += 1
        if request.model_name not in self.releases:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        release = self.releases[request.model_name]
        await asyncio.sleep(random.random() * self.slow)
        answer = wire.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name="release", datatype="INT32", shape=[1])
        answer.raw_output_contents.append(release.to_bytes(4, "little"))
        return bytes(answer.SerializeToString())
