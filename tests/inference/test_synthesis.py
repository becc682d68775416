"""Configurations and statistics for servers that have none."""

from __future__ import annotations

from typing import Any

import pytest

from lb.inference.synthesis import ANY_BATCH, MARK, common_metadata, config_of, statistics_of, version_of
from lb.upstream.model_counts import FIELDS, MOST_MODELS, ModelCounts
from lb.wire import grpc_service_pb2 as wire
from lb.wire import model_config_pb2 as config

Shapes = list[list[int]]


def metadata(inputs: Shapes, outputs: Shapes, datatype: str = "FP32", versions: tuple[str, ...] = ()) -> bytes:
    tensor = wire.ModelMetadataResponse.TensorMetadata
    return bytes(
        wire.ModelMetadataResponse(
            name="m",
            platform="p",
            versions=versions,
            inputs=[tensor(name=f"i{i}", datatype=datatype, shape=shape) for i, shape in enumerate(inputs)],
            outputs=[tensor(name=f"o{i}", datatype=datatype, shape=shape) for i, shape in enumerate(outputs)],
        ).SerializeToString()
    )


def config_for(inputs: Shapes, outputs: Shapes, datatype: str = "FP32") -> Any:
    return wire.ModelConfigResponse.FromString(config_of(metadata(inputs, outputs, datatype))).config


@pytest.mark.parametrize(
    ("inputs", "outputs", "batches"),
    [
        ([[-1, 4]], [[-1, 2]], True),
        ([[-1, 4], [-1, -1, 3]], [[-1, 2]], True),
        ([[-1, 4]], [[2]], False),
        ([[-1]], [[-1]], False),  # clients could not make tensors without dims of it
        ([[1, 4]], [[1, 2]], False),
        ([[-1, 4], [4]], [[-1, 2]], False),
        ([], [], False),
    ],
)
def test_the_batch_is_the_first_dimension_where_that_varies_everywhere(
    inputs: Shapes, outputs: Shapes, batches: bool
) -> None:
    made = config_for(inputs, outputs)
    assert made.max_batch_size == (ANY_BATCH if batches else 0)
    skipped = 1 if batches else 0
    assert [list(one.dims) for one in made.input] == [shape[skipped:] for shape in inputs]
    assert [list(one.dims) for one in made.output] == [shape[skipped:] for shape in outputs]
    assert (made.name, made.platform) == ("m", "p")
    assert "metadata" in made.parameters[MARK].string_value


@pytest.mark.parametrize(
    ("name", "found"), [("FP32", "TYPE_FP32"), ("BYTES", "TYPE_STRING"), ("BOOL", "TYPE_BOOL"), ("X", "TYPE_INVALID")]
)
def test_datatypes(name: str, found: str) -> None:
    made = config_for([[1]], [[1]], name)
    assert config.DataType.Name(made.input[0].data_type) == found


@pytest.mark.parametrize(
    ("versions", "found"), [((), "1"), (("1", "10", "9"), "10"), (("v1", "3"), "3"), (("a", "b"), "b")]
)
def test_versions(versions: tuple[str, ...], found: str) -> None:
    assert version_of(metadata([], [], versions=versions)) == found


def test_counts_become_statistics() -> None:
    counts = ModelCounts()
    counts.add(b"m", True, 100, 30, 4, "")
    counts.add(b"m", True, 50, 10, 1, "miss")
    counts.add(b"m", True, 7, 7, 1, "hit")
    counts.add(b"m", False, 9, 9, 1, "")
    ((name, counted),) = counts.rows()
    assert (name, len(counted)) == ("m", len(FIELDS))
    made = statistics_of("m", "1", counted)
    assert (made.inference_count, made.execution_count) == (5, 2)
    stats = made.inference_stats
    assert (stats.success.count, stats.success.ns) == (3, 157)
    assert (stats.fail.count, stats.fail.ns) == (1, 9)
    assert (stats.queue.count, stats.queue.ns) == (2, 40)
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (2, 110)
    assert (stats.cache_hit.count, stats.cache_hit.ns) == (1, 7)
    assert (stats.cache_miss.count, stats.cache_miss.ns) == (1, 50)
    assert made.last_inference > 1_700_000_000_000


def test_names_that_clients_make_up_take_no_room() -> None:
    counts = ModelCounts()
    for i in range(2 * MOST_MODELS):
        counts.add(b"no-%d" % i, False, 1, 1, 1, "")
    assert counts.rows() == []
    for i in range(2 * MOST_MODELS):
        counts.add(b"m-%d" % i, True, 1, 1, 1, "")
    assert len(counts.rows()) == MOST_MODELS


@pytest.mark.parametrize(
    ("servers", "found"),
    [
        ([[]], ["model_configuration", "statistics"]),
        ([[], []], ["model_configuration", "statistics"]),
        ([["sequence", "statistics"], ["statistics", "trace"]], ["statistics", "model_configuration"]),
        ([["statistics"], []], ["model_configuration"]),  # the sum would have only a part
        ([["a", "model_configuration", "b"], ["b", "a"]], ["a", "b", "model_configuration", "statistics"]),
    ],
)
def test_extensions_that_servers_have_in_common(servers: list[list[str]], found: list[str]) -> None:
    answers = [
        wire.ServerMetadataResponse(name=f"s{i}", version="1", extensions=each).SerializeToString()
        for i, each in enumerate(servers)
    ]
    made = wire.ServerMetadataResponse.FromString(common_metadata(answers))
    assert (made.name, list(made.extensions)) == ("s0", found)
