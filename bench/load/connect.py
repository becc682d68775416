"""Opening connections, opening lost ones anew, and naming why it failed; what all protocols share."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from abc import ABC, abstractmethod
from typing import cast

from bench.errors import BenchError
from bench.load.exchange import Exchange, Sink
from bench.load.spec import Spec, target

_AT_ONCE = 32  # opened together at the start: below any usual listen backlog, or a SYN is lost and waits a second
_AGAIN_S = 0.1  # until a failed attempt is repeated of our own accord


class Connection(asyncio.Protocol, ABC):
    """One connection of a client; counted as `open` or `opening` by the client until it is `gone`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.transport: asyncio.Transport | None = None
        self.gone = False
        self.counted = True  # among the client's live ones
        self.answered = False
        self._task: asyncio.Task[None] | None = None

    def dial(self) -> None:
        """Starts opening it; `up` or `lose` follows."""
        self._task = asyncio.get_running_loop().create_task(self._dial())

    async def wait_dialled(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _dial(self) -> None:
        try:
            await self.client.connect(self)
        except OSError as error:
            self.client.drop(self, kind_of(error))

    def abandon(self) -> None:
        """Closes it at once, without waiting for what is under way."""
        if self.transport is not None:
            self.transport.abort()
        elif self._task is not None:
            self._task.cancel()
            self.client.drop(self, "connect")  # a task that is cancelled before it began does not say so itself

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.gone:
            self.transport.abort()
        elif (refusal := self.client.refusal(self.transport)) is not None:
            self.client.drop(self, refusal)
            self.transport.abort()
        else:
            self.up()

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.drop(self, "closed" if exc is None else "reset")

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.client.bytes_out += len(data)
        self.transport.write(data)

    @abstractmethod
    def up(self) -> None:
        """It is open."""

    @abstractmethod
    def lose(self, failure: str) -> None:
        """It is gone: everything that was on it fails so. Called once."""


class Client(ABC):
    """Sends exchanges on at most `spec.connections` connections and tells the sink how they ended."""

    def __init__(self, spec: Spec, sink: Sink) -> None:
        self.spec = spec
        self.sink = sink
        self.live = 0  # opening and open connections
        self.bytes_in = 0
        self.bytes_out = 0
        self.closing = False
        self._connections: set[Connection] = set()
        self._host, self._port = target(spec.address)
        self._unix = spec.address.startswith("unix:")
        self._ssl = spec.tls.context(spec.protocol) if spec.tls else None
        self._server_name = (spec.tls.server_name or self._host) if spec.tls else None
        self._all_gone = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None

    @abstractmethod
    def send(self, exchange: Exchange) -> bool:
        """Takes it on, or returns False if there is no room for it now."""

    @abstractmethod
    def cancel(self, exchange: Exchange) -> None:
        """It took too long and counts as failed already: nothing may be said about it any more."""

    @abstractmethod
    def make(self) -> Connection:
        """A connection that is not yet dialled."""

    def flush(self) -> None:  # noqa: B027 (most protocols write at once)
        """Writes what was gathered by `send`."""

    async def resolve(self) -> None:
        """Looks the name up once, so that no lookup is measured. Raises BenchError if it cannot be found."""
        if self._unix:
            return
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise BenchError(f"{self.spec.address}: {error.strerror}") from error
        self._host = str(found[0][4][0])

    async def open(self) -> None:
        """Opens all connections, as far as it can be done; what fails now will be tried again."""
        while self.live < self.spec.connections and not self.spec.new_connections:
            fresh = [self.start() for _ in range(min(_AT_ONCE, self.spec.connections - self.live))]
            await asyncio.gather(*(connection.wait_dialled() for connection in fresh))
            if all(connection.gone for connection in fresh):
                return

    def start(self) -> Connection:
        """A new connection that is being opened."""
        connection = self.make()
        self.live += 1
        self._connections.add(connection)
        self._all_gone.clear()
        connection.dial()
        return connection

    async def connect(self, connection: Connection) -> None:
        """Raises OSError (with ssl.SSLError and TimeoutError)."""
        loop = asyncio.get_running_loop()
        name = self._server_name if self._ssl else None
        async with asyncio.timeout(self.spec.timeout_s):
            if self._unix:
                await loop.create_unix_connection(lambda: connection, self._host, ssl=self._ssl, server_hostname=name)
            else:
                await loop.create_connection(
                    lambda: connection, self._host, self._port, ssl=self._ssl, server_hostname=name
                )

    def refusal(self, transport: asyncio.Transport) -> str | None:
        """A kind of failure if this connection cannot be used."""
        return None

    def drop(self, connection: Connection, failure: str) -> None:
        """A connection has ended, or never came to be."""
        if connection.gone:
            return
        connection.gone = True
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()
        self.retire(connection)
        connection.lose(failure)
        if self.closing:
            return
        if connection.answered:
            self.reopen()
        elif self._again is None:  # a server that takes no connections must not be stormed
            self._again = asyncio.get_running_loop().call_later(_AGAIN_S, self.reopen)
        self.sink.ready()

    def retire(self, connection: Connection) -> None:
        """It takes no new requests, so another may be opened in its place. Idempotent."""
        self.live -= connection.counted
        connection.counted = False

    def reopen(self) -> None:
        """Opens what is missing, unless requests bring their own connections."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        while self.live < self.spec.connections and not (self.closing or self.spec.new_connections):
            self.start()

    async def close(self) -> None:
        """Ends all connections."""
        self.closing = True
        if self._again is not None:
            self._again.cancel()
        for connection in list(self._connections):
            connection.abandon()
        if self._connections:
            await self._all_gone.wait()


def kind_of(error: OSError) -> str:
    """Why a connection could not be opened, as a kind of failure."""
    if isinstance(error, ssl.SSLError):
        return "tls"
    if isinstance(error, TimeoutError):
        return "connect_timeout"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no_local_port"  # a limit of the generator's own machine
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no_descriptor"
    return "connect"
