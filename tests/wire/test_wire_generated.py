"""The generated code that is checked in is what the `.proto` files say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from lb.wire import grpc_service_pb2 as wire

ROOT = Path(__file__).resolve().parents[2]


def test_checked_in_descriptors_equal_a_fresh_generation():
    """Stubs are left out: each release of protoc writes them in its own way."""
    spec = importlib.util.spec_from_file_location("proto_generate", ROOT / "proto" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert [name for name in module.differences() if name.endswith(".py")] == []


@pytest.mark.parametrize(
    ("message", "numbers"),
    [
        (
            "InferParameter",
            {"bool_param": 1, "int64_param": 2, "string_param": 3, "double_param": 4, "uint64_param": 5},
        ),
        (
            "InferTensorContents",
            {
                "bool_contents": 1,
                "int_contents": 2,
                "int64_contents": 3,
                "uint_contents": 4,
                "uint64_contents": 5,
                "fp32_contents": 6,
                "fp64_contents": 7,
                "bytes_contents": 8,
            },
        ),
        (
            "ModelInferRequest",
            {
                "model_name": 1,
                "model_version": 2,
                "id": 3,
                "parameters": 4,
                "inputs": 5,
                "outputs": 6,
                "raw_input_contents": 7,
            },
        ),
        (
            "ModelInferResponse",
            {"model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "outputs": 5, "raw_output_contents": 6},
        ),
        (
            "ModelMetadataResponse",
            {"name": 1, "versions": 2, "platform": 3, "inputs": 4, "outputs": 5, "properties": 6},
        ),
        ("ModelStreamInferResponse", {"error_message": 1, "infer_response": 2}),
    ],
)
def test_field_numbers_are_the_published_ones(message, numbers):
    descriptor = wire.DESCRIPTOR.message_types_by_name[message]
    assert {field.name: field.number for field in descriptor.fields} == numbers
