"""One version of one model: what it is called, what it takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.datatypes import TensorSpec
from backend.session import Session
from lb.wire import grpc_service_pb2 as wire
from lb.wire import model_config_pb2

PLATFORM = "onnxruntime_onnx"
FILE = "model.onnx"


class Model:
    """A loaded model. `max_batch` is the most rows that calls are merged to, 1 for no merging; it is 1 also for models
    that are not known to treat the rows of their first dimension independently. `steady` says that the time of a
    run follows from the sizes of its inputs."""

    def __init__(self, name: str, version: int, session: Session) -> None:
        self.name = name
        self.version = str(version)
        self.session = session
        self.max_batch = 1
        self.steady = False

    def __repr__(self) -> str:
        return f"model {self.name} version {self.version}"

    def metadata(self, versions: Sequence[str]) -> Any:
        return wire.ModelMetadataResponse(
            name=self.name,
            versions=versions,
            platform=PLATFORM,
            inputs=[_tensor_metadata(spec) for spec in self.session.inputs],
            outputs=[_tensor_metadata(spec) for spec in self.session.outputs],
        )

    def config(self, max_queue_delay_us: int) -> Any:
        """The model's ModelConfig. With batching, `dims` leave out the batch dimension, as the protocol has it."""
        skip = 1 if self.max_batch > 1 else 0
        on_gpu = self.session.provider != "CPUExecutionProvider"
        group = model_config_pb2.ModelInstanceGroup
        config = model_config_pb2.ModelConfig(
            name=self.name,
            platform=PLATFORM,
            backend="onnxruntime",
            version_policy=model_config_pb2.ModelVersionPolicy(all=model_config_pb2.ModelVersionPolicy.All()),
            max_batch_size=self.max_batch if skip else 0,
            input=[
                model_config_pb2.ModelInput(name=spec.name, data_type=spec.datatype.config, dims=spec.shape[skip:])
                for spec in self.session.inputs
            ],
            output=[
                model_config_pb2.ModelOutput(name=spec.name, data_type=spec.datatype.config, dims=spec.shape[skip:])
                for spec in self.session.outputs
            ],
            instance_group=[group(name=self.name, count=1, kind=group.KIND_GPU if on_gpu else group.KIND_CPU)],
            default_model_filename=FILE,
        )
        if skip:
            config.dynamic_batching.max_queue_delay_microseconds = max_queue_delay_us
        return config


def _tensor_metadata(spec: TensorSpec) -> Any:
    return wire.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)
