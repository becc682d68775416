"""What emulated servers say over the wire, asked by http.client, grpcio and plain sockets."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import ngh2
import pytest
from emulator_fleet import SLOW, TIMEOUT, Running, infer, running, running_fleet
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.emulator.answers import INFER
from bench.emulator.distributions import MS
from bench.emulator.http2 import PREFACE
from bench.emulator.spec import Constant, Exponential, Fleet, Parallel, Serial, ServerSpec, Service
from lb.wire import grpc_service_pb2 as oip
from lb.wire.services import INFERENCE, Stub


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that answers at once, for tests that need no other."""
    with running(tmp_path_factory.mktemp("plain"), Service()) as fleet:
        yield fleet


def test_one_port_speaks_both_and_counts_both(tmp_path: Path) -> None:
    with running(tmp_path, Service(Parallel(Exponential(1.0), 4)), Service()) as fleet:
        for _ in range(20):
            status, body = fleet.get()
            assert status == 200
            assert b'"model_name":"model"' in body
        with fleet.channel() as channel:
            for _ in range(30):
                assert len(infer(channel).raw_output_contents[0]) == 64
        stats = fleet.stats()
        assert (stats["received"], stats["answered"], stats["in_flight"]) == (50, 50, 0)
        assert stats["connections"] == 21
        assert stats["busy_ns"] > 0
        assert fleet.stats(1)["received"] == 0


def test_the_batch_is_read_where_the_time_goes_by_it(tmp_path: Path) -> None:
    service = Service(Serial(Constant(2.0), per_item=True))
    with running(tmp_path, service) as fleet, fleet.channel() as channel:
        message = oip.ModelInferRequest(model_name="model")
        message.inputs.add(name="x", datatype="FP32", shape=[20, 3])
        Stub(channel, INFERENCE).ModelInfer(message, timeout=TIMEOUT)
        assert fleet.stats()["busy_ns"] >= 40 * MS
        connection = http.client.HTTPConnection("127.0.0.1", fleet.ports[0], timeout=TIMEOUT)
        for body in (b'{"inputs":[{"name":"x","shape": [30,1]}]}', b"no shape"):
            connection.request("POST", "/v2/models/model/infer", body)
            assert connection.getresponse().read()
        connection.close()
        assert 100 * MS <= fleet.stats()["busy_ns"] < 140 * MS


def test_the_small_methods_and_an_unknown_one(tmp_path: Path) -> None:
    with running(tmp_path, SLOW) as fleet, fleet.channel() as channel:
        stub = Stub(channel, INFERENCE)
        waiting = stub.ModelInfer.future(oip.ModelInferRequest(model_name="model"), timeout=TIMEOUT)
        fleet.wait(lambda stats: stats["executing"] == 1)
        # None of these waits for the execution that goes on.
        assert stub.ServerLive(oip.ServerLiveRequest(), timeout=TIMEOUT).live
        assert stub.ServerReady(oip.ServerReadyRequest(), timeout=TIMEOUT).ready
        assert stub.ModelReady(oip.ModelReadyRequest(name="model"), timeout=TIMEOUT).ready
        assert stub.ServerMetadata(oip.ServerMetadataRequest(), timeout=TIMEOUT).name == "bench.emulator"
        assert stub.ModelMetadata(oip.ModelMetadataRequest(name="model"), timeout=TIMEOUT).outputs[0].shape == [1, 16]
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert fleet.get(path="/v2/health/ready")[0] == 200
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/x.Y/Z")(b"", timeout=TIMEOUT)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        stats = fleet.stats()
        assert (stats["checks"], stats["received"], stats["in_flight"]) == (7, 1, 1)
        waiting.cancel()


def test_a_lost_connection_cancels_all_its_streams(tmp_path: Path) -> None:
    session = ngh2.Connection(ngh2.Role.CLIENT)
    session.initiate_connection()
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", INFER)]
    for _ in range(9):
        session.send_request([*fields, (b"content-type", b"application/grpc")], end_stream=True)
    with running(tmp_path, SLOW) as fleet:
        with fleet.connect() as client:
            client.sendall(session.data_to_send())
            fleet.wait(lambda stats: stats["in_flight"] == 9)
        stats = fleet.wait(lambda stats: stats["in_flight"] == 0)
        # What is executed cannot be taken back; the client is gone all the same.
        assert (stats["cancelled"], stats["waiting"], stats["executing"]) == (9, 0, 1)


def test_pipelined_requests_are_answered_one_by_one(tmp_path: Path) -> None:
    with running(tmp_path, Service()) as fleet, fleet.connect() as client, client.makefile("rb") as answers:
        count = 3000
        with ThreadPoolExecutor(1) as pool:
            pool.submit(client.sendall, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * count)
            for _ in range(count):
                assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
                while (line := answers.readline()) != b"\r\n":
                    if line.startswith(b"Content-Length: "):
                        length = int(line.split()[1])
                answers.read(length)
        assert fleet.stats()["answered"] == count


def test_a_pipelined_request_begins_when_the_one_before_is_answered(tmp_path: Path) -> None:
    with running(tmp_path, SLOW) as fleet, fleet.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        stats = fleet.wait(lambda stats: stats["received"] > 0)
        assert (stats["received"], stats["executing"], stats["waiting"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("request_", "begins", "ends"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"}"),
        (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"}"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nPRI", b"HTTP/1.1 200 OK\r\n", b"}"),
        (b"\x16\x03\x01 no HTTP at all\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"close\r\n\r\n"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
            b"}",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"}",
        ),
    ],
    ids=["close", "http1.0", "head", "upgrade", "garbage", "expect", "chunked"],
)
def test_the_forms_of_http1(plain: Running, request_: bytes, begins: bytes, ends: bytes) -> None:
    with plain.connect() as client:
        client.sendall(request_)
        with client.makefile("rb") as file:
            answer = file.read()  # to the end of the connection
        assert answer.startswith(begins)
        assert answer.endswith(ends)
        assert answer.count(b"HTTP/1.1 2") == begins.count(b"HTTP/1.1 2")


def test_a_preface_may_come_in_pieces(plain: Running) -> None:
    before = plain.stats()["connections"]
    with plain.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(PREFACE[:7])
        plain.wait(lambda stats: stats["connections"] > before)
        client.sendall(PREFACE[7:] + b"\0\0\0\x04\0\0\0\0\0")
        assert client.recv(9)[3] == 4  # RFC 9113, section 3.4: the server's preface is a SETTINGS frame


def test_bad_http2_gets_a_goaway_and_the_end(plain: Running) -> None:
    with plain.connect() as client:
        client.sendall(PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x01\x06\0\0\0\0\0x")
        with client.makefile("rb") as file:
            frames = file.read()
        kinds = []
        while frames:
            kinds.append(frames[3])
            frames = frames[9 + int.from_bytes(frames[:3]) :]
        assert kinds[-1] == 7


def test_large_answers_and_headers(tmp_path: Path) -> None:
    spec = ServerSpec(0, answer_bytes=8 << 20, headers=(("Cache-Control", "max-age=60"),))
    with running_fleet(tmp_path, Fleet((spec,), 0)) as fleet, fleet.channel() as channel:
        assert len(infer(channel).raw_output_contents[0]) == 8 << 20
        connection = http.client.HTTPConnection("127.0.0.1", fleet.ports[0], timeout=TIMEOUT)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.headers["Cache-Control"] == "max-age=60"
        assert len(answer.read()) > 8 << 20
        connection.close()
