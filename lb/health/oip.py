"""OIP check: the server says that it is ready over the Open Inference Protocol's gRPC service, and which models are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from lb.config.health_checks import MOST_MODELS
from lb.config.schema import HealthConfig
from lb.health.channel import Channels, reason
from lb.health.check import CheckFailed, Models
from lb.health.tls import CheckTls
from lb.wire import grpc_service_pb2 as wire

_SERVICE = "/inference.GRPCInferenceService/"
_READY = "READY"  # state of a model in the repository's index
_LONGEST_NAME = 256  # as in the configuration
# What servers say of a model that they do not have or cannot serve, and gRPC's library of a connection or a call that
# went wrong: Triton says UNAVAILABLE when it is not loaded, KServe UNKNOWN when there is none of that name.
_DOUBTFUL = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
)


class OipCheck:
    """Passes when ServerReady says so. With `models` it asks for their readiness over the same connection: of a list by
    ModelReady, all at once, or of the whole repository by RepositoryIndex."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._channels = Channels(config.timeout, tls)
        self._models = config.models

    async def run(self, address: str) -> Models | None:
        async with self._channels.open(address) as channel:
            try:
                await _server_ready(channel)
                if self._models is None:
                    return None
                if self._models == "index":
                    return await _index(channel)
                return await _listed(channel, self._models)
            except grpc.aio.AioRpcError as e:
                raise CheckFailed(reason(e)) from e


async def _server_ready(channel: grpc.aio.Channel) -> None:
    if not (await _call(channel, "ServerReady", wire.ServerReadyRequest(), wire.ServerReadyResponse)).ready:
        raise CheckFailed("the server says that it is not ready")


async def _index(channel: grpc.aio.Channel) -> Models:
    """A model is ready when any version of it is. Of one that is named without a state, which the protocol lets servers
    leave out, its ModelReady tells: Triton names so what is in its repository and was never loaded. Names that are none
    for an operator's eyes are passed over; any endpoint may be asked for such a model."""
    answer = await _call(channel, "RepositoryIndex", wire.RepositoryIndexRequest(), wire.RepositoryIndexResponse)
    named = [model for model in answer.models if 0 < len(model.name) <= _LONGEST_NAME and model.name.isprintable()]
    models: dict[str, bool] = {}
    for model in named:
        if model.state:
            models[model.name] = models.get(model.name, False) or model.state == _READY
    silent = list(dict.fromkeys(model.name for model in named if model.name not in models))
    asked = await _listed(channel, silent[:MOST_MODELS]) if silent else {}
    return {**models, **dict.fromkeys(silent, False), **asked}


async def _listed(channel: grpc.aio.Channel, names: Sequence[str]) -> Models:
    answers = await asyncio.gather(*(_model_ready(channel, name) for name in names))
    if any(ready is None for ready in answers):
        await _server_ready(channel)
    return {name: bool(ready) for name, ready in zip(names, answers, strict=True)}


async def _model_ready(channel: grpc.aio.Channel, name: str) -> bool | None:
    """None: it is not, if the server is well otherwise (_DOUBTFUL)."""
    try:
        answer = await _call(channel, "ModelReady", wire.ModelReadyRequest(name=name), wire.ModelReadyResponse)
    except grpc.aio.AioRpcError as e:
        if e.code() in _DOUBTFUL:
            return None
        if e.code() is grpc.StatusCode.NOT_FOUND:
            return False
        raise
    return bool(answer.ready)


async def _call(channel: grpc.aio.Channel, method: str, request: Any, answer: Any) -> Any:
    ask = channel.unary_unary(
        _SERVICE + method, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
    )
    return await ask(request)
