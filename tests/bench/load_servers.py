"""Servers with known latencies for the load generator's tests; each runs on a thread of its own and counts."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, cast

import grpc
import grpc.aio
import ngh2
import uvloop

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PING = b"ping!\n"
PONG = b"pong, and a few bytes more\n"


class Background:
    """A server on a loop in a thread, from `with` to its end."""

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()
        if self._failure:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _main(self, ready: threading.Event) -> None:
        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            try:
                end = await self.start()
            finally:
                ready.set()
            await self._stop.wait()
            await end()

        try:
            with asyncio.Runner(loop_factory=self.new_loop) as runner:
                runner.run(main())
        except BaseException as error:
            self._failure = error
            ready.set()

    new_loop: Callable[[], asyncio.AbstractEventLoop] = staticmethod(uvloop.new_event_loop)

    async def start(self) -> Callable[[], Awaitable[None]]:
        """Serves, and returns what ends it."""
        raise NotImplementedError


class Timing:
    """When answers are given: `delay` after the request; from request number `at` on, none for `seconds`, once."""

    def __init__(self, delay: float = 0.0, stall: tuple[int, float] | None = None) -> None:
        self._delay, self._stall, self._until = delay, stall, 0.0

    def wait(self, number: int, now: float) -> float:
        """Seconds until this request is to be answered."""
        if self._stall and number == self._stall[0]:
            self._until = now + self._stall[1]
        return max(self._delay, self._until - now)


class Stream(Background):
    """HTTP/1.1 (GET only), or TCP messages of `message`'s length. `mode` is what happens to a request:

    answer; close (answer, then close); reset; silent (no answer); hangup (close without an answer).
    `capacity` answers per second are the most it gives.
    """

    def __init__(
        self,
        answer: bytes = OK,
        message: bytes | None = None,
        timing: Timing | None = None,
        mode: str = "answer",
        capacity: float | None = None,
        path: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer, self.message, self.mode = answer, message, mode
        self.requests = self.answers = self.connections = self.open = self.most_open = 0
        self._timing, self._gap, self._free = timing or Timing(), 1 / capacity if capacity else 0.0, 0.0
        self._path, self._tls = path, tls

    async def start(self) -> Callable[[], Awaitable[None]]:
        loop = asyncio.get_running_loop()
        if self._path:
            server = await loop.create_unix_server(lambda: _Peer(self), self._path)
            self.address = f"unix:{self._path}"
        else:
            server = await loop.create_server(lambda: _Peer(self), "127.0.0.1", 0, ssl=self._tls)
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

        async def end() -> None:
            server.close()

        return end

    def wait(self) -> float:
        self.requests += 1
        now = asyncio.get_running_loop().time()
        wait = self._timing.wait(self.requests, now)
        if self._gap:
            self._free = max(self._free, now) + self._gap
            wait = max(wait, self._free - now)
        return wait


class _Peer(asyncio.Protocol):
    def __init__(self, server: Stream) -> None:
        self.server, self.buffer = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        server = self.server
        server.connections += 1
        server.open += 1
        server.most_open = max(server.most_open, server.open)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.open -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            if self.server.message is not None:
                length = len(self.server.message)
                if len(self.buffer) < length:
                    return
                assert self.buffer.startswith(self.server.message)
            elif (length := self.buffer.find(b"\r\n\r\n") + 4) < 4:
                return
            self.buffer = self.buffer[length:]
            self._request()

    def _request(self) -> None:
        wait = self.server.wait()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._act)
        else:
            self._act()

    def _act(self) -> None:
        mode, transport = self.server.mode, self.transport
        if transport.is_closing():
            return
        if mode in ("answer", "close"):
            self.server.answers += 1
            transport.write(self.server.answer)
        if mode in ("close", "hangup"):
            transport.close()
        if mode == "reset":
            # With a linger time of 0 the kernel sends a reset.
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()


class Grpc(Background):
    """gRPC's own server: /t.T/Echo answers with the request's message, /t.T/Fail with UNAVAILABLE."""

    new_loop = staticmethod(asyncio.new_event_loop)

    def __init__(self, timing: Timing | None = None, streams: int | None = None, age_ms: int | None = None) -> None:
        self._timing, self._streams, self._age_ms = timing or Timing(), streams, age_ms
        self.calls = self.answers = self.running = self.most_running = 0
        self._seen: set[str] = set()

    async def start(self) -> Callable[[], Awaitable[None]]:
        options = [("grpc.max_concurrent_streams", self._streams)] if self._streams else []
        if self._age_ms:
            options += [("grpc.max_connection_age_ms", self._age_ms), ("grpc.max_connection_age_grace_ms", 5000)]
        server = grpc.aio.server(options=options)
        handlers = {
            "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()

        async def end() -> None:
            await server.stop(0)

        return end

    async def _echo(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.calls += 1
        self._seen.add(context.peer())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self._timing.wait(self.calls, asyncio.get_running_loop().time()))
        finally:
            self.running -= 1
        self.answers += 1
        return request

    @property
    def peers(self) -> int:
        """Connections that brought calls."""
        return len(self._seen)

    async def _fail(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.calls += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return request


class Refusing(Background):
    """An HTTP/2 server that refuses `times` streams and answers the next one, over and over, with gRPC status 0."""

    def __init__(self, times: int) -> None:
        self.times, self.calls = times, 0

    async def start(self) -> Callable[[], Awaitable[None]]:
        server = await asyncio.get_running_loop().create_server(lambda: _RefusingPeer(self), "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

        async def end() -> None:
            server.close()

        return end


class _RefusingPeer(asyncio.Protocol):
    def __init__(self, server: Refusing) -> None:
        self.server, self.session, self.refused = server, ngh2.Connection(ngh2.Role.SERVER), 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.session.initiate_connection({ngh2.Setting.MAX_CONCURRENT_STREAMS: 1})
        self.transport.write(self.session.data_to_send())

    def data_received(self, data: bytes) -> None:
        self.session.receive_data(data)
        for event in self.session.events():
            if isinstance(event, ngh2.RequestReceived):
                self._answer(event.stream_id)
        self.transport.write(self.session.data_to_send())

    def _answer(self, stream: int) -> None:
        self.server.calls += 1
        if self.refused < self.server.times:
            self.refused += 1
            self.session.reset_stream(stream, ngh2.ErrorCode.REFUSED_STREAM)
            return
        self.refused = 0
        self.session.send_response(stream, [(b":status", b"200"), (b"content-type", b"application/grpc")])
        self.session.send_data(stream, b"\0\0\0\0\5hello")
        self.session.send_trailers(stream, [(b"grpc-status", b"0")])
