"""The stub model server answers like a model server: asked by grpcio, which knows the rules."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.marked import result_line
from lb.wire import grpc_service_pb2 as oip
from lb.wire.services import INFERENCE
from lb.wire.services import Stub as ServiceStub

LIMIT = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


class Stub:
    def __init__(self, address: str, *options: str) -> None:
        command = [sys.executable, "-m", "bench.stub_grpc", "--listen", address, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().removeprefix("listening on ").strip()
        self.channel = grpc.insecure_channel(self.address, options=LIMIT)
        self.inference = ServiceStub(self.channel, INFERENCE)
        self.counted: dict[str, Any] = {}

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.process.terminate()
        output, _none = self.process.communicate(timeout=20)
        assert self.process.returncode == 0
        self.counted = result_line("stub", output)


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


@pytest.mark.parametrize(("count", "size"), [(1, 0), (100, 64), (7, 1 << 20), (5000, 16)])
def test_one_request_is_answered_by_many_messages(count: int, size: int) -> None:
    with Stub("127.0.0.1:0", "--answer", str(size), "--stream-messages", str(count)) as stub:
        answers = list(stub.inference.ModelStreamInfer(iter([infer_request(10)]), timeout=20))
    assert len(answers) == count
    assert {answer.error_message for answer in answers} == {""}
    assert {len(answer.infer_response.raw_output_contents[0]) for answer in answers} == {size}
    assert answers[-1].infer_response.outputs[0].name == "OUTPUT0"
    assert stub.counted["requests"] == 1


def test_each_message_of_a_stream_is_answered_as_it_comes(stub: Stub) -> None:
    requests: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
    answers = stub.inference.ModelStreamInfer(iter(requests.get, None), timeout=20)
    for number, size in enumerate((10, 0, 300_000, 8 << 20, 1)):
        request = infer_request(size)
        request.id = str(number)
        requests.put(request)  # the next one goes only when this one's answer is there
        answer = next(answers)
        assert not answer.error_message
        assert answer.infer_response.id == str(number)
        assert [o.name for o in answer.infer_response.outputs] == ["A", "B"]
        assert list(answer.infer_response.raw_output_contents) == [bytes(size), b"abcd"]
    requests.put(None)
    assert list(answers) == []
    assert answers.code() == grpc.StatusCode.OK


def test_a_stream_is_answered_whole_after_its_end(stub: Stub) -> None:
    answers = list(stub.inference.ModelStreamInfer((infer_request(size) for size in range(2000)), timeout=20))
    assert [len(answer.infer_response.raw_output_contents[0]) for answer in answers] == list(range(2000))
    assert list(stub.inference.ModelStreamInfer(iter([]), timeout=20)) == []


def test_each_message_of_a_stream_with_a_fixed_answer() -> None:
    with Stub("127.0.0.1:0", "--answer", "64") as stub:
        answers = list(stub.inference.ModelStreamInfer(iter([infer_request(5)] * 3), timeout=20))
    assert [len(answer.infer_response.raw_output_contents[0]) for answer in answers] == [64] * 3


def test_a_bad_message_ends_a_stream_after_the_good_ones(stub: Stub) -> None:
    call = stub.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    answers = call(iter([infer_request(1).SerializeToString(), b"\xff", b""]), timeout=20)
    assert oip.ModelStreamInferResponse.FromString(next(answers)).infer_response.id == "42"
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as caught:
        next(call(iter([b"\xff"]), timeout=20))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_many_streams_at_once(stub: Stub) -> None:
    calls = [stub.inference.ModelStreamInfer(iter([infer_request(50_000)] * 20), timeout=20) for _ in range(50)]
    for call in calls:
        assert [len(answer.infer_response.raw_output_contents[0]) for answer in call] == [50_000] * 20
    cancelled = [stub.inference.ModelStreamInfer(iter([infer_request(50_000)] * 20), timeout=20) for _ in range(50)]
    for call in cancelled:
        next(call)
        call.cancel()
    assert stub.inference.ServerLive(oip.ServerLiveRequest(), timeout=20).live


@pytest.mark.parametrize("options", [("--answer", "3"), ("--stream-messages", "3"), ("--http-answer", "@/none")])
def test_options_that_make_no_sense(options: tuple[str, str]) -> None:
    command = [sys.executable, "-m", "bench.stub_grpc", "--listen", "127.0.0.1:0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode in (1, 2)
    assert options[1] in done.stderr or options[0] in done.stderr


def test_a_taken_address() -> None:
    with Stub("127.0.0.1:0") as stub:
        command = [sys.executable, "-m", "bench.stub_grpc", "--listen", stub.address]
        again = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert again.returncode == 1
        assert stub.address in again.stderr
