"""HTTP/1.1 connections of an emulated server. Requests are read whole; their content matters for its batch at most."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

import httptools

from bench.emulator import batch, sockets
from bench.emulator.answers import BAD_REQUEST, CONTINUE, HEALTH_PREFIX
from bench.emulator.server import Exchange, ModelServer

# Pipelined requests that are read ahead of the one being served.
_AHEAD = 64


class Http1Exchange(Exchange):
    """`close` says that the connection ends with the answer, `head` that it has no body."""

    __slots__ = ("close", "connection", "head")

    def __init__(self, connection: Http1, check: bool, close: bool, head: bool) -> None:
        super().__init__(check)
        self.connection = connection
        self.close = close
        self.head = head

    def answer(self, outcome: int) -> None:
        """See `Exchange`."""
        self.connection.answer(self, outcome)

    def reset(self) -> None:
        """See `Exchange`."""
        self.connection.reset()


class Http1(asyncio.Protocol):
    """Serves one connection; of pipelined requests the next begins when the one before is answered."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._current: Http1Exchange | None = None
        self._waiting: deque[Http1Exchange] = deque()
        self._path = b""
        self._body = b""
        self._expects = False
        self._beginning = False
        self._ended = False
        self._deaf = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        self._waiting.clear()
        if (exchange := self._current) is not None:
            self._current = None
            self._server.cancel(exchange)

    def data_received(self, data: bytes) -> None:
        if self._ended or self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # RFC 9110, section 7.8: a server may ignore Upgrade. What follows is not for this parser, so the answer to
            # that request says that the connection ends.
            self._deaf = True
        except httptools.HttpParserError:
            self._ended = True
            if self._current is None:
                self._transport.write(BAD_REQUEST)
            self._transport.close()

    # Callbacks of the parser

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 6 and name.lower() == b"expect" and value.lower() == b"100-continue":
            self._expects = True

    def on_headers_complete(self) -> None:
        if self._expects:
            self._expects = False
            if self._current is None:
                self._transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        if self._server.by_items:
            self._body += body

    def on_message_complete(self) -> None:
        parser = self._parser
        check = self._path.startswith(HEALTH_PREFIX)
        self._path = b""
        # An HTTP/1.0 client that keeps its connection would have to be told so; none of the proxies here is one.
        close = not parser.should_keep_alive() or parser.get_http_version() == "1.0" or parser.should_upgrade()
        exchange = Http1Exchange(self, check, close, parser.get_method() == b"HEAD")
        if self._server.by_items:
            exchange.items = batch.of_json(self._body)
            self._body = b""
        self._waiting.append(exchange)
        if len(self._waiting) > _AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._begin()

    # Of its exchanges

    def answer(self, exchange: Http1Exchange, outcome: int) -> None:
        """Sends the current exchange's answer and begins the next."""
        self._current = None
        self._transport.write(self._server.answers.http1(outcome, exchange.close, exchange.head))
        if exchange.close:
            self._ended = True
            self._waiting.clear()
            self._transport.close()
        elif self._waiting:
            self._begin()

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        self._current = None
        self._ended = True
        self._waiting.clear()
        sockets.reset(self._transport)

    def _begin(self) -> None:
        """Hands requests over, one at a time. A loop: an answer may come at once, and that must not nest."""
        if self._beginning:
            return
        self._beginning = True
        while self._waiting and self._current is None:
            self._current = exchange = self._waiting.popleft()
            self._server.receive(exchange)
        self._beginning = False
        if self._paused and len(self._waiting) <= _AHEAD and not self._ended:
            self._paused = False
            self._transport.resume_reading()
