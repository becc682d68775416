"""The calls of the protocol, by a real client on a real server."""

from __future__ import annotations

import asyncio
import json

import backend_models
import grpc
import numpy as np
import pytest
from backend_process import DIGITS, infer_request, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from backend.runtime import onnxruntime
from lb.wire import grpc_service_pb2 as wire
from lb.wire import model_config_pb2

SAMPLES = json.loads((DIGITS / "samples.json").read_text())
IMAGES = np.array([sample["image"] for sample in SAMPLES], np.float32)

# datatype -> (numpy type, elements of a [2,3] tensor, field of InferTensorContents)
VALUES = {
    "BOOL": ("?", [True, False, True, True, False, False], "bool_contents"),
    "UINT8": ("u1", [0, 1, 2, 3, 254, 255], "uint_contents"),
    "UINT16": ("<u2", [0, 1, 2, 3, 256, 65535], "uint_contents"),
    "UINT32": ("<u4", [0, 1, 2, 3, 65536, 2**32 - 1], "uint_contents"),
    "UINT64": ("<u8", [0, 1, 2, 3, 2**32, 2**64 - 1], "uint64_contents"),
    "INT8": ("i1", [0, 1, -1, 3, -128, 127], "int_contents"),
    "INT16": ("<i2", [0, 1, -1, 3, -32768, 32767], "int_contents"),
    "INT32": ("<i4", [0, 1, -1, 3, -(2**31), 2**31 - 1], "int_contents"),
    "INT64": ("<i8", [0, 1, -1, 3, -(2**63), 2**63 - 1], "int64_contents"),
    "FP16": ("<f2", [0.0, 1.5, -2.25, 65504.0, 6e-8, float("inf")], None),
    "FP32": ("<f4", [0.0, 1.5, -2.25, 3.4e38, 1e-45, float("-inf")], "fp32_contents"),
    "FP64": ("<f8", [0.0, 1.5, -2.25, 1e308, 5e-324, float("nan")], "fp64_contents"),
    "BF16": ("<u2", [0x0000, 0x3F80, 0xBFC0, 0x7F80, 0x0001, 0x4049], None),
}
STRINGS = [b"", b"a", b"two words", "\u00e9\u20ac".encode(), b"nul\0inside", b"x" * 1000]


def raw_strings(elements):
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)


async def test_server_calls(stub, server):
    assert (await stub.ServerLive(wire.ServerLiveRequest())).live
    assert (await stub.ServerReady(wire.ServerReadyRequest())).ready
    assert (await stub.ModelReady(wire.ModelReadyRequest(name="digits", version="1"))).ready
    metadata = await stub.ServerMetadata(wire.ServerMetadataRequest())
    assert metadata.name == "tidegate-backend"
    assert metadata.version
    assert list(metadata.extensions) == [
        "binary_tensor_data",
        "classification",
        "generate",
        "logging",
        "model_configuration",
        "sequence",
        "statistics",
        "system_shared_memory",
    ]
    until(lambda: "model digits version 1: asked [cpu], running on CPUExecutionProvider" in server.log, "no log")


async def test_metadata(stub):
    answer = await stub.ModelMetadata(wire.ModelMetadataRequest(name="digits"))
    assert (answer.name, list(answer.versions), answer.platform) == ("digits", ["1"], "onnxruntime_onnx")
    tensors = [(t.name, t.datatype, list(t.shape)) for t in (*answer.inputs, *answer.outputs)]
    assert tensors == [("image", "FP32", [-1, 64]), ("label", "INT64", [-1]), ("probabilities", "FP32", [-1, 10])]


async def test_config(stub):
    batching = (await stub.ModelConfig(wire.ModelConfigRequest(name="scale"))).config
    assert (batching.name, batching.platform, batching.max_batch_size) == ("scale", "onnxruntime_onnx", 32)
    assert [(i.name, i.data_type, list(i.dims)) for i in batching.input] == [("x", model_config_pb2.TYPE_FP32, [2])]
    assert batching.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert batching.instance_group[0].count == 2
    plain = (await stub.ModelConfig(wire.ModelConfigRequest(name="mixing"))).config
    assert plain.max_batch_size == 0
    assert list(plain.input[0].dims) == [-1, 2]
    assert plain.WhichOneof("scheduling_choice") is None


async def test_config_of_a_model_with_one_dimensional_tensors(stub):
    """Merged or not, Triton's perf_analyzer cannot make tensors whose dims are empty."""
    config = (await stub.ModelConfig(wire.ModelConfigRequest(name="digits"))).config
    assert config.max_batch_size == 0
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[-1, 64], [-1], [-1, 10]]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"


async def test_repository_index(stub):
    answer = await stub.RepositoryIndex(wire.RepositoryIndexRequest(ready=True))
    models = [(model.name, model.version, model.state) for model in answer.models]
    assert ("digits", "1", "READY") in models
    assert [version for name, version, _ in models if name == "scale"] == ["2", "10"]
    assert not {"README", ".hidden"} & {name for name, _, _ in models}


@pytest.mark.parametrize("call", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_models_cannot_be_loaded_at_run_time(stub, call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, call)(getattr(wire, f"{call}Request")(model_name="digits"))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "--model-control-mode explicit only, and this server's is none" in caught.value.details()


async def test_health_and_reflection(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names


async def test_answers_equal_those_of_onnxruntime(stub, repository):
    response = await stub.ModelInfer(infer_request("digits", ("image", "FP32", IMAGES), id="a-7"))
    session = onnxruntime.InferenceSession(repository / "digits/1/model.onnx", providers=["CPUExecutionProvider"])
    label, probabilities = session.run(["label", "probabilities"], {"image": IMAGES})
    assert (response.model_name, response.model_version, response.id) == ("digits", "1", "a-7")
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("label", "INT64", [16]),
        ("probabilities", "FP32", [16, 10]),
    ]
    np.testing.assert_array_equal(np.frombuffer(response.raw_output_contents[0], "<i8"), label)
    np.testing.assert_allclose(
        np.frombuffer(response.raw_output_contents[1], "<f4").reshape(16, 10), probabilities, rtol=1e-5, atol=1e-7
    )
    right = np.frombuffer(response.raw_output_contents[0], "<i8") == [sample["label"] for sample in SAMPLES]
    assert right.mean() > 0.9


async def test_concurrent_requests_get_their_own_answers(stub):
    """More at once than runs are allowed, so they are merged; every client still gets the row it asked for."""
    responses = await asyncio.gather(
        *(
            stub.ModelInfer(infer_request("digits", ("image", "FP32", IMAGES[i % 16 : i % 16 + 1]), id=str(i)))
            for i in range(200)
        )
    )
    alone = [await stub.ModelInfer(infer_request("digits", ("image", "FP32", IMAGES[i : i + 1]))) for i in range(16)]
    for index, response in enumerate(responses):
        assert response.id == str(index)
        assert list(response.outputs[1].shape) == [1, 10]
        assert response.raw_output_contents[0] == alone[index % 16].raw_output_contents[0]
        np.testing.assert_allclose(
            np.frombuffer(response.raw_output_contents[1], "<f4"),
            np.frombuffer(alone[index % 16].raw_output_contents[1], "<f4"),
            rtol=1e-4,
            atol=1e-7,
        )


async def test_requested_outputs_come_in_the_order_asked_for(stub):
    for names in (["probabilities"], ["probabilities", "label"]):
        outputs = [wire.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names]
        response = await stub.ModelInfer(infer_request("digits", ("image", "FP32", IMAGES[:2]), outputs=outputs))
        assert [output.name for output in response.outputs] == names
        assert [len(raw) for raw in response.raw_output_contents] == [
            {"probabilities": 80, "label": 16}[n] for n in names
        ]


@pytest.mark.parametrize("datatype", VALUES)
async def test_every_datatype_passes_raw(stub, datatype):
    dtype, values, _ = VALUES[datatype]
    array = np.array(values, dtype).reshape(2, 3)
    response = await stub.ModelInfer(infer_request(f"echo_{datatype.lower()}", ("x", datatype, array)))
    assert response.outputs[0].datatype == datatype
    assert list(response.outputs[0].shape) == [2, 3]
    assert response.raw_output_contents[0] == array.tobytes()


@pytest.mark.parametrize("datatype", [name for name, (_, _, field) in VALUES.items() if field])
async def test_every_datatype_passes_as_contents(stub, datatype):
    dtype, values, field = VALUES[datatype]
    request = wire.ModelInferRequest(model_name=f"echo_{datatype.lower()}")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[2, 3])
    getattr(tensor.contents, field).extend(values)
    response = await stub.ModelInfer(request)
    assert response.raw_output_contents[0] == np.array(values, dtype).tobytes()


async def test_a_boolean_of_another_value_is_true(stub):
    request = wire.ModelInferRequest(model_name="echo_bool", raw_input_contents=[b"\0\1\2\0\xff\0"])
    request.inputs.add(name="x", datatype="BOOL", shape=[2, 3])
    request.inputs[0].parameters["any"].bool_param = True
    response = await stub.ModelInfer(request)
    assert response.raw_output_contents[0] == b"\0\1\1\0\1\0"


@pytest.mark.parametrize("form", ["raw", "contents"])
async def test_bytes_pass(stub, form):
    request = wire.ModelInferRequest(model_name="echo_bytes")
    tensor = request.inputs.add(name="x", datatype="BYTES", shape=[2, 3])
    if form == "raw":
        request.raw_input_contents.append(raw_strings(STRINGS))
    else:
        tensor.contents.bytes_contents.extend(STRINGS)
    response = await stub.ModelInfer(request)
    assert response.outputs[0].datatype == "BYTES"
    assert response.raw_output_contents[0] == raw_strings(STRINGS)


@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "BF16"])
async def test_empty_tensors_pass(stub, datatype):
    request = wire.ModelInferRequest(model_name=f"echo_{datatype.lower()}", raw_input_contents=[b""])
    request.inputs.add(name="x", datatype=datatype, shape=[0, 3])
    response = await stub.ModelInfer(request)
    assert list(response.outputs[0].shape) == [0, 3]
    assert list(response.raw_output_contents) == [b""]


async def test_scalars_pass(stub):
    response = await stub.ModelInfer(infer_request("slow", ("count", "INT64", np.array(7, "<i8"))))
    assert list(response.outputs[0].shape) == []
    assert np.frombuffer(response.raw_output_contents[0], "<i8") == [7]


@pytest.mark.parametrize(("version", "used", "factor"), [("", "10", 10), ("10", "10", 10), ("2", "2", 2)])
async def test_versions(stub, version, used, factor):
    x = np.array([[1, 2]], np.float32)
    response = await stub.ModelInfer(infer_request("scale", ("x", "FP32", x), model_version=version))
    assert response.model_version == used
    assert response.raw_output_contents[0] == (x * factor).tobytes()


async def test_statistics_count(stub):
    async def read():
        answer = await stub.ModelStatistics(wire.ModelStatisticsRequest(name="scale", version="2"))
        assert [(s.name, s.version) for s in answer.model_stats] == [("scale", "2")]
        return answer.model_stats[0]

    before = await read()
    x = np.ones((3, 2), np.float32)
    await stub.ModelInfer(infer_request("scale", ("x", "FP32", x), model_version="2"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.ModelInfer(infer_request("scale", ("x", "FP32", x[:, :1]), model_version="2"))
    after = await read()
    assert after.inference_count - before.inference_count == 3
    assert after.execution_count - before.execution_count == 1
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert 3 in {batch.batch_size for batch in after.batch_stats}
    assert after.last_inference >= before.last_inference > -1
    everything = await stub.ModelStatistics(wire.ModelStatisticsRequest())
    assert len(everything.model_stats) == len(backend_models.ELEMENTS) + 6


async def test_stream(stub):
    good = infer_request("pick", ("index", "INT64", np.array([1], "<i8")), id="good")
    bad = infer_request("pick", ("index", "INT64", np.array([5], "<i8")), id="bad")
    last = infer_request("pick", ("index", "INT64", np.array([0], "<i8")), id="last")
    last.parameters["triton_enable_empty_final_response"].bool_param = True
    answers = [answer async for answer in stub.ModelStreamInfer(iter([good, bad, last]))]
    assert [answer.infer_response.id for answer in answers] == ["good", "bad", "last"]
    assert answers[0].infer_response.raw_output_contents[0] == np.array([3, 4], "<f4").tobytes()
    assert "refuses the input" in answers[1].error_message
    for answer in (answers[0], answers[2]):  # asked for or not, as from Triton
        assert answer.infer_response.parameters["triton_final_response"].bool_param


async def test_each_answer_of_a_stream_that_python_makes_is_marked_as_the_last(stub):
    request = infer_request("scale", ("x", "FP32", np.ones((1, 2), np.float32)))
    request.outputs.add(name="y").parameters["classification"].int64_param = 1
    answers = [answer async for answer in stub.ModelStreamInfer(iter([request]))]
    assert answers[0].error_message == ""
    assert answers[0].infer_response.parameters["triton_final_response"].bool_param
    assert "triton_final_response" not in (await stub.ModelInfer(request)).parameters
