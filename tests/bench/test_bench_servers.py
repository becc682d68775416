"""The servers behind the proxies, asked by plain clients."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from bench.bulk import Bulk
from bench.errors import BenchError
from bench.generator import Generator, Target
from bench.h2load import H2load
from bench.machine import free_ports
from bench.processes import Processes
from bench.servers import BulkServer, FixedHttp, FixedHttp2, GrpcStub, Place, Server, UdpEcho
from bench.udp import Udp
from bench.wrk import Request, Wrk
from lb.wire import grpc_service_pb2 as oip
from lb.wire.services import INFERENCE, Stub

MIB = 1 << 20


@contextmanager
def serving(server: Server, directory: Path, workers: int = 1) -> Iterator[tuple[int, ...]]:
    """The ports of its endpoints, on each of which something listens."""
    ports = free_ports(server.ports + server.extra_ports)
    place = Place(directory, tuple(ports[: server.ports]), workers, 200, tuple(ports[server.ports :]))
    with Processes(directory) as processes:
        process = processes.start(server.name, server.command(place))
        for port in place.ports:
            process.wait_listening(port)
        yield place.ports


def load(generator: Generator, port: int, directory: Path) -> None:
    command = generator.command(Target(port, 1, directory), 0.2)
    counted = generator.parse(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout)
    assert not counted.errors


def ask(connection: http.client.HTTPConnection, method: str, body: bytes = b"") -> tuple[int, str | None, bytes]:
    connection.request(method, "/v2/models/m/infer", body or None)
    answer = connection.getresponse()
    return answer.status, answer.getheader("content-type"), answer.read()


@pytest.mark.parametrize(
    "server",
    [
        FixedHttp('{"ok":true}'),
        FixedHttp("x" * 5000, "text/plain"),
        FixedHttp(b"\x00'$\xff\\", "application/octet-stream"),
        FixedHttp(os.urandom(MIB), "application/octet-stream", reads=True),
        FixedHttp("", reads=True),
    ],
)
def test_fixed_http(server: FixedHttp, tmp_path: Path) -> None:
    wanted = server.body if isinstance(server.body, bytes) else server.body.encode()
    with serving(server, tmp_path) as (port,):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for method, body in (("GET", b""), ("POST", b"x" * 4000), ("GET", b""), ("POST", b"y")):
            assert ask(connection, method, body) == (200, server.content_type, wanted)
            assert connection.sock is not None  # it was not closed
        if server.reads:
            for _ in range(3):
                assert ask(connection, "POST", bytes(MIB)) == (200, server.content_type, wanted)
        connection.close()
        if server.reads and wanted:
            load(Wrk(Request("/", "POST", body=bytes(MIB)), 4), port, tmp_path)
    assert (tmp_path / "error.log").read_text() == ""  # it would say that a body went to the disk


def test_a_server_that_reads_answers_only_then(tmp_path: Path) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
    for reads in (True, False):
        directory = tmp_path / str(reads)
        directory.mkdir()
        with (
            serving(FixedHttp("ok", reads=reads), directory) as (port,),
            socket.create_connection(("127.0.0.1", port), 10) as client,
        ):
            client.sendall(head + b"12345")
            client.settimeout(0.2 if reads else 10)
            if reads:
                with pytest.raises(TimeoutError):
                    client.recv(1000)
                client.settimeout(10)
                client.sendall(b"67890")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_many_endpoints(tmp_path: Path) -> None:
    with serving(FixedHttp('{"ok":true}', ports=30), tmp_path, workers=2) as ports:
        assert len(set(ports)) == 30
        for port in ports:
            assert ask(http.client.HTTPConnection("127.0.0.1", port, timeout=10), "GET")[0] == 200


def test_grpc_stub(tmp_path: Path) -> None:
    with serving(GrpcStub(64, stream_messages=3), tmp_path) as (port,):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = Stub(channel, INFERENCE)
            assert len(stub.ModelInfer(oip.ModelInferRequest(), timeout=10).raw_output_contents[0]) == 64
            assert len(list(stub.ModelStreamInfer(iter([oip.ModelInferRequest()]), timeout=10))) == 3
        path = "/inference.GRPCInferenceService/ModelStreamInfer"
        load(H2load(Request(path, "POST", body=b"\x0a\x01m"), 2, 2, grpc=True), port, tmp_path)
    with pytest.raises(ValueError, match="size"):
        GrpcStub(stream_messages=3)


def test_fixed_http2(tmp_path: Path) -> None:
    with serving(FixedHttp2("{" + " " * 200_000 + "}"), tmp_path) as (port,):
        load(H2load(Request("/any"), 2, 2), port, tmp_path)


def test_udp_echo_and_bulk(tmp_path: Path) -> None:
    with serving(UdpEcho(), tmp_path, workers=2) as (port,):
        load(Udp(8, 100, timeout=5), port, tmp_path)
    with serving(BulkServer(), tmp_path) as (port,):
        load(Bulk(2, "both"), port, tmp_path)


def test_a_missing_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("bench.processes.program", lambda name: name)
    with pytest.raises(BenchError, match="apt-get install nginx-light"):
        FixedHttp("x").command(Place(tmp_path, (1,), 1, 10))
