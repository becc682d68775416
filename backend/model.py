"""One version of one model: what it is called, what it takes and gives, and how checked calls are run on it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.calls import Call, check, encode
from backend.datatypes import TensorSpec
from backend.errors import BackendError
from backend.session import Session
from backend.statistics import RunTimes, Statistics
from lb.wire import grpc_service_pb2 as wire
from lb.wire import model_config_pb2

PLATFORM = "onnxruntime_onnx"
FILE = "model.onnx"

log = logging.getLogger("tidegate.backend")


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one call: a ModelInferResponse without its id, and the run that gave it (shared within a batch)."""

    response: Any
    times: RunTimes


class Model:
    """A loaded model. `execute` may run in any number of threads at once; the rest belongs to the event loop.

    `max_batch` is the most rows that calls are merged to, 1 for no merging; it is 1 also for models that are not known
    to treat the rows of their first dimension independently.
    """

    def __init__(self, name: str, version: int, session: Session, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.name = name
        self.version = str(version)
        self.session = session
        self.max_batch = 1
        self.statistics = Statistics()
        self._clock = clock

    def __repr__(self) -> str:
        return f"model {self.name} version {self.version}"

    def check(self, request: Any) -> Call:
        """Raises InvalidInput or Unsupported, see `calls.check`."""
        return check(request, self.session.inputs, self.session.outputs, self.max_batch > 1)

    def execute(self, calls: Sequence[Call]) -> list[Answer | BackendError]:
        """Runs `calls`, all of one key, together; one answer or error for each, in order.

        A call that cannot be decoded fails alone. When a run of several fails, each is run alone, so that no call fails
        for its neighbour's input.
        """
        started = self._clock()
        results: list[Answer | BackendError | None] = [None] * len(calls)
        decoded: list[tuple[int, dict[str, np.ndarray]]] = []
        for index, call in enumerate(calls):
            try:
                decoded.append((index, call.decode()))
            except BackendError as error:
                results[index] = error
        ready = [calls[index] for index, _ in decoded]
        answers: Sequence[Answer | BackendError] = []
        if ready:
            answers = self._run_together(ready, [feeds for _, feeds in decoded], started)
        for (index, _), answer in zip(decoded, answers, strict=True):
            results[index] = answer
        return [result for result in results if result is not None]

    def _run_together(
        self, calls: Sequence[Call], feeds: Sequence[dict[str, np.ndarray]], started: int
    ) -> Sequence[Answer | BackendError]:
        rows = sum(call.rows for call in calls)
        names = [spec.name for spec in calls[0].outputs]
        try:
            merged = feeds[0]
            if len(feeds) > 1:
                merged = {name: np.concatenate([feed[name] for feed in feeds]) for name in merged}
            running = self._clock()
            arrays = self.session.run(names, merged)
        except BackendError as error:
            return [error] if len(calls) == 1 else self._run_alone(calls, feeds)
        ran = self._clock()
        if len(calls) == 1:
            responses = [self._response(calls[0].outputs, arrays)]
        elif all(array.ndim and array.shape[0] == rows for array in arrays):
            ends = np.cumsum([call.rows for call in calls])[:-1]
            parts = zip(*(np.split(array, ends) for array in arrays), strict=True)
            responses = [self._response(call.outputs, part) for call, part in zip(calls, parts, strict=True)]
        else:
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            log.warning("%s: a batch of %d rows gave outputs of shape %s; batching is off from now", self, rows, shapes)
            self.max_batch = 1
            return self._run_alone(calls, feeds)
        times = RunTimes(rows, running - started, ran - running, self._clock() - ran)
        return [Answer(response, times) for response in responses]

    def _run_alone(
        self, calls: Sequence[Call], feeds: Sequence[dict[str, np.ndarray]]
    ) -> Sequence[Answer | BackendError]:
        return [self._run_together([call], [feed], self._clock())[0] for call, feed in zip(calls, feeds, strict=True)]

    def _response(self, specs: Sequence[TensorSpec], arrays: Sequence[np.ndarray]) -> Any:
        response = wire.ModelInferResponse(model_name=self.name, model_version=self.version)
        for spec, array in zip(specs, arrays, strict=True):
            response.outputs.add(name=spec.name, datatype=spec.datatype.name, shape=array.shape)
            response.raw_output_contents.append(encode(spec, array))
        return response

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
