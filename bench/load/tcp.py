"""Messages over bare TCP: a fixed request, and an answer that is whole after a known number of bytes."""

from __future__ import annotations

from bench.load.exchange import Exchange
from bench.load.serial import SerialClient, SerialConnection


class TcpConnection(SerialConnection):
    """More bytes than the answer has are a wrong answer."""

    def __init__(self, client: SerialClient) -> None:
        super().__init__(client)
        self._length = 0
        self._parts: list[bytes] = []

    def transmit(self, exchange: Exchange) -> None:
        self._length = 0
        self._parts.clear()
        self.write(exchange.request.body)

    def data_received(self, data: bytes) -> None:
        self.client.bytes_in += len(data)
        exchange = self.exchange
        if exchange is None:  # nothing was asked, or it was given up
            self.abandon()
            return
        request = exchange.request
        self._length += len(data)
        if request.answer is not None:
            self._parts.append(data)
        expected = request.length or 0
        if self._length >= expected:
            right = self._length == expected and request.right(self._length, self._parts)
            self.end(None if right else "wrong_answer", keep=right)


class TcpClient(SerialClient):
    """TCP or, with `spec.tls`, TLS; Unix sockets too."""

    def make(self) -> TcpConnection:
        return TcpConnection(self)
