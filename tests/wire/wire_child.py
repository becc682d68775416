"""What test_wire_releases.py runs with another release of protobuf: exits with an error where something differs.

wire_child.py [triton]: with tritonclient's generated code in the same process, and its client as the peer.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google.protobuf

if sys.argv[1:] == ["triton"]:
    import tritonclient.grpc as triton

import grpc
import pytest

from lb.wire import grpc_service_pb2, health_pb2, model_config_pb2, orca_load_report_pb2, orca_service_pb2
from lb.wire.services import INFERENCE, Stub, serve


class Servicer:
    """Answers with the input that it was sent; has no other method of the service."""

    def ServerLive(self, _request: Any, _context: Any) -> Any:
        return grpc_service_pb2.ServerLiveResponse(live=True)

    def ModelInfer(self, request: Any, _context: Any) -> Any:
        answer = grpc_service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        given = request.inputs[0]
        answer.outputs.add(name="y", datatype=given.datatype, shape=given.shape)
        answer.raw_output_contents.extend(request.raw_input_contents)
        return answer


def fields_of(message: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Every field below a message: number, type, names of an enum's values."""
    if message.full_name not in found:
        found[message.full_name] = {
            field.name: (field.number, field.type, field.enum_type and sorted(field.enum_type.values_by_name))
            for field in message.fields
        }
        for field in message.fields:
            if field.message_type is not None:
                fields_of(field.message_type, found)
    return found


def check_configuration() -> None:
    """Every `config.pbtxt` of Triton's can be read: names and numbers are the same."""
    from tritonclient.grpc import model_config_pb2 as theirs

    mine = fields_of(model_config_pb2.ModelConfig.DESCRIPTOR, {})
    assert mine == fields_of(theirs.ModelConfig.DESCRIPTOR, {})


def check_messages() -> None:
    request = grpc_service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"\0" * 8])
    request.inputs.add(name="x", datatype="FP32", shape=[2]).parameters["n"].int64_param = -1
    request.parameters["priority"].uint64_param = 1 << 63
    assert grpc_service_pb2.ModelInferRequest.FromString(request.SerializeToString()) == request
    assert model_config_pb2.DataType.Value("TYPE_FP32") == model_config_pb2.TYPE_FP32 == 11
    config = model_config_pb2.ModelConfig(name="m", max_batch_size=8)
    config.input.add(name="x", data_type=model_config_pb2.TYPE_INT64, dims=[-1])
    assert 'name: "m"' in str(config)
    asked = orca_service_pb2.OrcaLoadReportRequest()
    asked.report_interval.FromNanoseconds(1_500_000_000)
    assert orca_service_pb2.OrcaLoadReportRequest.FromString(asked.SerializeToString()).report_interval.seconds == 1
    assert orca_load_report_pb2.OrcaLoadReport(named_metrics={"queue": 2.5}).named_metrics["queue"] == 2.5
    serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
    assert serving.SerializeToString() == b"\x08\x01"
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(serving.status) == "SERVING"


def check_calls(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = Stub(channel, INFERENCE)
        request = grpc_service_pb2.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"four"])
        request.inputs.add(name="x", datatype="FP32", shape=[1])
        answer = stub.ModelInfer(request, timeout=20)
        assert (answer.id, answer.outputs[0].name, list(answer.raw_output_contents)) == ("7", "y", [b"four"])
        with pytest.raises(grpc.RpcError) as refused:
            stub.ServerReady(grpc_service_pb2.ServerReadyRequest(), timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def check_triton(port: int) -> None:
    import numpy as np

    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert client.is_server_live()
        given = triton.InferInput("x", [1, 2], "FP32")
        given.set_data_from_numpy(np.array([[1, 2]], np.float32))
        assert client.infer("m", [given]).as_numpy("y").tolist() == [[1, 2]]


def main() -> None:
    check_messages()
    if sys.argv[1:] == ["triton"]:
        check_configuration()
    server = grpc.server(ThreadPoolExecutor(2))
    serve(server, INFERENCE, Servicer())
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    check_calls(port)
    if sys.argv[1:] == ["triton"]:
        check_triton(port)
    server.stop(None).wait()
    print(google.protobuf.__version__)


main()
