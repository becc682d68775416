"""A check's connection to an endpoint, plain or through TLS.

Its socket is the check's own rather than a transport's, so that cancelling at any point closes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

from lb.health.check import CheckFailed, sockaddr
from lb.health.checks.tls import CheckTls, finish, secured

# The PROXY protocol's header for a balancer's own connections, by `send_proxy`: UNKNOWN and LOCAL (its sections 2.1 and
# 2.2), with which servers take the address that the check comes from.
PROXY_HEADERS = {"off": b"", "v1": b"PROXY UNKNOWN\r\n", "v2": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"}


class Wire:
    """Bytes both ways, over a connected socket that does not block. Raises OSError.

    `protocol` is what the handshake of TLS has agreed on (ALPN), if anything.
    """

    protocol: str | None = None

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def close(self) -> None:
        self._sock.close()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def receive(self, size: int) -> bytes:
        """At most `size` bytes; none when the endpoint has closed its side."""
        return await asyncio.get_running_loop().sock_recv(self._sock, size)

    async def secured(self, tls: CheckTls) -> Wire:
        """The same connection with TLS from here on (STARTTLS), which takes this wire's place. Raises OSError, with the
        connection closed."""
        return TlsWire(await secured(self._sock, tls))


class TlsWire(Wire):
    def __init__(self, secure: ssl.SSLSocket) -> None:
        super().__init__(secure)
        self._secure = secure
        self.protocol = secure.selected_alpn_protocol()

    async def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[await finish(self._secure, self._secure.send, left) :]

    async def receive(self, size: int) -> bytes:
        return await finish(self._secure, self._secure.recv, size)


@contextlib.asynccontextmanager
async def connected(
    address: str, tls: CheckTls | None, alpn: tuple[str, ...] = (), header: bytes = b""
) -> AsyncIterator[Wire]:
    """As `connect`; closed afterwards."""
    wire = await connect(address, tls, alpn, header)
    try:
        yield wire
    finally:
        wire.close()


async def connect(address: str, tls: CheckTls | None, alpn: tuple[str, ...] = (), header: bytes = b"") -> Wire:
    """A connection that is established, with TLS when the handshake has been good, too. `header` goes before it.

    Raises OSError and CheckFailed.
    """
    target = sockaddr(address)
    sock = socket.socket(target.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, target.value)
        # A Unix socket with a full queue reads as connecting (EAGAIN) and then as writable: only a peer proves a
        # connection. A TCP connect to a free ephemeral port may meet itself (simultaneous open).
        if sock.getpeername() == sock.getsockname() and target.family != socket.AF_UNIX:
            raise CheckFailed("Connection refused (nothing listens there)")
        if header:
            await asyncio.get_running_loop().sock_sendall(sock, header)
        return Wire(sock) if tls is None else TlsWire(await secured(sock, tls, alpn))
    except BaseException:
        sock.close()
        raise
