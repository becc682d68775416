"""The Open Inference Protocol's service. Each method is one call of the protocol: look up, check, act, answer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from importlib import metadata
from typing import Any

import grpc

from backend.batching import Batcher
from backend.errors import BackendError, InvalidInput, NotFound, Unavailable, Unsupported
from backend.load import Load
from backend.model import Model
from backend.repository import Repository
from lb.wire import grpc_service_pb2 as wire

SERVER_NAME = "tidegate-backend"
EXTENSIONS = ("model_configuration", "statistics")  # exactly what is offered beyond the base protocol
_EMPTY_FINAL = "triton_enable_empty_final_response"
_FINAL = "triton_final_response"

log = logging.getLogger("tidegate.backend")

Handler = Callable[[Any, Any, Any], Awaitable[Any]]


def server_version() -> str:
    try:
        return metadata.version("tidegate")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "source"


def answering(handler: Handler) -> Handler:
    """Turns the errors of a handler into gRPC statuses. What is not ours is logged, and INTERNAL to the client."""

    @wraps(handler)
    async def wrapper(self: Any, request: Any, context: Any) -> Any:
        try:
            return await handler(self, request, context)
        except BackendError as error:
            await context.abort(getattr(grpc.StatusCode, error.code), str(error))
        except Exception:
            log.exception("%s: unexpected error", handler.__name__)
            await context.abort(grpc.StatusCode.INTERNAL, "unexpected error; the server's log has more")

    return wrapper


class InferenceService:
    """GRPCInferenceService over a repository that is there once `offer` was called, and gone again after `withdraw`."""

    def __init__(self, max_queue_delay: int, load: Load) -> None:
        self._load = load
        self._max_queue_delay_us = max_queue_delay // 1000
        self._repository: Repository | None = None
        self._batchers: dict[Model, Batcher] = {}
        self._stopping = False

    def offer(self, repository: Repository, batchers: dict[Model, Batcher]) -> None:
        """The models are warm: from now on they are served."""
        self._repository, self._batchers = repository, batchers

    def withdraw(self) -> None:
        """The server is stopping: it says that it is not ready, and still answers calls that reach it."""
        self._stopping = True

    def _models(self) -> Repository:
        if self._repository is None:
            raise Unavailable("the server is still loading its models")
        return self._repository

    @property
    def _ready(self) -> bool:
        return self._repository is not None and not self._stopping

    @answering
    async def ServerLive(self, request: Any, context: Any) -> Any:
        return wire.ServerLiveResponse(live=True)

    @answering
    async def ServerReady(self, request: Any, context: Any) -> Any:
        return wire.ServerReadyResponse(ready=self._ready)

    @answering
    async def ModelReady(self, request: Any, context: Any) -> Any:
        if not self._ready:
            return wire.ModelReadyResponse(ready=False)
        try:
            self._models().get(request.name, request.version)
        except (NotFound, Unavailable):
            return wire.ModelReadyResponse(ready=False)
        return wire.ModelReadyResponse(ready=True)

    @answering
    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return wire.ServerMetadataResponse(name=SERVER_NAME, version=server_version(), extensions=EXTENSIONS)

    @answering
    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        models = self._models()
        return models.get(request.name, request.version).metadata(models.versions(request.name))

    @answering
    async def ModelConfig(self, request: Any, context: Any) -> Any:
        model = self._models().get(request.name, request.version)
        return wire.ModelConfigResponse(config=model.config(self._max_queue_delay_us))

    @answering
    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        models = self._models()
        if not request.name:
            if request.version:
                raise InvalidInput("a version without the name of a model")
            chosen = list(models)
        elif request.version:
            chosen = [models.get(request.name, request.version)]
        else:
            chosen = [models.get(request.name, version) for version in models.versions(request.name)]
        return wire.ModelStatisticsResponse(
            model_stats=[model.statistics.message(model.name, model.version) for model in chosen]
        )

    @answering
    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        if request.repository_name:
            raise Unsupported("this server has one repository, without a name")
        state, reason = ("UNAVAILABLE", "the server is stopping") if self._stopping else ("READY", "")
        index = wire.RepositoryIndexResponse.ModelIndex
        models = self._models()
        found = [index(name=model.name, version=model.version, state=state, reason=reason) for model in models]
        found += [
            index(name=model.name, version=model.version, state="UNAVAILABLE", reason=model.reason)
            for model in models.broken
        ]
        if request.ready:
            found = [model for model in found if model.state == "READY"]
        return wire.RepositoryIndexResponse(models=sorted(found, key=lambda model: model.name))

    @answering
    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        raise Unsupported("models are loaded when the server starts; restart it to load others")

    @answering
    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        raise Unsupported("models are loaded when the server starts; restart it to unload some")

    @answering
    async def ModelInfer(self, request: Any, context: Any) -> Any:
        return await self._infer(request)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answers in the order of the requests; an inference that fails says so there, and the stream goes on."""
        async for request in requests:
            try:
                response = await self._infer(request)
            except BackendError as error:
                failed = wire.ModelInferResponse(model_name=request.model_name, id=request.id)
                yield wire.ModelStreamInferResponse(error_message=str(error), infer_response=failed)
                continue
            if _EMPTY_FINAL in request.parameters and request.parameters[_EMPTY_FINAL].bool_param:
                response.parameters[_FINAL].bool_param = True
            yield wire.ModelStreamInferResponse(infer_response=response)

    async def _infer(self, request: Any) -> Any:
        with self._load.request():
            return await self._run(request)

    async def _run(self, request: Any) -> Any:
        model = self._models().get(request.model_name, request.model_version)
        try:
            call = model.check(request)
        except BackendError:
            model.statistics.failed(0)
            raise
        answer = await self._batchers[model].submit(call)
        answer.response.id = request.id
        return answer.response
