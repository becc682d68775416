"""TCP check: the endpoint accepts a connection (also on a Unix socket)."""

from __future__ import annotations

import asyncio
import socket

from lb.config.schema import HealthConfig
from lb.health.check import CheckFailed, explain, sockaddr
from lb.health.tls import CheckTls, handshake


class TcpCheck:
    """Passes when a connection is established, with TLS when the handshake has been good, too."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls

    async def run(self, address: str) -> None:
        await reach(address, self._tls)


async def reach(address: str, tls: CheckTls | None, alpn: tuple[str, ...] = ()) -> None:
    """Connects, with TLS as far as the end of the handshake, and closes. Raises CheckFailed."""
    target = sockaddr(address)
    loop = asyncio.get_running_loop()
    try:
        # The socket is ours rather than a transport's, so that cancelling at any point closes it.
        with socket.socket(target.family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, target.value)
            # A Unix socket with a full queue reads as connecting (EAGAIN) and then as writable: only a peer proves a
            # connection. A TCP connect to a free ephemeral port may meet itself (simultaneous open).
            if sock.getpeername() == sock.getsockname() and target.family != socket.AF_UNIX:
                raise CheckFailed("Connection refused (nothing listens there)")
            if tls is not None:
                await handshake(sock, tls, alpn)
    except OSError as e:
        raise CheckFailed(explain(e)) from e
