"""What hostile clients are let loose on, and how they are: a server, an attack, a siege."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

MIB = 1 << 20
BIG = 8 * MIB
MEDIUM = 64 << 10


class Server:
    """HTTP/1.1: `/big` and `/medium` are answered with so many bytes, all else with two; a body is read to its end."""

    async def start(self) -> None:
        # Every stream that an attacker opens may become a connection here: the queue is as long as a server's.
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A cancelled one, at the end, would be a traceback of asyncio's own callback before Python 3.12.
        ended = ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError
        with contextlib.suppress(*ended):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if length := re.search(rb"(?i)content-length: (\d+)", head):
                    await self._discard(reader, int(length[1]))
                elif b"chunked" in head.lower():
                    while size := int((await reader.readline() or b"0").split(b";")[0], 16):
                        await self._discard(reader, size + 2)
                    await reader.readline()
                size = BIG if b" /big " in head else MEDIUM if b" /medium " in head else 2
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                while size:
                    piece = min(size, MIB)
                    writer.write(b"x" * piece)
                    await writer.drain()
                    size -= piece
        writer.close()

    async def _discard(self, reader: asyncio.StreamReader, size: int) -> None:
        while size:
            size -= len(await reader.readexactly(min(size, 65536)))


class Hostile:
    """One connection of an attacker, as a bare socket: it reads and writes when told to, and never otherwise."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self.port = port
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.setblocking(False)
        self.received = 0

    async def connect(self) -> None:
        await asyncio.get_running_loop().sock_connect(self.sock, ("127.0.0.1", self.port))

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def hear(self, seconds: float) -> bool:
        """Reads for a while; False once the server has closed. Raises ConnectionError when it was reset."""
        try:
            # Not wait_for: before Python 3.12 it may swallow the cancellation that ends the siege.
            async with asyncio.timeout(seconds):
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        except TimeoutError:
            return True
        self.received += len(data)
        return bool(data)

    async def hear_out(self) -> int:
        """Reads what is there and what still comes, to the end: all that was received."""
        with contextlib.suppress(ConnectionError):
            while await self.hear(5):
                pass
        return self.received

    def close(self) -> None:
        self.sock.close()


Script = Callable[[Hostile], Awaitable[None]]
"""What one connection does. It ends by itself, is cut by the server (ConnectionError, or it raises Cut), or goes on."""


class Cut(Exception):
    """The server has closed the connection."""


@dataclass(frozen=True)
class Attack:
    """Many connections with one script. `listener` are settings short enough for a test.

    A new protocol's attacks are a list of these and one more line in the test's parameters; for HTTP/2 the script sends
    frames.
    """

    name: str
    script: Script
    connections: int = 100
    listener: dict[str, Any] = field(default_factory=dict)
    cut: int = 0  # connections that the server must have cut, at least
    memory: int = 16 * MIB  # that a worker may take more than before, at most
    receive_buffer: int = 0


@dataclass
class Siege:
    """An attack under way, and what its connections met."""

    attempts: int = 0
    finished: int = 0
    cut: int = 0
    received: int = 0


@contextlib.asynccontextmanager
async def besieged(attack: Attack, port: int) -> AsyncIterator[Siege]:
    """Keeps `attack.connections` attackers busy; each begins anew when it is cut or done."""
    siege, over = Siege(), asyncio.Event()

    async def one() -> None:
        while not over.is_set():
            hostile = Hostile(port, attack.receive_buffer)
            siege.attempts += 1
            try:
                await hostile.connect()
                await attack.script(hostile)
                siege.finished += 1
            except (ConnectionError, Cut):
                siege.cut += 1
                await asyncio.sleep(0.01)
            finally:
                siege.received += hostile.received
                hostile.close()

    tasks = [asyncio.create_task(one()) for _ in range(attack.connections)]
    try:
        yield siege
    finally:
        over.set()
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError | None):
                raise AssertionError(f"an attacker failed: {outcome!r}")


class Memory:
    """How much more memory each process has than at the beginning, at most."""

    def __init__(self, pids: list[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._before = [p.memory_info().rss for p in self._processes]
        self.growth = 0

    def look(self) -> None:
        now = [p.memory_info().rss for p in self._processes]
        self.growth = max(self.growth, *(n - b for n, b in zip(now, self._before, strict=True)))
