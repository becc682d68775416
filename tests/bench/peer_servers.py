"""Servers that say who they are, and a proxy started before them."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from bench.machine import free_ports
from bench.peers import PROXIES
from bench.peers.base import Proxy, Setup, Task, write_files
from bench.peers.certificates import make_certificate
from bench.processes import Process, Processes


class Held:
    """Requests that a server keeps waiting until they are let go."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = False
        self.waiting = 0

    def wait(self) -> None:
        with self._changed:
            self.waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open, 30)
            self.waiting -= 1

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting >= count, 20), f"{self.waiting} requests came"

    def release(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()


@dataclass
class Server:
    """`requests` counts those other than of health checks, `paths` are theirs over HTTP; `told` is what the last one's
    fields X-Forwarded-… say."""

    name: str
    port: int
    held: Held
    requests: int = 0
    told: dict[str, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)


def _told(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in fields if name.lower().startswith("x-forwarded-")}


@contextmanager
def http_server(name: str) -> Iterator[Server]:
    """Answers `NAME METHOD PATH BODY`; a path that ends with /hold waits."""
    found = Server(name, 0, Held())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found.requests += 1
            found.paths.append(self.path)
            found.told = _told(self.headers.items())
            if self.path.endswith("/hold"):
                found.held.wait()
            answer = f"{name} {self.command} {self.path} ".encode() + body
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    class Listener(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            """A proxy that ends resets its connections."""

    with serving(Listener(("127.0.0.1", 0), Handler), found):
        yield found


@contextmanager
def tcp_server(name: str) -> Iterator[Server]:
    """Answers each line with `NAME LINE`."""
    found = Server(name, 0, Held())

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                found.requests += 1
                self.wfile.write(f"{name} ".encode() + line)

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A proxy that ends resets its connections."""

    with serving(Listener(("127.0.0.1", 0), Handler), found):
        yield found


@contextmanager
def udp_server(name: str) -> Iterator[Server]:
    """Answers each datagram with `NAME DATAGRAM`."""
    found = Server(name, 0, Held())

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sender = self.request
            found.requests += 1
            sender.sendto(f"{name} ".encode() + data, self.client_address)

    with serving(socketserver.UDPServer(("127.0.0.1", 0), Handler), found):
        yield found


@contextmanager
def serving(listener: socketserver.BaseServer, found: Server) -> Iterator[None]:
    found.port = listener.server_address[1]  # type: ignore[index]
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        found.held.release()
        listener.shutdown()
        thread.join()
        listener.socket.close()


class _AnyMethod(grpc.GenericRpcHandler):
    def __init__(self, server: Server) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if method.startswith("/grpc.health."):
                return b"\x08\x01"
            self._server.requests += 1
            self._server.told = _told(context.invocation_metadata())
            if method.endswith("/hold"):
                self._server.held.wait()
            return f"{self._server.name} {method} ".encode() + request

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def grpc_server(name: str) -> Iterator[Server]:
    """Answers every unary call with `NAME METHOD MESSAGE`; a method that is called hold waits."""
    found = Server(name, 0, Held())
    server = grpc.server(ThreadPoolExecutor(16), handlers=[_AnyMethod(found)])
    found.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield found
    finally:
        found.held.release()
        server.stop(None).wait()


@dataclass
class Running:
    proxy: Proxy
    setup: Setup
    process: Process

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.setup.port}"

    def reload(self, **changes: object) -> None:
        """Writes the files of a changed setup and puts them into effect."""
        self.setup = replace(self.setup, **changes)  # type: ignore[arg-type]
        write_files(self.proxy, self.setup)
        self.proxy.reload(self.setup, self.process)


@contextmanager
def running(name: str, task: Task, directory: Path, *server_ports: int) -> Iterator[Running]:
    """The proxy, started as the bench does it; skips the test if it is not installed."""
    proxy = PROXIES[name]
    if proxy.version() is None:
        pytest.skip(f"{name} is not installed")
    own = directory / name
    own.mkdir()
    port, admin_port = free_ports(2)
    certificate = make_certificate(directory) if task.tls else None
    setup = Setup(task, port, server_ports, admin_port, own, 1000, certificate)
    write_files(proxy, setup)
    with Processes(directory) as processes:
        process = processes.start(name, proxy.command(setup))
        if task.job == "udp":
            wait_for_datagrams(port, process)
        else:
            process.wait_listening(port)
        yield Running(proxy, setup, process)


def wait_for_datagrams(port: int, process: Process) -> None:
    """Asks until the proxy forwards: its port is not one that a connection could try."""
    limit = time.monotonic() + 15
    while time.monotonic() < limit:
        process.check()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.1)
            client.connect(("127.0.0.1", port))
            try:
                client.send(b"?")
                client.recv(100)
                return
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.02)
    raise AssertionError(f"nothing answers datagrams: {process.last_words()}")
