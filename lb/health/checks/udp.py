"""UDP check: a datagram is answered, or at least nobody says that there is no one to answer it."""

from __future__ import annotations

import asyncio
import socket

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed, explain, sockaddr
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import PROXY_HEADERS
from lb.http.regex import Regex

_LARGEST = 65536


class UdpCheck:
    """Passes on an answer to `send` in which `expect` is found; with `answered: false`, unless the datagram is refused.

    An endpoint's system refuses what nobody takes with an ICMP message, which a connected socket gives back as an error
    (RFC 1122 4.1.3.3, udp(7)). It may come late or never; the check waits for it half of its time.
    """

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        """`tls` is there for all checks; a pool of protocol udp has none."""
        self._send = PROXY_HEADERS[config.send_proxy or "off"] + config.send.encode("latin-1")
        self._expect = Regex(b"(?s)" + (config.expect or "").encode("latin-1"))
        self._answered = config.answered
        self._patience = config.timeout / 2e9

    async def run(self, address: str) -> None:
        target = sockaddr(address)
        loop = asyncio.get_running_loop()
        try:
            # A socket of its own for each check: a late answer to the last one must not pass for one to this.
            with socket.socket(target.family, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                if target.family == socket.AF_UNIX:
                    sock.bind("")  # an abstract address of the kernel's choice, for the answer to go to (unix(7))
                sock.connect(target.value)
                sock.send(self._send)  # a new socket has room
                if self._answered:
                    await self._wait_answer(loop, sock)
                else:
                    await self._wait_refusal(loop, sock)
        except OSError as e:
            raise CheckFailed(explain(e)) from e

    async def _wait_answer(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        answer = await loop.sock_recv(sock, _LARGEST)
        if not self._expect.matches(answer):
            raise CheckFailed(f"the answer {answer[:64]!r} is not what was expected")

    async def _wait_refusal(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await loop.sock_recv(sock, _LARGEST)
        except TimeoutError:
            return
