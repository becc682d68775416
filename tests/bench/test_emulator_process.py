"""A real fleet, asked over real sockets by http.client and grpcio. Lower bounds of time are exact; there are no upper
ones but the timeouts, so a busy machine breaks nothing.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import ngh2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.emulator.answers import INFER
from bench.emulator.client import ControlClient
from bench.emulator.control import ClearNow, FailNow, ServeAs, SlowNow, StallNow
from bench.emulator.http2 import PREFACE
from bench.emulator.spec import Batched, Constant, Exponential, Fleet, Parallel, Serial, ServerSpec, Service, Stall
from bench.errors import BenchError
from lb.wire import grpc_service_pb2 as oip
from lb.wire import grpc_service_pb2_grpc as oip_grpc

MS = 1_000_000
TIMEOUT = 20
LIMIT = [("grpc.max_receive_message_length", 64 << 20)]


class Running:
    """A started fleet: its ports, its control port, and ways to ask."""

    def __init__(self, process: subprocess.Popen[str], ports: list[int], control: int) -> None:
        self.process = process
        self.ports = ports
        self.control = ControlClient(control)

    def stats(self, server: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = self.control.stats()["servers"][server]
        return found

    def wait(self, right: Callable[[dict[str, Any]], bool], server: int = 0) -> dict[str, Any]:
        """The first statistics that are right."""
        limit = time.monotonic() + TIMEOUT
        while not right(stats := self.stats(server)):
            assert time.monotonic() < limit, stats
        return stats

    def get(self, server: int = 0, method: str = "GET", path: str = "/") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[server], timeout=TIMEOUT)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def connect(self, server: int = 0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[server]), timeout=TIMEOUT)

    @contextmanager
    def channel(self, server: int = 0) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(f"127.0.0.1:{self.ports[server]}", options=LIMIT) as channel:
            yield channel


@contextmanager
def running(tmp_path: Path, *services: Service, **options: Any) -> Iterator[Running]:
    servers = tuple(ServerSpec(0, service) for service in services)
    with running_fleet(tmp_path, Fleet(servers, 0, **options)) as fleet:
        yield fleet


@contextmanager
def running_fleet(tmp_path: Path, fleet: Fleet) -> Iterator[Running]:
    file = tmp_path / "fleet.json"
    file.write_text(fleet.to_json())
    command = [sys.executable, "-m", "bench.emulator", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            words = process.stdout.readline().split()
            assert words[:2] == ["listening", "on"], process.stderr.read()
            yield Running(process, [int(port) for port in words[2:-2]], int(words[-1]))
        finally:
            process.terminate()
            code = process.wait(TIMEOUT)
        assert (code, process.stderr.read()) == (0, "")


def infer(channel: grpc.Channel) -> oip.ModelInferResponse:
    stub = oip_grpc.GRPCInferenceServiceStub(channel)
    response: oip.ModelInferResponse = stub.ModelInfer(oip.ModelInferRequest(model_name="model"), timeout=TIMEOUT)
    return response


def adds_up(stats: dict[str, Any]) -> bool:
    ends = ("answered", "failed", "rejected", "cancelled", "in_flight")
    return bool(stats["received"] == sum(stats[name] for name in ends))


SLOW = Service(Serial(Constant(3_600_000.0)))


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


def test_the_small_methods_and_an_unknown_one(tmp_path: Path) -> None:
    with running(tmp_path, SLOW) as fleet, fleet.channel() as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
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


def test_serial_executions_wait_for_one_another(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(60.0)))) as fleet, ThreadPoolExecutor(4) as pool:
        began = time.monotonic_ns()
        assert {status for status, _ in pool.map(lambda _: fleet.get(), range(4))} == {200}
        assert time.monotonic_ns() - began >= 240 * MS
        assert fleet.stats()["busy_ns"] == pytest.approx(240 * MS, abs=4)


def test_a_batch_starts_when_it_is_full(tmp_path: Path) -> None:
    batched = Batched(max_batch=4, max_wait_ms=3_600_000.0, fixed_ms=5.0, per_item_ms=1.0)
    with running(tmp_path, Service(batched)) as fleet, fleet.channel() as channel, ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(infer, channel) for _ in range(3)]
        fleet.wait(lambda stats: stats["waiting"] == 3)
        assert fleet.stats()["executing"] == 0
        assert fleet.get()[0] == 200
        assert all(future.result(TIMEOUT).model_name == "model" for future in futures)
        assert fleet.stats()["busy_ns"] == 9 * MS


def test_clients_that_go_away_free_the_queue(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(1.0)))) as fleet, fleet.channel() as channel:
        fleet.control.plan(StallNow())
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer.future(oip.ModelInferRequest(), timeout=TIMEOUT) for _ in range(5)]
        client = fleet.connect()
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert fleet.wait(lambda stats: stats["waiting"] == 6)["queue_max"] == 6
        calls[1].cancel()
        calls[3].cancel()
        client.close()
        assert fleet.wait(lambda stats: stats["waiting"] == 3)["cancelled"] == 3
        fleet.control.plan(ClearNow())
        assert all(calls[i].result(TIMEOUT).model_name == "model" for i in (0, 2, 4))
        stats = fleet.stats()
        assert (stats["answered"], stats["busy_ns"]) == (3, 3 * MS)
        assert adds_up(stats)


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


def test_a_stall_now_holds_answers_until_its_end(tmp_path: Path) -> None:
    with running(tmp_path, Service(), Service()) as fleet, fleet.channel() as channel:
        infer(channel)
        begun = fleet.control.plan(StallNow(servers=(0,), for_ms=300.0))
        assert fleet.get(1)[0] == 200
        assert fleet.stats(0)["answered"] == 1
        infer(channel)
        assert time.monotonic_ns() >= begun + 300 * MS
        # A stalled process answers its health checks no sooner.
        begun = fleet.control.plan(StallNow(servers=(0,), for_ms=300.0))
        assert fleet.get(path="/v2/health/live")[0] == 200
        assert time.monotonic_ns() >= begun + 300 * MS


def test_a_stall_delays_what_is_under_way(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(50.0)))) as fleet, ThreadPoolExecutor(1) as pool:
        future = pool.submit(fleet.get)
        fleet.wait(lambda stats: stats["executing"] == 1)
        begun = fleet.control.plan(StallNow(for_ms=250.0))
        assert future.result(TIMEOUT)[0] == 200
        assert time.monotonic_ns() >= begun + 250 * MS


def test_planned_windows_count_from_start(tmp_path: Path) -> None:
    with running(tmp_path, Service(stalls=(Stall(0.0, 300.0),)), epoch="start") as fleet:
        assert fleet.control.stats()["epoch_ns"] is None
        assert fleet.get()[0] == 200
        ahead = time.monotonic_ns() + 3600_000 * MS
        assert fleet.control.start(ahead) == ahead
        assert fleet.get()[0] == 200
        epoch = fleet.control.start()
        assert fleet.get()[0] == 200
        assert time.monotonic_ns() >= epoch + 300 * MS
        assert fleet.control.stats()["epoch_ns"] == epoch


def test_planned_windows_count_from_the_process(tmp_path: Path) -> None:
    with running(tmp_path, Service(stalls=(Stall(0.0, 1500.0),))) as fleet:
        epoch = fleet.control.stats()["epoch_ns"]
        assert fleet.get()[0] == 200
        assert time.monotonic_ns() >= epoch + 1500 * MS


def test_slower_by_a_factor(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(20.0)))) as fleet:
        fleet.control.plan(SlowNow(10.0))
        began = time.monotonic_ns()
        assert fleet.get()[0] == 200
        assert time.monotonic_ns() - began >= 200 * MS
        fleet.control.plan(ClearNow())
        before = fleet.stats()["busy_ns"]
        assert fleet.get()[0] == 200
        assert fleet.stats()["busy_ns"] - before == 20 * MS


def test_another_service_while_it_runs(tmp_path: Path) -> None:
    with running(tmp_path, SLOW, SLOW) as fleet:
        fleet.control.plan(ServeAs(Service(), servers=(1,)))
        assert fleet.get(1)[0] == 200


def test_failures_are_answered_and_counted(tmp_path: Path) -> None:
    with running(tmp_path, Service()) as fleet, fleet.channel() as channel:
        fleet.control.plan(FailNow())
        assert fleet.get() == (503, b'{"error": "planned failure"}')
        assert fleet.get(path="/v2/health/ready")[0] == 503
        with pytest.raises(grpc.RpcError) as caught:
            infer(channel)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        fleet.control.plan(ClearNow())
        assert fleet.get()[0] == 200
        assert infer(channel).model_name == "model"
        stats = fleet.stats()
        assert (stats["received"], stats["failed"], stats["answered"]) == (4, 2, 2)


def test_a_reset_takes_the_connection_with_all_that_is_on_it(tmp_path: Path) -> None:
    with running(tmp_path, SLOW) as fleet, fleet.channel() as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        under_way = [stub.ModelInfer.future(oip.ModelInferRequest(), timeout=TIMEOUT) for _ in range(2)]
        fleet.wait(lambda stats: stats["in_flight"] == 2)
        fleet.control.plan(FailNow(how="reset"))
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
            fleet.get()
        with pytest.raises(grpc.RpcError) as caught:
            infer(channel)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert [call.code() for call in under_way] == [grpc.StatusCode.UNAVAILABLE] * 2
        stats = fleet.stats()
        assert (stats["failed"], stats["cancelled"], stats["in_flight"]) == (stats["received"], 0, 0)


def test_a_full_queue_refuses(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(3_600_000.0)), max_queue=1)) as fleet:
        kept = []
        for count in (1, 2):
            kept.append(fleet.connect())
            kept[-1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            fleet.wait(lambda stats, count=count: stats["in_flight"] == count)  # type: ignore[misc]
        assert fleet.get() == (503, b'{"error": "the queue is full"}')
        with fleet.channel() as channel, pytest.raises(grpc.RpcError) as caught:
            infer(channel)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        stats = fleet.stats()
        assert (stats["rejected"], stats["queue_max"], stats["in_flight"]) == (2, 1, 2)
        for client in kept:
            client.close()


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
def test_the_forms_of_http1(tmp_path: Path, request_: bytes, begins: bytes, ends: bytes) -> None:
    with running(tmp_path, Service()) as fleet, fleet.connect() as client:
        client.sendall(request_)
        with client.makefile("rb") as file:
            answer = file.read()  # to the end of the connection
        assert answer.startswith(begins)
        assert answer.endswith(ends)
        assert answer.count(b"HTTP/1.1 2") == begins.count(b"HTTP/1.1 2")


def test_a_preface_may_come_in_pieces(tmp_path: Path) -> None:
    with running(tmp_path, Service()) as fleet, fleet.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(PREFACE[:7])
        fleet.wait(lambda stats: stats["connections"] == 1)
        client.sendall(PREFACE[7:] + b"\0\0\0\x04\0\0\0\0\0")
        assert client.recv(9)[3] == 4  # RFC 9113, section 3.4: the server's preface is a SETTINGS frame


def test_bad_http2_gets_a_goaway_and_the_end(tmp_path: Path) -> None:
    with running(tmp_path, Service()) as fleet, fleet.connect() as client:
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


def test_the_seed_decides_the_times(tmp_path: Path) -> None:
    busy = []
    for seed in (1, 1, 2):
        with running(tmp_path, Service(Serial(Exponential(2.0))), seed=seed) as fleet:
            for _ in range(5):
                fleet.get()
            busy.append(fleet.stats()["busy_ns"])
    assert busy[0] == busy[1] != busy[2]


def test_lateness_is_told(tmp_path: Path) -> None:
    with running(tmp_path, Service(Serial(Constant(1.0)))) as fleet:
        for _ in range(3):
            fleet.get()
        lateness = fleet.control.stats()["lateness"]
        assert lateness["ticks"] == 3
        assert 0 < lateness["late_mean_ns"] <= lateness["late_max_ns"]


def test_the_control_port_refuses_with_a_reason(tmp_path: Path) -> None:
    with running(tmp_path, Service()) as fleet:
        with pytest.raises(BenchError, match="there is no server 7"):
            fleet.control.plan(StallNow(servers=(7,)))
        with pytest.raises(BenchError, match=r"plan: .*factor"):
            fleet.control._ask("POST", "/plan", b'{"do": "slow", "factor": 0.5}')
        with pytest.raises(BenchError, match="takes POST"):
            fleet.control._ask("GET", "/start", None)
        with pytest.raises(BenchError, match=r"there is no /x; there are /stats"):
            fleet.control._ask("GET", "/x", None)
    with pytest.raises(BenchError, match="does not answer"):
        fleet.control.stats()


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "bench.emulator", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.returncode == 1
    assert str(port) in ended.stderr
    assert ended.stderr.count("\n") == 1
