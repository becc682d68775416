"""Connections of the admin server: how many there are, and how long each part of a request may take.

aiohttp reads requests and writes answers; it has a limit for idle connections and none for slow ones. A `Connection`
stands between it and the transport and adds the limits of `Limits`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct
from multidict import CIMultiDict

_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Unreadable(logging.Filter):
    """Leaves out requests that cannot be read: who sends them is answered with 400. Anybody who reaches the port may
    send them, each would be a traceback in the log, and what is told of it may have the secret of a token in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def server_log() -> logging.Logger:
    """What aiohttp says of the admin server."""
    log = logging.getLogger("tidegate.admin.http")
    if not log.filters:
        log.addFilter(_Unreadable())
    return log


class Limits(Struct, frozen=True):
    """Times in seconds, sizes in bytes."""

    head: float = 10  # from the connection's start, or a further request's first byte, to the end of the head
    body: float = 10  # from the end of the head to the end of the body
    answer: float = 60  # that a client may take to make room for an answer
    idle: float = 75  # between two requests
    linger: float = 2  # that what a refused client goes on to send is read away, so that it sees the answer first
    body_size: int = 64 * 1024
    linger_size: int = 16 * 1024 * 1024  # of a body, the part that was refused included: behind it the connection ends


class AdminConnections:
    """The protocol factory of the admin server. `server` is aiohttp's; `most()` is how many connections there may be.

    With all of them in use a new one takes the place of the one that has been without a complete head for the longest
    time. Where each is being answered the new one is closed.
    """

    def __init__(self, server: web.Server, limits: Limits, most: Callable[[], int]) -> None:
        self._server = server
        server.request_factory = _discreet(server.request_factory)  # of requests that cannot be read, too
        self._limits = limits
        self._most = most
        self._waiting: dict[asyncio.BaseProtocol, Connection] = {}  # for a head, by aiohttp's protocol, longest first
        self._answering: dict[asyncio.BaseProtocol, Connection] = {}

    def __call__(self) -> asyncio.BaseProtocol:
        if len(self) >= self._most() and not self._evict():
            return _Refusal()
        connection = Connection(cast(asyncio.Protocol, self._server()), self._limits, self._forget)
        self._waiting[connection.inner] = connection
        return connection

    def __len__(self) -> int:
        return len(self._waiting) + len(self._answering)

    @contextlib.contextmanager
    def answering(self, request: web.BaseRequest) -> Iterator[None]:
        """Around the handling of a request, whose head is there now."""
        inner = request.protocol
        connection = self._waiting.pop(inner, None)
        if connection is None:  # it is closed already
            yield
            return
        self._answering[inner] = connection
        connection.head_complete()
        try:
            yield
        finally:
            if self._answering.pop(inner, None) is not None:
                self._waiting[inner] = connection
                connection.head_next()

    def _evict(self) -> bool:
        inner = next(iter(self._waiting), None)
        if inner is None:
            return False
        self._waiting.pop(inner).abort()
        return True

    def _forget(self, connection: Connection) -> None:
        self._waiting.pop(connection.inner, None)
        self._answering.pop(connection.inner, None)


class Connection(asyncio.Protocol):
    """One connection: all that happens is passed on to `inner`, and timed. `lost` is called at its end."""

    def __init__(self, inner: asyncio.Protocol, limits: Limits, lost: Callable[[Connection], None]) -> None:
        self.inner = inner
        self._limits = limits
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._head: asyncio.TimerHandle | None = None
        self._room: asyncio.TimerHandle | None = None
        self._answering = self._begun = False
        self._refused = False  # the answer is out, and nothing more is taken
        self._received = 0  # bytes since the last complete head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._expect_head()
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """What comes behind a refusal is dropped: a close with bytes unread would be a reset, which can take the answer
        from the client (RFC 9112 section 9.6)."""
        self._begun = True
        if self._head is None and not self._answering:
            self._expect_head()
        self._received += len(data)
        if self._received > self._limits.linger_size:  # aiohttp reads a refused body away after the answer
            self.abort()
        elif not self._refused:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return False if self._refused else self.inner.eof_received()

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().call_later(self._limits.answer, self.abort)
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        _cancel(self._room)
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head)
        _cancel(self._room)
        self._transport = None
        self._lost(self)
        self.inner.connection_lost(exc)

    def head_complete(self) -> None:
        _cancel(self._head)
        self._head = None
        self._answering = True
        self._received = 0

    def head_next(self) -> None:
        """The next head is timed from its first byte; `idle` limits the time before that."""
        self._answering = self._begun = False

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _expect_head(self) -> None:
        self._head = asyncio.get_running_loop().call_later(self._limits.head, self._head_late)

    def _head_late(self) -> None:
        if self._transport is None:
            return
        if not self._begun:
            self._transport.close()
            return
        self._refused = True
        self._transport.write(_TIMED_OUT)
        self._transport.write_eof()
        self._head = asyncio.get_running_loop().call_later(self._limits.linger, self.abort)


class _DiscreetWriter(StreamWriter):
    """Writes answers without `Server`, in which aiohttp tells its own version and Python's."""

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        headers.popall(hdrs.SERVER, None)
        await super().write_headers(status_line, headers)


class _Refusal(asyncio.Protocol):
    """Ends a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _discreet(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    def request(
        message: Any, payload: Any, protocol: web.RequestHandler, writer: StreamWriter, task: Any
    ) -> web.BaseRequest:
        return make(message, payload, protocol, _DiscreetWriter(protocol, writer.loop), task)

    return request


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
