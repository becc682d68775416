"""What a client gets for a request that cannot be right."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from backend_process import infer_request

from lb.wire import grpc_service_pb2 as wire

INVALID = grpc.StatusCode.INVALID_ARGUMENT
IMAGE = np.zeros((1, 64), np.float32)


def request(model="digits", tensors=(("image", "FP32", (1, 64)),), raw=(bytes(256),), outputs=(), **fields):
    message = wire.ModelInferRequest(model_name=model, raw_input_contents=raw, **fields)
    for name, datatype, shape in tensors:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    for output in outputs:
        message.outputs.add(name=output)
    return message


def contents(datatype="FP32", shape=(1, 64), model="digits", name="image", raw=(), **fields):
    message = request(model, [(name, datatype, shape)], raw)
    for field, values in fields.items():
        getattr(message.inputs[0].contents, field).extend(values)
    return message


def with_parameter(message, where, key):
    parameter = getattr(message, where)[0].parameters[key]
    if key == "classification":
        parameter.int64_param = 3
    else:
        parameter.string_param = "region"
    return message


def echo_bytes(raw, shape=(1, 3)):
    return request("echo_bytes", [("x", "BYTES", shape)], [raw])


CASES = {
    "unknown model": (request("nope"), grpc.StatusCode.NOT_FOUND, "unknown model 'nope'; this server has: digits"),
    "no model": (request(""), grpc.StatusCode.NOT_FOUND, "unknown model ''"),
    "unknown version": (request(model_version="7"), grpc.StatusCode.NOT_FOUND, "no version '7'; it has: 1"),
    "version that is no number": (request(model_version="x"), grpc.StatusCode.NOT_FOUND, "no version 'x'"),
    "unknown input": (
        request(tensors=[("img", "FP32", (1, 64))]),
        INVALID,
        "no input 'img'; expected 'image' FP32 [-1,64]",
    ),
    "no input": (request(tensors=[], raw=[]), INVALID, "input 'image' FP32 [-1,64] is missing"),
    "input twice": (request(tensors=[("image", "FP32", (1, 64))] * 2, raw=[bytes(256)] * 2), INVALID, "more than once"),
    "other datatype": (request(tensors=[("image", "FP64", (1, 64))]), INVALID, "expected datatype FP32, got 'FP64'"),
    "no datatype": (request(tensors=[("image", "float", (1, 64))]), INVALID, "'float', which is no datatype"),
    "other rank": (request(tensors=[("image", "FP32", (64,))]), INVALID, "expected shape [-1,64], got [64]"),
    "other size": (request(tensors=[("image", "FP32", (1, 63))]), INVALID, "expected shape [-1,64], got [1,63]"),
    "negative size": (request(tensors=[("image", "FP32", (-1, 64))]), INVALID, "expected shape [-1,64], got [-1,64]"),
    "too few bytes": (request(raw=[bytes(252)]), INVALID, "expected 256 bytes for FP32 [1,64], got 252"),
    "too many bytes": (request(raw=[bytes(260)]), INVALID, "expected 256 bytes for FP32 [1,64], got 260"),
    "huge shape": (request(tensors=[("image", "FP32", (2**62, 64))]), INVALID, "expected 1180591620717411303424 bytes"),
    "raw entries do not match inputs": (request(raw=[bytes(256)] * 2), INVALID, "each of 1 inputs, got 2"),
    "raw and contents": (contents(fp32_contents=[0.0] * 64, raw=[bytes(256)]), INVALID, "must not be mixed"),
    "neither raw nor contents": (contents(), INVALID, "expected 64 elements for FP32 [1,64], got 0"),
    "too few elements": (contents(fp32_contents=[0.0] * 63), INVALID, "expected 64 elements for FP32 [1,64], got 63"),
    "elements in another field": (
        contents(int_contents=[0] * 64),
        INVALID,
        "expected FP32 [1,64] in fp32_contents, got int_contents",
    ),
    "element out of range": (
        contents("INT8", (1, 3), "echo_int8", "x", int_contents=[1, 300, 2]),
        INVALID,
        "expected INT8 elements, got 300",
    ),
    "FP16 as contents": (
        contents("FP16", (1, 3), "echo_fp16", "x", fp32_contents=[1, 2, 3]),
        INVALID,
        "FP16 must be sent in raw_input_contents",
    ),
    "BF16 as contents": (
        contents("BF16", (1, 3), "echo_bf16", "x"),
        INVALID,
        "BF16 must be sent in raw_input_contents",
    ),
    "BYTES cut in a length": (echo_bytes(b"\1\0\0"), INVALID, "BYTES element 0 ends after the 3 bytes"),
    "BYTES cut in an element": (echo_bytes(b"\5\0\0\0abc"), INVALID, "BYTES element 0 ends after the 7 bytes"),
    "BYTES too few": (echo_bytes(b"\1\0\0\0a" * 2), INVALID, "expected 3 BYTES elements, got 2"),
    "BYTES too many": (echo_bytes(b"\1\0\0\0a" * 4), INVALID, "expected 3 BYTES elements, got more"),
    "BYTES that are no text": (echo_bytes(b"\1\0\0\0a" * 2 + b"\1\0\0\0\xff"), INVALID, "element 2 is not UTF-8"),
    "empty, with a huge dimension": (
        request("echo_fp32", [("x", "FP32", (0, 3))], [b"1234"]),
        INVALID,
        "expected 0 bytes for FP32 [0,3], got 4",
    ),
    "unknown output": (request(outputs=["logits"]), INVALID, "no output 'logits'; expected 'label' INT64 [-1], 'prob"),
    "output twice": (request(outputs=["label", "label"]), INVALID, "'label' is asked for more than once"),
    "input in unknown shared memory": (
        with_parameter(request(), "inputs", "shared_memory_region"),
        grpc.StatusCode.NOT_FOUND,
        "shared memory region 'region' is not registered",
    ),
    "output in unknown shared memory": (
        with_parameter(request(outputs=["label"]), "outputs", "shared_memory_region"),
        grpc.StatusCode.NOT_FOUND,
        "shared memory region 'region' is not registered",
    ),
    "classes of strings": (
        with_parameter(
            request("echo_bytes", [("x", "BYTES", (0, 3))], [b""], outputs=["y"]), "outputs", "classification"
        ),
        grpc.StatusCode.UNIMPLEMENTED,
        "BYTES has no classes",
    ),
    "refused by the model": (
        infer_request("pick", ("index", "INT64", np.array([2], "<i8"))),
        INVALID,
        "model pick version 1 refuses the input",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_infer_is_refused(stub, case):
    message, code, text = CASES[case]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message)
    assert caught.value.code() is code, caught.value.details()
    assert text in caught.value.details()
    response = await stub.ModelInfer(infer_request("digits", ("image", "FP32", IMAGE)))  # and the server goes on
    assert len(response.raw_output_contents) == 2


@pytest.mark.parametrize("call", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
@pytest.mark.parametrize(("name", "version"), [("nope", ""), ("digits", "2")])
async def test_unknown_models_are_not_found(stub, call, name, version):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, call)(getattr(wire, f"{call}Request")(name=name, version=version))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_one_bad_call_does_not_fail_its_batch(stub):
    indices = [i % 2 if i % 10 else 9 for i in range(100)]
    results = await asyncio.gather(
        *(stub.ModelInfer(infer_request("pick", ("index", "INT64", np.array([i], "<i8")))) for i in indices),
        return_exceptions=True,
    )
    rows = {0: np.array([1, 2], "<f4").tobytes(), 1: np.array([3, 4], "<f4").tobytes()}
    for index, result in zip(indices, results, strict=True):
        if index == 9:
            assert isinstance(result, grpc.aio.AioRpcError)
            assert result.code() is INVALID
        else:
            assert result.raw_output_contents[0] == rows[index]
