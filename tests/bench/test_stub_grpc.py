"""The stub model server answers like a model server: asked by grpcio, which knows the rules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lb.wire import grpc_service_pb2 as oip
from lb.wire import grpc_service_pb2_grpc as oip_grpc

LIMIT = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


class Stub:
    def __init__(self, address: str, *options: str) -> None:
        command = [sys.executable, "-m", "bench.stub_grpc", "--listen", address, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().removeprefix("listening on ").strip()
        self.channel = grpc.insecure_channel(self.address, options=LIMIT)
        self.inference = oip_grpc.GRPCInferenceServiceStub(self.channel)

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.process.terminate()
        assert self.process.wait(20) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(params=["tcp", "unix"])
def stub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stub]:
    with Stub("127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/s") as stub:
        yield stub


def infer_request(size: int) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(
        model_name="m", model_version="3", id="42", raw_input_contents=[bytes(size), b"abcd"]
    )
    request.parameters["p"].int64_param = 7
    for name, length in (("A", size), ("B", 4)):
        request.inputs.add(name=name, datatype="UINT8", shape=[1, length])
    request.outputs.add(name="C")
    return request


@pytest.mark.parametrize("size", [0, 4096, 20 << 20])
def test_echo(stub: Stub, size: int) -> None:
    response = stub.inference.ModelInfer(infer_request(size), timeout=20)
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "42")
    assert response.parameters["p"].int64_param == 7
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("A", "UINT8", [1, size]),
        ("B", "UINT8", [1, 4]),
    ]
    assert list(response.raw_output_contents) == [bytes(size), b"abcd"]


def test_the_small_methods(stub: Stub) -> None:
    assert stub.inference.ServerLive(oip.ServerLiveRequest(), timeout=20).live
    assert stub.inference.ServerReady(oip.ServerReadyRequest(), timeout=20).ready
    assert stub.inference.ModelReady(oip.ModelReadyRequest(name="m"), timeout=20).ready
    assert stub.inference.ServerMetadata(oip.ServerMetadataRequest(), timeout=20).name == "stub"
    metadata = stub.inference.ModelMetadata(oip.ModelMetadataRequest(name="m", version="3"), timeout=20)
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("m", ["3"], "stub")
    check = health_pb2_grpc.HealthStub(stub.channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert check.status == health_pb2.HealthCheckResponse.SERVING


def test_what_it_does_not_know(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.channel.unary_unary("/x.Y/Z")(b"", timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as caught:
        stub.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\xff", timeout=20)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_fixed_answer() -> None:
    with Stub("127.0.0.1:0", "--answer", "4096") as stub:
        response = stub.inference.ModelInfer(infer_request(10), timeout=20)
        assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [("OUTPUT0", "FP32", [1, 1024])]
        assert len(response.raw_output_contents[0]) == 4096


def test_a_taken_address() -> None:
    with Stub("127.0.0.1:0") as stub:
        command = [sys.executable, "-m", "bench.stub_grpc", "--listen", stub.address]
        again = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert again.returncode == 1
        assert stub.address in again.stderr
