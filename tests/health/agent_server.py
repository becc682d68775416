"""A real agent: a TCP server whose line the test sets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence


class Agent:
    """Sends `pieces` one by one and closes, or with `hold` waits; `asked` are what it was sent, where it `reads`."""

    def __init__(self) -> None:
        self.pieces: Sequence[bytes] = ()
        self.pause = 0.0
        self.hold = False
        self.reads = 0
        self.asked: list[bytes] = []
        self.connections = 0
        self.port = 0

    def say(self, line: str) -> None:
        self.pieces = (line.encode() + b"\n",)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if self.reads:
                self.asked.append(await reader.readexactly(self.reads))
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(self.pause)
            if self.hold:
                await reader.read()
        writer.close()


@contextlib.asynccontextmanager
async def agent(host: str = "127.0.0.1") -> AsyncIterator[Agent]:
    one = Agent()
    server = await asyncio.start_server(one.serve, host, 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        await server.wait_closed()
