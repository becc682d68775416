"""Connections that carry one request at a time, and their pool."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from time import monotonic_ns

from bench.load.connect import Client, Connection
from bench.load.exchange import Exchange


class SerialConnection(Connection):
    """`exchange` is what it carries, None while it is idle."""

    client: SerialClient

    def __init__(self, client: SerialClient) -> None:
        super().__init__(client)
        self.exchange: Exchange | None = None

    @abstractmethod
    def transmit(self, exchange: Exchange) -> None:
        """Writes the request and expects its answer."""

    def carry(self, exchange: Exchange) -> None:
        """Takes the exchange on; it is written at once or when the connection is open."""
        self.exchange = exchange
        exchange.connection = self
        if self.transport is not None:
            exchange.sent = monotonic_ns()
            self.transmit(exchange)

    def up(self) -> None:
        if self.exchange is not None:
            self.carry(self.exchange)
        else:
            self.client.free(self)

    def end(self, failure: str | None, keep: bool) -> None:
        """The answer is whole, or cannot become right. Without `keep` the connection is closed."""
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        exchange.connection = None
        self.answered = True
        self.client.sink.finish(exchange, failure)
        if keep and not self.client.spec.new_connections:
            self.client.free(self)
        elif self.transport is not None:
            self.transport.close()

    def lose(self, failure: str) -> None:
        if self.exchange is not None:
            exchange, self.exchange = self.exchange, None
            exchange.connection = None
            self.client.sink.finish(exchange, failure)
        else:
            self.client.forget(self)


class SerialClient(Client):
    """Idle connections take turns, so that all of them are used at any rate."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._idle: deque[SerialConnection] = deque()

    def send(self, exchange: Exchange) -> bool:
        if self._idle:
            self._idle.popleft().carry(exchange)
            return True
        if self.live < self.spec.connections:
            connection = self.start()
            assert isinstance(connection, SerialConnection)
            connection.carry(exchange)
            return True
        return False

    def free(self, connection: SerialConnection) -> None:
        """It can carry the next one."""
        self._idle.append(connection)
        if self.sink.waiting:
            self.sink.ready()

    def forget(self, connection: SerialConnection) -> None:
        """An idle connection is gone."""
        if connection in self._idle:
            self._idle.remove(connection)

    def cancel(self, exchange: Exchange) -> None:
        connection = exchange.connection
        if connection is not None:
            # Its answer may still come and must not be taken for the next one's.
            exchange.connection = None
            connection.exchange = None
            connection.abandon()
