"""HTTP/1.1 with keep-alive and without pipelining; answers are parsed by llhttp (httptools)."""

from __future__ import annotations

import httptools

from bench.load.exchange import Exchange, Sink
from bench.load.request import Request
from bench.load.serial import SerialClient, SerialConnection
from bench.load.spec import Spec

_WITH_BODY = ("POST", "PUT", "PATCH")


def encode(request: Request, authority: str, close: bool) -> bytes:
    """The request as it is sent; headers of the user's own take precedence over those that it would add."""
    headers = {"host": authority}
    if request.body or request.method in _WITH_BODY:
        headers["content-length"] = str(len(request.body))
    if close:
        headers["connection"] = "close"
    headers |= {name.lower(): value for name, value in request.headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{request.method} {request.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + request.body


class HttpConnection(SerialConnection):
    """An answer without a length, which only the end of the connection ends, counts as `closed`."""

    client: HttpClient

    def __init__(self, client: HttpClient) -> None:
        super().__init__(client)
        self._parser = httptools.HttpResponseParser(self)
        self._length = 0
        self._parts: list[bytes] = []
        self._complete = 0
        self._status = 0
        self._keep = True

    def transmit(self, exchange: Exchange) -> None:
        self._length = self._complete = 0
        self._parts.clear()
        self.write(self.client.encoded[exchange.which])

    def data_received(self, data: bytes) -> None:
        self.client.bytes_in += len(data)
        exchange = self.exchange
        if exchange is None:  # nothing was asked, or it was given up
            self.abandon()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a fault of ours
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.end("bad_answer", keep=False)
            return
        if self._complete:
            self.end(self._verdict(exchange.request), self._keep and self._complete == 1)

    def _verdict(self, request: Request) -> str | None:
        if self._status != request.status:
            return f"status_{self._status}"
        if self._complete > 1 or not request.right(self._length, self._parts):
            return "wrong_answer"
        return None

    # Called by the parser.

    def on_body(self, body: bytes) -> None:
        self._length += len(body)
        if self.exchange is not None and self.exchange.request.answer is not None:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # others announce the answer (RFC 9110, 15.2)
            self._complete += 1
            self._status = status
            self._keep = self._parser.should_keep_alive()


class HttpClient(SerialClient):
    """HTTP/1.1 over plain connections or TLS."""

    def __init__(self, spec: Spec, sink: Sink) -> None:
        super().__init__(spec, sink)
        authority = "localhost" if spec.address.startswith("unix:") else spec.address
        self.encoded = [encode(request, authority, spec.new_connections) for request in spec.requests]

    def make(self) -> HttpConnection:
        return HttpConnection(self)
