"""The Open Inference Protocol's service, but for inferences: each method is one call of the protocol. And what the
compiled core asks of Python: methods that are rare, requests that are irregular."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from backend.calls import Operand, Place, check, sequence_of
from backend.errors import BackendError, InvalidInput, NotFound, Unavailable, Unsupported
from backend.finishing import Finish, Finishing, placed, wanted_of
from backend.gpus import GpuMetrics
from backend.grpc.methods import Call, Methods, Running
from backend.http import metrics, rest
from backend.inference.engine import ModelQueue
from backend.inference.model import Served
from backend.regions import Regions
from backend.repository.catalog import READY, UNAVAILABLE, Catalog
from backend.trace_settings import TraceSettings
from lb.inference import generate
from lb.inference.compression import decompress
from lb.inference.errors import OipError
from lb.inference.raw_input import raw_input
from lb.wire import grpc_service_pb2 as wire

SERVER_NAME = "tidegate-backend"
# Exactly what is offered beyond the base protocol; "model_repository" where models may be loaded and unloaded,
# "system_shared_memory" where all clients are of this machine, "trace" where there are spans.
EXTENSIONS = (
    "binary_tensor_data", "classification", "generate", "logging", "model_configuration", "sequence", "statistics",
)  # fmt: skip
_FINAL = "triton_enable_empty_final_response"
_LARGEST = 64 << 20  # bytes of a message that came compressed: a small one may claim any size, and holds the loop


def server_version() -> str:
    try:
        return metadata.version("tidegate")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "source"


class Manager(Protocol):
    """Who loads and unloads models (backend.repository.control)."""

    @property
    def mode(self) -> str: ...

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None: ...

    async def unload(self, name: str) -> None: ...

    async def unloaded(self) -> list[str]: ...


class InferenceService:
    """GRPCInferenceService over a catalog that is there once `offer` was called, and not ready any more after
    `withdraw`. `runs` is the most runs at once, of all models. `manage` comes before the first call."""

    def __init__(self, runs: int, regions: Regions, traces: TraceSettings) -> None:
        self._regions = regions
        self._traces = traces
        self._runs = runs
        self._catalog: Catalog | None = None
        self._served: dict[tuple[str, str], Served] = {}
        self._stopping = False
        self._manager: Manager

    def manage(self, manager: Manager) -> None:
        self._manager = manager

    def offer(self, catalog: Catalog, served: dict[tuple[str, str], Served]) -> None:
        """The models are warm: from now on they are served, by name and version."""
        self._catalog, self._served = catalog, served

    def withdraw(self) -> None:
        """The server is stopping: it says that it is not ready, and still answers calls that reach it."""
        self._stopping = True

    def models(self) -> Catalog:
        """Raises Unavailable."""
        if self._catalog is None:
            raise Unavailable("the server is still loading its models")
        return self._catalog

    @property
    def _ready(self) -> bool:
        return self._catalog is not None and not self._stopping

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return wire.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return wire.ServerReadyResponse(ready=self._ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        if not self._ready:
            return wire.ModelReadyResponse(ready=False)
        try:
            self.models().get(request.name, request.version)
        except (NotFound, Unavailable):
            return wire.ModelReadyResponse(ready=False)
        return wire.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        managed = ["model_repository"] if self._manager.mode == "explicit" else []
        shared = ["system_shared_memory"] if self._regions.offered else []
        traced = ["trace"] if self._traces.offered else []
        extensions = sorted([*EXTENSIONS, *managed, *shared, *traced])
        return wire.ServerMetadataResponse(name=SERVER_NAME, version=server_version(), extensions=extensions)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        models = self.models()
        return models.get(request.name, request.version).metadata(models.versions(request.name))

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        model = self.models().get(request.name, request.version)
        return wire.ModelConfigResponse(config=model.config(self._runs))

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        models = self.models()
        if not request.name:
            if request.version:
                raise InvalidInput("a version without the name of a model")
            chosen = list(models)
        elif request.version:
            chosen = [models.get(request.name, request.version)]
        else:
            chosen = [models.get(request.name, version) for version in models.versions(request.name)]
        return wire.ModelStatisticsResponse(
            model_stats=[
                wire.ModelStatistics.FromString(self._served[model.name, model.version].statistics())
                for model in chosen
            ]
        )

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """Models that were never loaded have a name only, as Triton says it."""
        _check_repository(request)
        index = wire.RepositoryIndexResponse.ModelIndex
        found = []
        for entry in self.models().entries:
            state, reason = entry.state, entry.reason
            if state == READY and self._stopping:
                state, reason = UNAVAILABLE, "the server is stopping"
            if state == READY or not request.ready:
                found.append(index(name=entry.name, version=entry.version, state=state, reason=reason))
        if not request.ready:
            found += [index(name=name) for name in await self._manager.unloaded()]
        return wire.RepositoryIndexResponse(models=sorted(found, key=lambda model: model.name))

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        _check_repository(request)
        await self._manager.load(request.model_name, request.parameters)
        return wire.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        _check_repository(request)
        await self._manager.unload(request.model_name)
        return wire.RepositoryModelUnloadResponse()


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise Unsupported("this server has one repository, without a name")


class Rare:
    """What the compiled core asks of Python (backend.grpc.call, backend.http.connection)."""

    error = staticmethod(rest.error)

    def __init__(self, inference: InferenceService, methods: Methods, regions: Regions, gpus: GpuMetrics) -> None:
        self._gpus = gpus
        self._inference = inference
        self._regions = regions
        self._methods = methods
        self._rest = rest.Rest(methods, self._metrics)
        self._queues: dict[tuple[str, str], ModelQueue] = {}

    def rest(self, request: rest.Request, method: str, target: str, body: bytes) -> asyncio.Task[None]:
        """A request of HTTP that is no inference."""
        return self._rest.start(request, method, target, body)

    def _metrics(self) -> str:
        models = metrics.text((queue.served.statistics(), queue.waiting) for queue in self._queues.values())
        return models + self._gpus.text

    def offer(self, queues: dict[tuple[str, str], ModelQueue]) -> None:
        """The queues of the models by name and version."""
        self._queues = queues

    def begin(self, call: Call, path: str) -> Running:
        """A call that is no inference. Raises Unsupported."""
        return self._methods.begin(call, path)

    def decompress(self, encoding: bytes | None, data: bytes) -> bytes:
        """A message whose flag says that it is compressed. Raises InvalidInput, Unsupported."""
        name = (encoding or b"").decode("latin-1")
        if name not in ("gzip", "deflate"):
            raise Unsupported(f"messages compressed by '{name}': expected gzip or deflate")
        try:
            return decompress(name.encode(), data, _LARGEST)
        except OipError as error:
            raise InvalidInput(f"a message is not read: {error}") from error

    def irregular(
        self, message: bytes
    ) -> tuple[ModelQueue, list[Operand], list[int], bytes, bool, Finish | None, Place | None]:
        """A ModelInferRequest that the compiled core does not read: the queue of its model, its inputs, the outputs it
        asks for, its id, whether it wants the last answer of a stream marked, what makes its answer, where that is not
        the core, and its place in a sequence. Raises BackendError."""
        try:
            request = wire.ModelInferRequest.FromString(message)
        except DecodeError as error:
            raise InvalidInput(f"not a ModelInferRequest: {error}") from error
        try:
            model = self._inference.models().get(request.model_name, request.model_version)
            queue = self._queues[model.name, model.version]
            try:
                outputs = model.outputs
                operands, wanted = check(request, model.inputs, outputs, self._from_region)
                sequence = sequence_of(model, request)
                # Of no output anything special is wanted where none is named.
                named = zip(request.outputs, wanted, strict=False)
                special = [wanted_of(output, outputs[index], self._regions) for output, index in named]
            except BackendError:
                queue.served.refused()
                raise
        except BackendError as error:
            error.answer = wire.ModelInferResponse(model_name=request.model_name, id=request.id).SerializeToString()
            raise
        final = _FINAL in request.parameters and request.parameters[_FINAL].bool_param
        finish = None
        if any(one.classes or one.placed for one in special):
            rows = queue.served.max_batch > 1
            finish = Finishing(model.name, model.version, request.id, tuple(special), rows, final)
        return queue, operands, wanted, request.id.encode(), final, finish, sequence

    def raw_header(self, name: str, version: str, size: int) -> tuple[bytes, bool]:
        """The JSON part that a raw binary request of `size` bytes is short for, and whether its data wants a length in
        front. Raises BackendError, TidegateError."""
        models = self._inference.models()
        model = models.get(name, version)
        config = wire.ModelConfigResponse(config=model.config(1)).SerializeToString()
        found = raw_input(model.metadata(models.versions(name)).SerializeToString(), config)
        return found.header(size), found.prefixed

    def generate_schema(self, name: str, version: str) -> generate.Schema:
        """What generate requests for a model are read by. Raises BackendError, TidegateError."""
        models = self._inference.models()
        model = models.get(name, version)
        return generate.schema_of(model.metadata(models.versions(name)).SerializeToString())

    def _from_region(self, what: str, parameters: Any) -> bytes | None:
        """A tensor that is in shared memory."""
        place = placed(what, parameters, self._regions)
        return None if place is None else place.region.read(what, place.offset, place.room)
