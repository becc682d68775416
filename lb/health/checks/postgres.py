"""PostgreSQL check: the server lets a user begin, or asks who it is.

Protocol: https://www.postgresql.org/docs/current/protocol-flow.html

The server's log stays quiet: a client that leaves while it is asked for a password is none of its complaints, and one
that was let in says goodbye.
"""

from __future__ import annotations

import contextlib
import struct

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed, explain, shown
from lb.health.checks.conversation import LARGEST, Conversation, conversation, waiting_for
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import PROXY_HEADERS, connected

_VERSION = 196_608  # 3.0
_SSL_REQUEST = struct.pack("!II", 8, 80_877_103)
_TERMINATE = b"X" + struct.pack("!I", 4)
_READY, _AUTHENTICATION, _ERROR = b"Z", b"R", b"E"
# Classes of SQLSTATE: who may come in is for the server's clients to know; the server itself is well.
_NOT_WELCOME = ("28", "3D")  # invalid authorization, invalid catalog name


class PostgresCheck:
    """Passes when the server asks for a password, lets `user` in, or refuses that user. One that starts, stops,
    recovers, or has no connection left fails."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls
        self._header = PROXY_HEADERS[config.send_proxy or "off"]
        user = (config.user or "postgres").encode()
        fields = b"user\0" + user + b"\0database\0postgres\0application_name\0tidegate-health\0\0"
        self._startup = struct.pack("!II", 8 + len(fields), _VERSION) + fields

    async def run(self, address: str) -> None:
        if self._tls is None:
            async with conversation(address, None, self._header) as talk:
                await self._begin(talk)
            return
        try:
            # TLS begins within the connection (section SSL Session Encryption).
            async with connected(address, None, header=self._header) as wire:
                await wire.send(_SSL_REQUEST)
                if await wire.receive(1) != b"S":
                    raise CheckFailed("the server does not speak TLS")
                with contextlib.closing(await wire.secured(self._tls)) as secure:
                    await self._begin(Conversation(secure))
        except OSError as e:
            raise CheckFailed(explain(e)) from e

    async def _begin(self, talk: Conversation) -> None:
        await talk.send(self._startup)
        with waiting_for("the server was asked to begin", talk):
            while True:
                kind = await talk.exactly(1)
                (size,) = struct.unpack("!I", await talk.exactly(4))
                if not 4 <= size <= LARGEST:
                    raise CheckFailed("the answer is not PostgreSQL's")
                body = await talk.exactly(size - 4)
                if kind == _ERROR:
                    _judge(body)
                    return
                if kind == _AUTHENTICATION and body[:4] != b"\0\0\0\0":
                    return  # it asks who we are
                if kind == _READY:
                    await talk.send(_TERMINATE)
                    return


def _judge(body: bytes) -> None:
    """Raises CheckFailed for an error that says that the server does not serve. Its fields: section Error and Notice
    Message Fields."""
    fields = {field[:1]: field[1:].decode("utf-8", "replace") for field in body.split(b"\0") if field}
    code = fields.get(b"C", "")
    if code[:2] not in _NOT_WELCOME:
        raise CheckFailed(f"{shown(fields.get(b'M', 'an error'))} ({shown(code, 5)})")
