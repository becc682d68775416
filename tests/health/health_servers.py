"""Real servers for the health checks' tests: well, ill, silent, and one that takes no connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from ports import free_port
from readiness import Inference

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def listening(family: socket.AddressFamily, folder: Path, backlog: int = 16) -> tuple[socket.socket, str]:
    sock = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_UNIX:
        path = str(folder / "s.sock")
        sock.bind(path)
        address = f"unix:{path}"
    else:
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        sock.bind((host, 0))
        port = sock.getsockname()[1]
        address = f"{host}:{port}" if family == socket.AF_INET else f"[{host}]:{port}"
    sock.listen(backlog)
    sock.setblocking(False)
    return sock, address


@contextlib.asynccontextmanager
async def speaking(
    family: socket.AddressFamily, folder: Path, answer: bytes | None
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that reads a request's head, sends `answer` and closes; with None it stays silent."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if answer is None:
                await reader.read()
            else:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    sock, address = listening(family, folder)
    server = (
        await asyncio.start_server(serve, sock=sock)
        if family != socket.AF_UNIX
        else (await asyncio.start_unix_server(serve, sock=sock))
    )
    async with server:
        yield address, heads


@contextlib.asynccontextmanager
async def grpc_server(
    family: socket.AddressFamily, folder: Path, statuses: dict[str, int] | None
) -> AsyncIterator[tuple[str, health.aio.HealthServicer | None]]:
    """A gRPC server with the health service and these statuses, or with no service at all (None)."""
    server = grpc.aio.server()
    servicer = None
    if statuses is not None:
        servicer = health.aio.HealthServicer()
        for service, status in statuses.items():
            await servicer.set(service, status)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = grpc_port(server, family, folder)
    await server.start()
    try:
        yield address, servicer
    finally:
        await server.stop(None)


def grpc_port(server: grpc.aio.Server, family: socket.AddressFamily, folder: Path) -> str:
    if family == socket.AF_UNIX:
        address = f"unix:{folder / 'g.sock'}"
        server.add_insecure_port(address)
        return address
    host = "127.0.0.1" if family == socket.AF_INET else "[::1]"
    return f"{host}:{server.add_insecure_port(f'{host}:0')}"


@contextlib.asynccontextmanager
async def inference_server(family: socket.AddressFamily, folder: Path, inference: Inference) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((inference.handlers(),))
    address = grpc_port(server, family, folder)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


@contextlib.contextmanager
def answering(family: socket.AddressFamily, folder: Path, answer: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A datagram socket that gives `answer` to whatever comes; with None it stays silent. What came is in the list."""
    came: list[bytes] = []
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        if family == socket.AF_UNIX:
            sock.bind(str(folder / "s.sock"))
            address = f"unix:{folder / 's.sock'}"
        else:
            host = "127.0.0.1" if family == socket.AF_INET else "::1"
            sock.bind((host, 0))
            port = sock.getsockname()[1]
            address = f"{host}:{port}" if family == socket.AF_INET else f"[{host}]:{port}"

        def readable() -> None:
            data, sender = sock.recvfrom(65536)
            came.append(data)
            if answer is not None:
                with contextlib.suppress(OSError):
                    sock.sendto(answer, sender)

        loop.add_reader(sock, readable)
        try:
            yield address, came
        finally:
            loop.remove_reader(sock)


@contextlib.asynccontextmanager
async def redis_server(family: socket.AddressFamily, folder: Path, *options: str) -> AsyncIterator[str]:
    """A real Redis server with further `options`; ready when it accepts connections."""
    if family == socket.AF_UNIX:
        sock, address = folder / "s.sock", f"unix:{folder / 's.sock'}"
        where = ["--port", "0", "--unixsocket", str(sock)]
    else:
        host, port = "127.0.0.1" if family == socket.AF_INET else "::1", free_port()
        address = f"{host}:{port}" if family == socket.AF_INET else f"[{host}]:{port}"
        kind = ("--port", "0", "--tls-port") if "--tls-cert-file" in options else ("--port",)
        where = ["--bind", host, *kind, str(port)]
    command = ["redis-server", *where, "--save", "", "--dir", str(folder), "--daemonize", "no", *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while b"eady to accept connections" not in (line := await process.stdout.readline()):
                assert line, "redis-server has ended"
        yield address
    finally:
        process.terminate()
        await process.communicate()


@contextlib.contextmanager
def full(folder: Path) -> Iterator[str]:
    """A TCP listener whose queue of connections is full: further SYNs are dropped, so a connect waits."""
    sock, address = listening(socket.AF_INET, folder, backlog=0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(sock.getsockname())
        fillers.append(filler)
    try:
        yield address
    finally:
        for s in (sock, *fillers):
            s.close()
