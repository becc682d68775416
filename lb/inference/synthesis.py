"""What servers of the plain Open Inference Protocol (MLServer, KServe) lack of Triton's, made of what is known.

A configuration comes from the metadata of the model, statistics from what the load balancer has counted. Messages are
of inference.GRPCInferenceService (Triton's).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lb.wire import grpc_service_pb2 as wire
from lb.wire import model_config_pb2 as config

# The configuration of a model whose first dimension is variable has to name a batch size, and no limit is known.
ANY_BATCH = 1024
MARK = "synthesised"  # the parameter by which a configuration says so
MARK_TEXT = "by tidegate, from the model's metadata: its server has no ModelConfig"


def common_metadata(answers: Sequence[bytes]) -> bytes:
    """The ServerMetadataResponse of a pool by those of its servers, one at least: name and version of the first, the
    extensions that all have, in its order, and those that are made up for: a configuration where a server has none,
    statistics where none has them. Raises DecodeError."""
    said: list[Any] = [wire.ServerMetadataResponse.FromString(answer) for answer in answers]
    sets = [set(one.extensions) for one in said]
    common = [each for each in said[0].extensions if all(each in found for found in sets)]
    made = ["model_configuration"]
    if not any("statistics" in found for found in sets):
        made.append("statistics")
    extensions = [*common, *(each for each in made if each not in common)]
    return bytes(
        wire.ServerMetadataResponse(
            name=said[0].name, version=said[0].version, extensions=extensions
        ).SerializeToString()
    )


def config_of(metadata: bytes) -> bytes:
    """A ModelConfigResponse by a ModelMetadataResponse. Raises DecodeError.

    Where the first of several dimensions of all tensors is variable, it is taken for the batch, as in Triton's
    configurations; else `max_batch_size` is 0 and dims are whole. A parameter says that nobody has written this.
    """
    described: Any = wire.ModelMetadataResponse.FromString(metadata)
    tensors = [*described.inputs, *described.outputs]
    batches = bool(described.inputs) and all(len(t.shape) > 1 and t.shape[0] < 0 for t in tensors)
    made = config.ModelConfig(
        name=described.name, platform=described.platform, max_batch_size=ANY_BATCH if batches else 0
    )
    for tensor in described.inputs:
        made.input.add(name=tensor.name, data_type=_datatype(tensor.datatype), dims=_dims(tensor, batches))
    for tensor in described.outputs:
        made.output.add(name=tensor.name, data_type=_datatype(tensor.datatype), dims=_dims(tensor, batches))
    made.parameters[MARK].string_value = MARK_TEXT
    return bytes(wire.ModelConfigResponse(config=made).SerializeToString())


def version_of(metadata: bytes) -> str:
    """The version that a model's requests get without naming one: "1" where its server knows none. Raises
    DecodeError."""
    described: Any = wire.ModelMetadataResponse.FromString(metadata)
    numbers = [version for version in described.versions if version.isdecimal()]
    return max(numbers, key=int) if numbers else described.versions[-1] if described.versions else "1"


def _dims(tensor: Any, batches: bool) -> list[int]:
    shape = [max(n, -1) for n in tensor.shape]
    return shape[1:] if batches else shape


def _datatype(name: str) -> Any:
    known = config.DataType.DESCRIPTOR.values_by_name.get("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}")
    return known.number if known is not None else 0


def statistics_of(model: str, version: str, counts: Sequence[int]) -> Any:
    """The ModelStatistics of a model; `counts` as lb.upstream.model_counts.FIELDS has them."""
    success, success_ns, fail, fail_ns, waited_ns, rows, runs, hits, hits_ns, misses, misses_ns, last = counts
    made = wire.ModelStatistics(
        name=model, version=version, last_inference=last, inference_count=rows, execution_count=runs
    )
    stats = made.inference_stats
    stats.success.count, stats.success.ns = success, success_ns
    stats.fail.count, stats.fail.ns = fail, fail_ns
    stats.queue.count, stats.queue.ns = runs, waited_ns
    stats.compute_input.count = stats.compute_output.count = runs
    stats.compute_infer.count, stats.compute_infer.ns = runs, max(0, success_ns - hits_ns - waited_ns)
    stats.cache_hit.count, stats.cache_hit.ns = hits, hits_ns
    stats.cache_miss.count, stats.cache_miss.ns = misses, misses_ns
    return made
