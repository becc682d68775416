"""One version of one model: what it is called, what it takes and gives."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from backend.datatypes import TensorSpec
from backend.on_demand import OnDemandSession
from backend.repository.sequences import Sequencing, visible
from backend.repository.settings import FILE, THREADS, Level, Settings
from backend.session import Session
from lb.wire import grpc_service_pb2 as wire
from lb.wire import model_config_pb2

PLATFORM = "onnxruntime_onnx"


class Model:
    """A loaded model. `max_batch` is the most rows that calls are merged to, 1 for no merging; it is 1 also for models
    that are not known to treat the rows of their first dimension independently. `steady` says that the time of a
    run follows from the sizes of its inputs. `file` is the name of its file, `file_bytes` the size of all its files,
    `resident_bytes` what the process has grown by as it was loaded, `loaded_ms` when that was, in ms since 1970.
    `sequencing`: its requests belong to sequences, and the server fills in some of the session's inputs; `inputs` and
    `outputs` are what clients give and get."""

    def __init__(
        self,
        name: str,
        version: int,
        session: Session,
        settings: Settings,
        file: str = FILE,
        sequencing: Sequencing | None = None,
    ) -> None:
        self.name = name
        self.version = str(version)
        self.session = session
        self.settings = settings
        self.file = file
        self.sequencing = sequencing
        self.inputs, self.outputs = visible(session, settings, sequencing)
        self.max_batch = 1
        self.steady = False
        self.file_bytes = 0
        self.resident_bytes = 0
        self.loaded_ms = time.time_ns() // 1_000_000

    def __repr__(self) -> str:
        return f"model {self.name} version {self.version}"

    @property
    def on_demand(self) -> bool:
        """It is not in memory: the next request loads it."""
        return isinstance(self.session, OnDemandSession)

    def left_memory(self, load: Callable[[], Awaitable[Session]]) -> Model:
        """The same model, that `load` brings back."""
        made = Model(self.name, int(self.version), OnDemandSession(self.session, load), self.settings, self.file)
        made.max_batch = self.max_batch
        made.file_bytes, made.resident_bytes = self.file_bytes, self.resident_bytes
        return made

    def metadata(self, versions: Sequence[str]) -> Any:
        return wire.ModelMetadataResponse(
            name=self.name,
            versions=versions,
            platform=PLATFORM,
            inputs=[_tensor_metadata(spec) for spec in self.inputs],
            outputs=[_tensor_metadata(spec) for spec in self.outputs],
        )

    def config(self, runs: int) -> Any:
        """What is in use of the model's configuration, as a ModelConfig, on a server that runs `runs` at once."""
        settings = self.settings
        asked = settings.configuration.message
        rows = self._max_batch_size()
        skip = 1 if rows else 0
        on_gpu = self.session.provider != "CPUExecutionProvider"
        group = model_config_pb2.ModelInstanceGroup
        every = model_config_pb2.ModelVersionPolicy(all=model_config_pb2.ModelVersionPolicy.All())
        config = model_config_pb2.ModelConfig(
            name=self.name,
            platform=PLATFORM,
            backend="onnxruntime",
            version_policy=asked.version_policy if asked.HasField("version_policy") else every,
            max_batch_size=rows,
            input=[
                model_config_pb2.ModelInput(name=spec.name, data_type=spec.datatype.config, dims=spec.shape[skip:])
                for spec in self.inputs
            ],
            output=[
                model_config_pb2.ModelOutput(name=spec.name, data_type=spec.datatype.config, dims=spec.shape[skip:])
                for spec in self.outputs
            ],
            instance_group=[
                group(name=self.name, count=settings.runs or runs, kind=group.KIND_GPU if on_gpu else group.KIND_CPU)
            ],
            default_model_filename=self.file,
            model_warmup=asked.model_warmup,
        )
        config.parameters[THREADS].string_value = str(settings.threads)
        config.parameters["execution_provider"].string_value = self.session.provider
        config.parameters["file_bytes"].string_value = str(self.file_bytes)
        if not self.on_demand:
            config.parameters["resident_bytes"].string_value = str(self.resident_bytes)
        if self.sequencing is not None:
            config.sequence_batching.CopyFrom(self.sequencing.config(skip))
        elif self.max_batch > 1 or asked.HasField("dynamic_batching"):
            batching = config.dynamic_batching
            batching.max_queue_delay_microseconds = settings.max_queue_delay // 1000
            _say(batching.default_queue_policy, settings.levels[settings.default_level])
            if len(settings.levels) > 1 or asked.dynamic_batching.priority_levels:
                batching.priority_levels = len(settings.levels)
                batching.default_priority_level = settings.default_level + 1
                for number, level in enumerate(settings.levels, 1):
                    _say(batching.priority_queue_policy[number], level)
        return config

    def _max_batch_size(self) -> int:
        """From 1 on `dims` leave out the first dimension, as the protocol has it. Triton's perf_analyzer cannot make
        tensors whose `dims` are empty then, so models that have such tensors say 0, merged or not."""
        specs = (*self.inputs, *self.outputs)
        if any(len(spec.shape) < 2 for spec in specs):
            return 0
        if self.max_batch > 1:
            return self.max_batch
        return 1 if self.settings.max_batch_size and all(spec.shape[0] in (-1, 1) for spec in specs) else 0


def _say(policy: Any, level: Level) -> None:
    policy.max_queue_size = level.max_queue
    policy.default_timeout_microseconds = level.timeout // 1000


def _tensor_metadata(spec: TensorSpec) -> Any:
    return wire.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)
