"""Unary gRPC calls, multiplexed over HTTP/2 connections with prior knowledge (or ALPN, over TLS).

Protocol: gRPC over HTTP/2 (grpc/grpc, doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic_ns

from bench.load.connect import Client, Connection
from bench.load.exchange import Exchange, Sink
from bench.load.http2 import Headers, Session, SessionError
from bench.load.request import Request, unframe
from bench.load.spec import Spec

_LAST_STREAM = 1 << 30  # the connection is replaced long before stream numbers end (2**31 - 1, odd ones only)

_UNLIMITED = 1 << 31
_REFUSED = "refused_stream"


def headers(request: Request, authority: str, scheme: str) -> list[tuple[bytes, bytes]]:
    """The head of a call; metadata of the user's own comes last."""
    fixed = {
        ":method": "POST",
        ":scheme": scheme,
        ":path": request.path,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    every = fixed | {name.lower(): value for name, value in request.headers.items()}
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in every.items()]


class Call:
    """An exchange on its stream; `status` is HTTP's, `grpc_status` as it came."""

    __slots__ = ("exchange", "grpc_status", "parts", "status")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.status = b""
        self.grpc_status = b""
        self.parts: list[bytes] = []

    def verdict(self, reason: str | None) -> str | None:
        """A kind of failure, or None if the answer is right."""
        if self.status not in (b"200", b""):
            return f"status_{self.status.decode('ascii', 'replace')}"
        if self.grpc_status not in (b"0", b""):
            return f"grpc_{self.grpc_status.decode('ascii', 'replace')}"
        if reason is not None:
            return f"stream_{reason}"
        request = self.exchange.request
        if not self.grpc_status:
            return "bad_answer"
        if request.length is None:
            return None
        message = unframe(b"".join(self.parts))
        return None if message is not None and request.right(len(message), [message]) else "wrong_answer"


class GrpcConnection(Connection):
    """Calls are gathered and written together by `flush`."""

    client: GrpcClient

    def __init__(self, client: GrpcClient) -> None:
        super().__init__(client)
        self._session = Session(self)
        self._calls: dict[int, Call] = {}
        self._bound: list[Exchange] = []
        self._bearable = _UNLIMITED  # calls at once, of which a refusal has told
        self.opened = False  # the server has told how many streams it allows
        self.draining = False
        self.dirty = False

    @property
    def room(self) -> bool:
        return len(self._calls) + len(self._bound) < min(self._session.limit, self._bearable)

    def carry(self, exchange: Exchange) -> None:
        """Begins the call, or keeps it until the connection is open."""
        exchange.connection = self
        if not self.opened:
            self._bound.append(exchange)
            return
        exchange.sent = monotonic_ns()
        try:
            stream = self._session.request(self.client.heads[exchange.which], exchange.request.body)
        except SessionError:
            exchange.connection = None
            self.client.sink.finish(exchange, "reset")
            self.abandon()
            return
        exchange.stream = stream
        self._calls[stream] = Call(exchange)
        if stream > _LAST_STREAM:
            self.on_draining()
        if not self.dirty:
            self.dirty = True
            self.client.dirty.append(self)

    def flush(self) -> None:
        self.dirty = False
        if self.transport is not None and not self.gone and (data := self._session.outgoing()):
            self.write(data)

    def up(self) -> None:
        self.flush()

    def lose(self, failure: str) -> None:
        self.client.forget(self)
        lost = [*self._bound, *(call.exchange for call in self._calls.values())]
        self._bound.clear()
        self._calls.clear()
        for exchange in lost:
            exchange.connection = None
            if not exchange.done:
                self.client.sink.finish(exchange, failure)

    def give_up(self, exchange: Exchange) -> None:
        """Resets the call's stream; what still comes for it is ignored."""
        exchange.connection = None
        if exchange.stream:
            self._session.cancel(exchange.stream)
            del self._calls[exchange.stream]
            self.flush()
            self._rest()
        else:
            self._bound.remove(exchange)

    def data_received(self, data: bytes) -> None:
        self.client.bytes_in += len(data)
        try:
            self._session.receive(data)
        except SessionError:
            self.flush()
            self._finish()
            return
        if self.client.sink.waiting:
            self.client.sink.ready()
        self.client.flush()
        self.flush()  # acknowledgements and window updates
        if self._session.over:
            self._finish()
        else:
            self._rest()

    def _finish(self) -> None:
        self.client.drop(self, "bad_answer")
        if self.transport is not None:
            self.transport.close()

    def _rest(self) -> None:
        if self.draining and not self._calls and self.transport is not None:
            self.transport.close()

    # Called by the session.

    def on_headers(self, stream: int, headers: Headers) -> None:
        if (call := self._calls.get(stream)) is not None:
            for name, value in headers:
                if name == b":status":
                    call.status = value
                elif name == b"grpc-status":
                    call.grpc_status = value

    def on_data(self, stream: int, data: bytes) -> None:
        if (call := self._calls.get(stream)) is not None and call.exchange.request.length is not None:
            call.parts.append(data)

    def on_end(self, stream: int, reason: str | None) -> None:
        if (call := self._calls.pop(stream, None)) is not None:
            self.answered = True
            exchange = call.exchange
            exchange.connection = None
            if reason == _REFUSED and not exchange.retried:
                # The server has not looked at it (RFC 9113, 8.7); gRPC clients repeat it once (gRFC A6).
                exchange.retried = True
                exchange.sent = exchange.stream = 0
                # Servers may count a stream a little longer than its last frame shows; until another one ends, this
                # one does not bear more than it has.
                self._bearable = len(self._calls) or _UNLIMITED
                self.client.sink.again(exchange)
            else:
                self._bearable = _UNLIMITED
                self.client.sink.finish(exchange, call.verdict(reason))

    def on_settings(self) -> None:
        if self.opened:
            return
        self.opened = True
        bound, self._bound = self._bound, []
        for exchange in bound:
            exchange.connection = None
        self.client.sink.waiting.extendleft(reversed(bound))

    def on_draining(self) -> None:
        if not self.draining:
            self.draining = True
            self.client.replace(self)


class GrpcClient(Client):
    """Connections take turns; each has as many calls at once as the server allows."""

    def __init__(self, spec: Spec, sink: Sink) -> None:
        super().__init__(spec, sink)
        authority = "localhost" if spec.address.startswith("unix:") else spec.address
        scheme = "https" if spec.tls else "http"
        self.heads = [headers(request, authority, scheme) for request in spec.requests]
        self.dirty: list[GrpcConnection] = []
        self._turn: deque[GrpcConnection] = deque()  # those that take calls, opening ones included

    def make(self) -> GrpcConnection:
        connection = GrpcConnection(self)
        self._turn.append(connection)
        return connection

    def refusal(self, transport: asyncio.Transport) -> str | None:
        secure = transport.get_extra_info("ssl_object")
        return "tls" if secure is not None and secure.selected_alpn_protocol() != "h2" else None

    def send(self, exchange: Exchange) -> bool:
        if not self._turn and self.live < self.spec.connections:
            self.start()
        opening = None
        for _ in range(len(self._turn)):
            connection = self._turn[0]
            self._turn.rotate(-1)
            if not connection.room:
                continue
            if connection.opened:
                connection.carry(exchange)
                return True
            opening = opening or connection
        if opening is not None:  # none that is open has room
            opening.carry(exchange)
            return True
        return False

    def flush(self) -> None:
        while self.dirty:
            self.dirty.pop().flush()

    def forget(self, connection: GrpcConnection) -> None:
        if connection in self._turn:
            self._turn.remove(connection)

    def replace(self, connection: GrpcConnection) -> None:
        """It finishes its calls and takes no more: another is opened in its place."""
        self.forget(connection)
        self.retire(connection)
        self.reopen()

    def cancel(self, exchange: Exchange) -> None:
        if exchange.connection is not None:
            exchange.connection.give_up(exchange)
