"""Tiny HTTP endpoints in the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
import re


class Endpoint:
    """Answers every request with its name and its `status`, after `delay` seconds and while its `gate` is set;
    `active`, its highest `peak`, and `served` count requests. One that was begun is finished, whether or not its client
    is still there, as a model server would. `at_once`: works on so many at a time."""

    def __init__(self, name: str, delay: float = 0, at_once: int = 1_000) -> None:
        self.name = name
        self.status = b"200 OK"
        self.delay = delay
        self.places = asyncio.Semaphore(at_once)
        self.active = 0
        self.peak = 0
        self.served = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = self.name.encode()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                if length:
                    await reader.readexactly(int(length[1]))
                self.active += 1
                self.peak = max(self.peak, self.active)
                if self.delay:
                    async with self.places:
                        await asyncio.sleep(self.delay)
                await self.gate.wait()
                self.active -= 1
                self.served += 1
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (self.status, len(body), body))
        writer.close()
