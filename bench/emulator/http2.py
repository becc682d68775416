"""HTTP/2 connections (prior knowledge) of an emulated server: gRPC, and plain requests of those who do not speak it.

ngh2 (libnghttp2) is met only here.
"""

from __future__ import annotations

import asyncio
from typing import cast

import ngh2

from bench.emulator import batch, sockets
from bench.emulator.answers import HEALTH_PREFIX, INFER, OK, Http2Answer
from bench.emulator.server import Exchange, ModelServer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_STREAMS = 10_000
_WINDOW = 4 << 20
_SETTINGS = {ngh2.Setting.MAX_CONCURRENT_STREAMS: _STREAMS, ngh2.Setting.INITIAL_WINDOW_SIZE: _WINDOW}
# Cancelling is what overload is about: resets are no attack here.
_CONFIGURATION = ngh2.Configuration(stream_reset_rate_limit=(1 << 40, 1 << 40))


class Http2Exchange(Exchange):
    """A stream with the answer it gets if all goes well, and those it gets otherwise (by outcome)."""

    __slots__ = ("body", "connection", "errors", "good", "stream")

    def __init__(
        self, connection: Http2, stream: int, check: bool, good: Http2Answer, errors: list[Http2Answer]
    ) -> None:
        super().__init__(check)
        self.connection = connection
        self.stream = stream
        self.good = good
        self.errors = errors
        self.body = b""

    def answer(self, outcome: int) -> None:
        """See `Exchange`."""
        self.connection.answer(self.stream, self.good if outcome == OK else self.errors[outcome])

    def reset(self) -> None:
        """See `Exchange`."""
        self.connection.reset(self.stream)


class Http2(asyncio.Protocol):
    """Serves one connection. A request begins when it is whole; its content matters for its batch at most."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._session = ngh2.Connection(ngh2.Role.SERVER, _CONFIGURATION)
        self._transport: asyncio.Transport
        self._coming: dict[int, Http2Exchange | None] = {}
        self._begun: dict[int, Http2Exchange] = {}
        self._reading = False
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._session.initiate_connection(_SETTINGS)
        self._session.set_local_window_size(_WINDOW)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(by_us=False)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        try:
            self._session.receive_data(data)
        except ngh2.ProtocolError:
            # The session has a GOAWAY with the reason ready.
            self._flush()
            self._end(by_us=False)
            self._transport.close()
            return
        self._reading = True
        for event in self._session.events():
            self._take(event)
        self._reading = False
        self._flush()

    # Of its exchanges

    def answer(self, stream: int, answer: Http2Answer) -> None:
        """Sends a stream's answer and forgets the stream."""
        del self._begun[stream]
        if self._ended:
            return
        self._send(stream, answer)
        if not self._reading:
            self._flush()

    def reset(self, stream: int) -> None:
        """Ends the connection with a TCP reset; the stream is forgotten, the others are cancelled."""
        del self._begun[stream]
        sockets.reset(self._transport)
        self._end(by_us=True)

    def _end(self, by_us: bool) -> None:
        """Cancels what is on the connection. One by one: cancelling lets the others' due answers out."""
        self._ended = True
        self._coming.clear()
        while self._begun:
            self._server.cancel(self._begun.popitem()[1], by_us)

    def _take(self, event: ngh2.Event) -> None:
        if self._ended:
            return
        if isinstance(event, ngh2.RequestReceived):
            self._coming[event.stream_id] = self._exchange(event.stream_id, event.headers)
            if event.end_stream:
                self._begin(event.stream_id)
        elif isinstance(event, ngh2.DataReceived):
            if self._server.by_items and (exchange := self._coming.get(event.stream_id)) is not None:
                exchange.body += event.data
            if event.end_stream:
                self._begin(event.stream_id)
        elif isinstance(event, ngh2.TrailersReceived):
            self._begin(event.stream_id)
        elif isinstance(event, (ngh2.StreamReset, ngh2.StreamClosed)):
            self._coming.pop(event.stream_id, None)
            if (exchange := self._begun.pop(event.stream_id, None)) is not None:
                self._server.cancel(exchange)

    def _exchange(self, stream: int, headers: tuple[ngh2.Header, ...]) -> Http2Exchange | None:
        """None for a gRPC method that is not known here."""
        path = kind = method = b""
        for field in headers:
            name = field[0]
            if name == b":path":
                path = field[1]
            elif name == b"content-type":
                kind = field[1]
            elif name == b":method":
                method = field[1]
        answers = self._server.answers
        if not kind.startswith(b"application/grpc"):
            bodies = [Http2Answer(a.headers) for a in answers.http2] if method == b"HEAD" else answers.http2
            return Http2Exchange(self, stream, path.startswith(HEALTH_PREFIX), bodies[OK], bodies)
        if path == INFER:
            return Http2Exchange(self, stream, False, answers.infer, answers.grpc_errors)
        if (check := answers.checks.get(path)) is not None:
            return Http2Exchange(self, stream, True, check, answers.grpc_errors)
        return None

    def _begin(self, stream: int) -> None:
        """The request is whole."""
        if stream not in self._coming:
            return
        exchange = self._coming.pop(stream)
        if exchange is None:
            self._send(stream, self._server.answers.unimplemented)
            return
        self._begun[stream] = exchange
        if self._server.by_items:
            exchange.items = batch.of_grpc(exchange.body)
            exchange.body = b""
        self._server.receive(exchange)

    def _send(self, stream: int, answer: Http2Answer) -> None:
        session = self._session
        if not answer.body and answer.trailers is None:
            session.send_response(stream, answer.headers, end_stream=True)
            return
        session.send_response(stream, answer.headers)
        session.send_data(stream, answer.body, end_stream=answer.trailers is None)
        if answer.trailers is not None:
            session.send_trailers(stream, answer.trailers)

    def _flush(self) -> None:
        if self._ended or self._transport.is_closing():
            return
        if data := self._session.data_to_send():
            self._transport.write(data)
        if not self._session.want_read and not self._session.want_write:
            self._transport.close()
