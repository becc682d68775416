"""OIP check: the server says that it is ready over the Open Inference Protocol's gRPC service, and which models are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from lb.config.checks.health import MOST_MODELS
from lb.config.schema.file import HealthConfig
from lb.health.check import NO_INDEX, CheckFailed, Means, Models
from lb.health.checks.grpc_connection import CallFailed, GrpcConnection, Status, lasting
from lb.health.checks.tls import CheckTls
from lb.wire import grpc_service_pb2 as wire

_SERVICE = "/inference.GRPCInferenceService/"
_READY = "READY"  # state of a model in the repository's index
_CHANGING = {"LOADING", "UNLOADING"}
_NOT_READY = "the server says that it is not ready"
_LONGEST_NAME = 256  # as in the configuration
# What servers say of a model that they do not have or cannot serve, and what a connection or a call that went wrong
# counts as: Triton says UNAVAILABLE when it is not loaded, KServe UNKNOWN when there is none of that name.
_DOUBTFUL = (
    Status.UNAVAILABLE,
    Status.UNKNOWN,
    Status.INTERNAL,
    Status.INVALID_ARGUMENT,
    Status.FAILED_PRECONDITION,
)


class OipCheck:
    """Passes when ServerReady says so. With `models` it asks for their readiness over the same connection: of a list by
    ModelReady, all at once, or of the whole repository by RepositoryIndex. Of a server without such an index (KServe's)
    only its own readiness is known: NO_INDEX. Triton says that it is not ready while it loads or unloads any one of its
    models: by its index the others are still served, and the check passes."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None, means: Means | None = None) -> None:
        self._connection = lasting(tls, means)
        self._models = config.models

    async def run(self, address: str) -> Models | None:
        return await self._connection.ask(address, self._ask)

    async def _ask(self, connection: GrpcConnection) -> Models | None:
        if self._models == "index":
            return await _index(connection, await _says_ready(connection))
        await _server_ready(connection)
        return None if self._models is None else await _listed(connection, self._models)


async def _says_ready(connection: GrpcConnection) -> bool:
    answer = await connection.unary(_SERVICE + "ServerReady", wire.ServerReadyRequest().SerializeToString())
    return bool(_parsed(wire.ServerReadyResponse, answer).ready)


async def _server_ready(connection: GrpcConnection) -> None:
    if not await _says_ready(connection):
        raise CheckFailed(_NOT_READY)


async def _index(connection: GrpcConnection, server_ready: bool) -> Models:
    """A model is ready when any version of it is. Of one that is named without a state, which the protocol lets servers
    leave out, its ModelReady tells: Triton names so what is in its repository and was never loaded. Names that are none
    for an operator's eyes are passed over; any endpoint may be asked for such a model."""
    asked = wire.RepositoryIndexRequest().SerializeToString()
    try:
        said = await connection.unary(_SERVICE + "RepositoryIndex", asked)
    except CallFailed as failure:
        if failure.code is Status.UNIMPLEMENTED and server_ready:
            return NO_INDEX
        if not server_ready:
            raise CheckFailed(_NOT_READY) from failure
        raise
    answer = _parsed(wire.RepositoryIndexResponse, said)
    states = {model.state.rpartition(".")[2] for model in answer.models}
    if not server_ready and not (_READY in states and states & _CHANGING):
        raise CheckFailed(_NOT_READY)
    named = [model for model in answer.models if 0 < len(model.name) <= _LONGEST_NAME and model.name.isprintable()]
    models: dict[str, bool] = {}
    for model in named:
        if model.state:
            # MLServer writes the text of its enumeration's member: State.READY.
            ready = model.state.rpartition(".")[2] == _READY
            models[model.name] = models.get(model.name, False) or ready
    silent = list(dict.fromkeys(model.name for model in named if model.name not in models))
    told = await _listed(connection, silent[:MOST_MODELS]) if silent else {}
    return {**models, **dict.fromkeys(silent, False), **told}


async def _listed(connection: GrpcConnection, names: Sequence[str]) -> Models:
    asked = [wire.ModelReadyRequest(name=name).SerializeToString() for name in names]
    ready = [_ready(answer) for answer in await connection.unaries(_SERVICE + "ModelReady", asked)]
    if None in ready:
        await _server_ready(connection)
    return {name: bool(one) for name, one in zip(names, ready, strict=True)}


def _ready(answer: bytes | CallFailed) -> bool | None:
    """None: it is not, if the server is well otherwise (_DOUBTFUL). Raises CallFailed."""
    if isinstance(answer, bytes):
        return bool(_parsed(wire.ModelReadyResponse, answer).ready)
    if answer.code in _DOUBTFUL:
        return None
    if answer.code is Status.NOT_FOUND:
        return False
    raise answer


def _parsed(kind: Any, answer: bytes) -> Any:
    try:
        return kind.FromString(answer)
    except DecodeError as e:
        raise CheckFailed("the answer is not of the Open Inference Protocol") from e
