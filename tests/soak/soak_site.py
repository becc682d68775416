"""What a soak has around the daemon: endpoints that are restarted, clients of every kind, and a ledger of resources."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import psutil
from daemon import open_files


class StreamEndpoint:
    """An HTTP or echo server on one port that can be stopped hard and started again."""

    def __init__(self, http: bool) -> None:
        self._http = http
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, reuse_address=True)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As a process that is killed: the port is closed and every connection reset."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        # What attackers send, and the daemon passes on, need not be a head of a size that is read here.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while data := (await reader.readuntil(b"\r\n\r\n") if self._http else await reader.read(65536)):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000 if self._http else data)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()


class DatagramEndpoint:
    """Echoes datagrams; stopped, its port is closed."""

    def __init__(self) -> None:
        self._port = 0
        self._sock: socket.socket | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        try:
            sock.bind(("127.0.0.1", self._port))
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        self._port = sock.getsockname()[1]
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock, self._readable, sock)

    async def stop(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _readable(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            data, sender = sock.recvfrom(65536)
            sock.sendto(data, sender)


class GrpcEndpoint:
    """A grpcio server that echoes, one message or a stream of them; stopped, it cuts off what runs."""

    def __init__(self) -> None:
        self.running = 0  # calls that hang
        self._port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Both": grpc.stream_stream_rpc_method_handler(self._both),
            "Hang": grpc.unary_unary_rpc_method_handler(self._hang),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("soak.Echo", kinds),))
        try:
            self._port = server.add_insecure_port(f"127.0.0.1:{self._port}")
        except RuntimeError as error:
            await server.stop(None)  # one that is dropped instead keeps grpcio's thread, and the process, for ever
            raise OSError(str(error)) from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def _unary(self, request: bytes, _context: Any) -> bytes:
        return request

    async def _both(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def _hang(self, request: bytes, _context: Any) -> bytes:
        self.running += 1
        try:
            await asyncio.sleep(60)
        finally:
            self.running -= 1
        return request


Endpoint = StreamEndpoint | DatagramEndpoint | GrpcEndpoint


async def grpc_client(
    port: int, stop: asyncio.Event, counts: Counter[str], trust: grpc.ChannelCredentials | None = None
) -> None:
    """Calls of three kinds on channels of thirty; some are cancelled, some have too little time."""
    while not stop.is_set():
        options = [("grpc.use_local_subchannel_pool", 1)]
        target = f"localhost:{port}"
        opened = (
            grpc.aio.insecure_channel(target, options)
            if trust is None
            else grpc.aio.secure_channel(target, trust, options)
        )
        async with opened as channel:
            for number in range(30):
                try:
                    await _call(channel, number, counts)
                except grpc.aio.AioRpcError as error:
                    counts[f"grpc {error.code().name.lower()}"] += 1


async def _call(channel: grpc.aio.Channel, number: int, counts: Counter[str]) -> None:
    if number % 10 == 0:
        messages = [b"z" * size for size in (1, 100, 20_000, 200_000)]
        both = channel.stream_stream("/soak.Echo/Both")(iter(messages), timeout=20)
        assert [len(message) async for message in both] == [len(message) for message in messages]
        counts["grpc streamed"] += 1
    elif number % 10 == 3:
        hanging = channel.unary_unary("/soak.Echo/Hang")(b"?", timeout=20)
        await asyncio.sleep(0.01)
        hanging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hanging
        counts["grpc given up"] += 1
    elif number % 10 == 6:
        await channel.unary_unary("/soak.Echo/Hang")(b"?", timeout=0.05)
    else:
        message = b"m" * (10_000 if number % 2 else 10)
        assert await channel.unary_unary("/soak.Echo/Unary")(message, timeout=20) == message
        counts["grpc ok"] += 1


async def http_client(
    port: int, stop: asyncio.Event, counts: Counter[str], trust: ssl.SSLContext | None = None
) -> None:
    """Requests on kept connections, fifty on each."""
    request = b"GET /soak HTTP/1.1\r\nHost: soak\r\n\r\n"
    named = None if trust is None else "localhost"
    while not stop.is_set():
        with contextlib.suppress(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=named)
            try:
                for _ in range(50):
                    writer.write(request)
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    await asyncio.wait_for(reader.readexactly(length), 20)
                    counts["http ok" if head.startswith(b"HTTP/1.1 200") else "http failed"] += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                counts["http cut"] += 1
            finally:
                writer.close()


async def tcp_client(port: int, stop: asyncio.Event, counts: Counter[str]) -> None:
    """Sessions of ten messages, the last of which is large."""
    while not stop.is_set():
        with contextlib.suppress(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                for size in (10, 100, 1000) * 3 + (300_000,):
                    writer.write(b"y" * size)
                    await asyncio.wait_for(reader.readexactly(size), 20)
                    counts["tcp ok"] += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                counts["tcp cut"] += 1
            finally:
                writer.close()


async def udp_client(port: int, stop: asyncio.Event, counts: Counter[str]) -> None:
    """Questions from ports that change."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(("127.0.0.1", port))
            for number in range(30):
                try:
                    sock.send(b"%d" % number)
                    await asyncio.wait_for(loop.sock_recv(sock, 65536), 1)
                    counts["udp ok"] += 1
                except (TimeoutError, ConnectionRefusedError):
                    counts["udp lost"] += 1


@dataclass
class Ledger:
    """Samples of memory and descriptors of some processes over time."""

    pids: list[int]
    memory: dict[int, list[int]] = field(default_factory=dict)
    files: dict[int, list[int]] = field(default_factory=dict)

    def sample(self) -> None:
        for pid in self.pids:
            self.memory.setdefault(pid, []).append(psutil.Process(pid).memory_info().rss)
            self.files.setdefault(pid, []).append(open_files(pid))

    def growth(self, pid: int) -> int:
        """Bytes by which memory is greater in the last quarter of the samples than in the second (medians)."""
        samples = self.memory[pid]
        quarter = max(1, len(samples) // 4)
        return int(statistics.median(samples[-quarter:]) - statistics.median(samples[quarter : 2 * quarter]))

    def report(self, name: Callable[[int], str]) -> str:
        rows = [f"{'process':<12} {'RSS MiB first..last':>22} {'growth KiB':>11} {'most fds':>9}"]
        for pid in self.pids:
            memory = self.memory[pid]
            span = f"{memory[0] / (1 << 20):.1f}..{memory[-1] / (1 << 20):.1f}"
            rows.append(f"{name(pid):<12} {span:>22} {self.growth(pid) / 1024:>11.0f} {max(self.files[pid]):>9}")
        return "\n".join(rows)
