"""A server of the Open Inference Protocol that says which of its models are ready."""

from __future__ import annotations

from typing import Any

import grpc

from lb.wire import grpc_service_pb2 as wire


class Inference:
    """The readiness half of the Open Inference Protocol. `models` is name -> state in the index; `asked` are the calls.

    As Triton does it: a model that is not loaded is UNAVAILABLE to ModelReady, an unknown one NOT_FOUND. A state
    that is the name of another status of gRPC is answered with that. Without `index` it has no RepositoryIndex, as
    KServe's server."""

    def __init__(self, models: dict[str, str] | None = None, ready: bool = True) -> None:
        self.models = models or {}
        self.ready = ready
        self.silent: frozenset[str] = frozenset()  # models whose state is not in the index
        self.asked: list[str] = []
        self.index = True

    def handlers(self) -> grpc.GenericRpcHandler:
        methods = {name: getattr(self, name) for name in ("ServerReady", "ModelReady", "RepositoryIndex")}
        return grpc.method_handlers_generic_handler(
            "inference.GRPCInferenceService",
            {
                name: grpc.unary_unary_rpc_method_handler(
                    method,
                    getattr(wire, f"{name}Request").FromString,
                    getattr(wire, f"{name}Response").SerializeToString,
                )
                for name, method in methods.items()
            },
        )

    async def ServerReady(self, request: Any, context: Any) -> Any:
        self.asked.append("ServerReady")
        return wire.ServerReadyResponse(ready=self.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        self.asked.append(f"ModelReady {request.name}")
        state = self.models.get(request.name)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        if state == "UNAVAILABLE":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no available versions")
        if state in grpc.StatusCode.__members__:
            await context.abort(grpc.StatusCode[state], "a status of its own")
        return wire.ModelReadyResponse(ready=state == "READY")

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        self.asked.append("RepositoryIndex")
        if not self.index:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        index = wire.RepositoryIndexResponse.ModelIndex
        named = [(name.partition(":")[0], "" if name in self.silent else state) for name, state in self.models.items()]
        return wire.RepositoryIndexResponse(models=[index(name=name, state=state) for name, state in named])
