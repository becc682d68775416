"""HAProxy's agent-check protocol: one line of words that says how an endpoint is, and how much it should get.

HAProxy's configuration manual, section 5.2, `agent-check`. What a line does not speak of stays as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket

from msgspec import Struct

from lb.health.check import CheckFailed, explain, shown, sockaddr

MAX_LINE = 1024  # bytes
MAX_LIMIT = 1_000_000  # as max_in_flight in the configuration

_END = re.compile(rb"[\r\n]")
_BLANKS = re.compile(r"[ \t,]+")
_PERCENT = re.compile(r"([0-9]{1,9})%")
_MAXCONN = re.compile(r"maxconn:([0-9]{1,9})")
_HEALTH = frozenset(("up", "down", "fail", "stopped"))
_ADMIN = frozenset(("ready", "drain", "maint"))


class Answer(Struct, frozen=True):
    """What one line says; None: nothing about that.

    `health` is up, down, fail or stopped; `description` what follows a `#`. `admin` is ready, drain or maint. `percent`
    is of the endpoint's weight. `maxconn` is the most requests at once, 0 for no limit. `unknown` are the words that
    mean nothing.
    """

    health: str | None = None
    description: str = ""
    admin: str | None = None
    percent: int | None = None
    maxconn: int | None = None
    unknown: tuple[str, ...] = ()


def parse(line: bytes) -> Answer:
    """What a line, without its end, says. Of words about the same the last holds; upper and lower case are the same, as
    in HAProxy. Never raises."""
    head, _, description = line.decode("ascii", "replace").partition("#")
    health = admin = percent = maxconn = None
    unknown = []
    for word in filter(None, _BLANKS.split(head)):
        lower = word.lower()
        if lower in _HEALTH:
            health = lower
        elif lower in _ADMIN:
            admin = lower
        elif found := _PERCENT.fullmatch(lower):
            percent = int(found[1])
        elif found := _MAXCONN.fullmatch(lower):
            maxconn = min(int(found[1]), MAX_LIMIT)
        else:
            unknown.append(shown(word))
    return Answer(health, shown(description), admin, percent, maxconn, tuple(unknown))


async def ask(address: str, send: bytes) -> bytes:
    """The line of the agent at `address`, which is sent `send` first. It ends with CR, LF or the connection.

    Raises CheckFailed when there is none; cancelled, it has closed its socket when it ends.
    """
    target = sockaddr(address)
    loop = asyncio.get_running_loop()
    try:
        with socket.socket(target.family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, target.value)
            # A TCP connect to a free ephemeral port may meet itself (simultaneous open).
            if sock.getpeername() == sock.getsockname():
                raise CheckFailed("Connection refused (nothing listens there)")
            if send:
                # An agent need not read: it may have answered and closed by now.
                with contextlib.suppress(ConnectionError):
                    await loop.sock_sendall(sock, send)
            return await _read_line(loop, sock)
    except OSError as e:
        raise CheckFailed(explain(e)) from e


async def _read_line(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    came = bytearray()
    while len(came) < MAX_LINE:
        piece = await loop.sock_recv(sock, MAX_LINE - len(came))
        came += piece
        end = _END.search(came)
        if end is not None:
            return bytes(came[: end.start()])
        if not piece:
            if not came:
                raise CheckFailed("connection closed without an answer")
            return bytes(came)
    raise CheckFailed(f"no end of the line within {MAX_LINE} bytes")
