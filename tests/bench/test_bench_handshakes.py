"""Full handshakes: the server says that no session was resumed."""

from __future__ import annotations

import collections
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.handshakes import Handshakes
from bench.machine import free_ports
from bench.nginx_conf import http_defaults, main_section
from bench.processes import Processes, require


@dataclass
class Tls:
    """nginx with TLS and everything that lets clients resume sessions; it notes each handshake."""

    port: int
    directory: Path
    processes: Processes

    def handshakes(self) -> list[str]:
        """`PROTOCOL RESUMED` of each connection; RESUMED is `.` or `r`. Ends the server, which writes all."""
        self.processes.__exit__(None, None, None)
        return (self.directory / "handshakes").read_text().splitlines()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with chain.pem and key.pem."""
    directory = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "chain.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return directory


@pytest.fixture
def tls(tmp_path: Path, certificate: Path, request: pytest.FixtureRequest) -> Iterator[Tls]:
    (port,) = free_ports(1)
    config = f"""{main_section(tmp_path, 1, 100)}http {{
{http_defaults(tmp_path)}    log_format handshake '$ssl_protocol $ssl_session_reused';
    server {{
        listen 127.0.0.1:{port} ssl backlog=1024;
        ssl_certificate {certificate}/chain.pem;
        ssl_certificate_key {certificate}/key.pem;
        ssl_protocols {getattr(request, "param", "TLSv1.2 TLSv1.3")};
        ssl_session_cache shared:all:10m;
        ssl_session_tickets on;
        access_log {tmp_path}/handshakes handshake;
        location / {{ return 200 "hello"; }}
        location /none {{ return 404; }}
    }}
}}
"""
    (tmp_path / "tls.conf").write_text(config)
    with Processes(tmp_path) as processes:
        command = [require("nginx", "nginx-light"), "-e", f"{tmp_path}/error.log", "-c", f"{tmp_path}/tls.conf"]
        processes.start("tls", command).wait_listening(port)
        yield Tls(port, tmp_path, processes)


def output_of(generator: Handshakes, target: Target, seconds: float = 0.3) -> subprocess.CompletedProcess[str]:
    command = generator.command(target, seconds)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def run(generator: Handshakes, target: Target) -> Counted:
    done = output_of(generator, target)
    assert done.returncode == 0, done.stderr
    return generator.parse(done.stdout)


@pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"], indirect=True)
def test_no_session_is_resumed(tls: Tls, certificate: Path, request: pytest.FixtureRequest) -> None:
    counted = run(Handshakes("/", 4), Target(tls.port, 1, tls.directory, certificate / "chain.pem"))
    assert not counted.errors
    assert counted.operations > 10
    assert counted.bytes > counted.operations * len("hello")
    protocol = request.node.callspec.params["tls"]
    # Each process's first connection, which checks the certificate, is not counted.
    assert collections.Counter(tls.handshakes()) == {f"{protocol} .": counted.operations + 1}
    assert sum(counted.raw["handshakes"]["protocols"].values()) == counted.operations
    assert next(iter(counted.raw["handshakes"]["protocols"])).startswith(protocol)
    assert 0 < counted.raw["handshakes"]["p50_ns"] <= counted.raw["handshakes"]["p99_ns"]


def test_the_log_would_tell(tls: Tls, certificate: Path) -> None:
    """A client that does resume is seen, so that the test above can fail."""
    context = ssl.create_default_context(cafile=str(certificate / "chain.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = None
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", tls.port), 5) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
        ):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while connection.recv(1000):
                pass
            session = connection.session
    assert tls.handshakes() == ["TLSv1.2 .", "TLSv1.2 r"]


def test_several_processes(tls: Tls, certificate: Path) -> None:
    counted = run(Handshakes("/", 5), Target(tls.port, 2, tls.directory, certificate / "chain.pem"))
    assert not counted.errors
    assert len(tls.handshakes()) == counted.operations + 2


def test_a_status_that_is_not_200_stops_it(tls: Tls, certificate: Path) -> None:
    done = output_of(Handshakes("/none"), Target(tls.port, 1, tls.directory, certificate / "chain.pem"))
    assert done.returncode == 1
    assert done.stderr.startswith("bench.handshakes: no connection to 127.0.0.1:")
    assert done.stderr.endswith("status\n")


def test_another_authority(tls: Tls, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=localhost", "-keyout", os.devnull, "-out", str(other)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    done = output_of(Handshakes(), Target(tls.port, 1, tmp_path, other))
    assert done.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
    done = output_of(Handshakes(), Target(tls.port, 1, tmp_path, tmp_path / "tls.conf"))
    assert done.returncode == 1
    assert "holds no certificate" in done.stderr


@contextmanager
def server(certificate: Path, answer: Callable[[int, ssl.SSLSocket], None]) -> Iterator[int]:
    """Calls `answer` with the number of each connection, one after the other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "chain.pem", certificate / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = threading.Event()

        def serve() -> None:
            number = 0
            while True:
                plain, _ = listener.accept()
                if ended.is_set():
                    plain.close()
                    return
                with context.wrap_socket(plain, server_side=True) as connection:
                    connection.recv(1000)
                    answer(number, connection)
                number += 1

        thread = threading.Thread(target=serve)
        thread.start()
        yield port
        ended.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()


def test_failures_after_the_first_connection_are_counted(certificate: Path, tmp_path: Path) -> None:
    def answer(number: int, connection: ssl.SSLSocket) -> None:
        status = "200 OK" if number == 0 or number % 2 else "503 No"
        connection.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())

    with server(certificate, answer) as port:
        counted = run(Handshakes("/", 1), Target(port, 1, tmp_path, certificate / "chain.pem"))
    assert counted.errors == {"status": pytest.approx(counted.operations, abs=1)}


def test_nobody_there_and_no_tls(tmp_path: Path, certificate: Path) -> None:
    (port,) = free_ports(1)
    done = output_of(Handshakes(), Target(port, 1, tmp_path, certificate / "chain.pem"))
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr
    assert done.stderr.count("\n") == 1
    with pytest.raises(BenchError, match="speaks TLS"):
        Handshakes().command(Target(port, 1, tmp_path), 1)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "it printed nothing"),
        ("bench-result {}", "cannot be read"),
        ('bench-result {"answered":0,"duration_ns":5,"bytes":0,"errors":{"timeout":3}}', "no answer .*timeout"),
    ],
)
def test_parse_refuses_what_is_no_result(output: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        Handshakes().parse(output)
