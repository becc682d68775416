"""What a raw binary request stands for, by the description of the model."""

from __future__ import annotations

import json

import pytest

from lb.errors import UpstreamError
from lb.inference.errors import OipError
from lb.inference.raw_input import RawInput, raw_input
from lb.wire import grpc_service_pb2 as wire
from lb.wire.model_config_pb2 import ModelConfig


def described(datatype: str, shape: list[int], inputs: int = 1, batch: int | None = None) -> RawInput:
    metadata = wire.ModelMetadataResponse(name="m")
    for i in range(inputs):
        metadata.inputs.add(name=f"x{i}", datatype=datatype, shape=shape)
    config = None if batch is None else wire.ModelConfigResponse(config=ModelConfig(name="m", max_batch_size=batch))
    return raw_input(metadata.SerializeToString(), None if config is None else config.SerializeToString())


@pytest.mark.parametrize(
    ("datatype", "shape", "batch", "size", "found"),
    [
        ("FP32", [2, 3], 0, 24, [2, 3]),
        ("FP32", [-1, 64], 8, 256, [1, 64]),
        ("FP32", [-1, -1, 4], 8, 96, [1, 6, 4]),
        ("UINT8", [-1, -1], 4, 1000, [1, 1000]),
        ("UINT8", [-1, 3], 0, 12, [4, 3]),
        ("INT64", [-1], 0, 0, [0]),
        ("FP16", [-1, 4], None, 16, [2, 4]),
        ("BF16", [4], None, 8, [4]),
        ("BYTES", [1], 0, 5, [1]),
        ("BYTES", [-1, 1], 8, 5, [1, 1]),
        ("BYTES", [1, 1], None, 0, [1, 1]),
    ],
)
def test_the_shape(datatype: str, shape: list[int], batch: int | None, size: int, found: list[int]) -> None:
    raw = described(datatype, shape, batch=batch)
    assert raw.prefixed is (datatype == "BYTES")
    assert json.loads(raw.header(size)) == {
        "parameters": {"binary_data_output": True},
        "inputs": [
            {
                "name": "x0",
                "shape": found,
                "datatype": datatype,
                "parameters": {"binary_data_size": size + 4 if raw.prefixed else size},
            }
        ],
    }


@pytest.mark.parametrize(
    ("datatype", "shape", "inputs", "batch", "reason"),
    [
        ("FP32", [1], 0, 0, "models with one input; 'm' has 0"),
        ("FP32", [1], 2, 0, "models with one input; 'm' has 2"),
        ("FP32", [-1, -1], 1, 0, "one variable dimension"),
        ("FP32", [-1, -1], 1, None, "one variable dimension"),
        ("FP32", [-1, -1, -1], 1, 8, "one variable dimension"),
        ("BYTES", [2], 1, 0, "inputs of shape"),
        ("BYTES", [-1], 1, 0, "inputs of shape"),
        ("BYTES", [-1, -1], 1, 8, "inputs of shape"),
        ("FP8", [1], 1, 0, "datatype FP8"),
        ("", [1], 1, 0, "datatype"),
    ],
)
def test_models_without_raw_requests(
    datatype: str, shape: list[int], inputs: int, batch: int | None, reason: str
) -> None:
    with pytest.raises(OipError, match=reason):
        described(datatype, shape, inputs, batch)


@pytest.mark.parametrize(("shape", "size"), [([-1, 3], 13), ([-1, 0], 4), ([-1, 3], 2)])
def test_sizes_that_are_no_whole_number_of_rows(shape: list[int], size: int) -> None:
    with pytest.raises(OipError, match="no whole number of rows"):
        described("FP32", shape, batch=0).header(size)


def test_what_is_no_description() -> None:
    for metadata, config in ((b"\xff", None), (wire.ModelMetadataResponse().SerializeToString(), b"\xff")):
        with pytest.raises(UpstreamError):
            raw_input(metadata, config)
