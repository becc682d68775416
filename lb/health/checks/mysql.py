"""MySQL check, also for MariaDB: the server greets, lets a user in who has no password, and is told goodbye.

Protocol: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html. A server counts clients
that leave before they have said who they are, writes them to its log, and locks their host out at last
(`max_connect_errors`): that is why the check has a user.
"""

from __future__ import annotations

import contextlib
import struct

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed, explain, shown
from lb.health.checks.conversation import Conversation, waiting_for
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import PROXY_HEADERS, connected

# CLIENT_LONG_PASSWORD, CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION, CLIENT_PLUGIN_AUTH
_CAPABILITIES = 0x1 | 0x200 | 0x8000 | 0x80000
_SSL = 0x800
_PACKET = 1 << 24  # bytes at most
_UTF8MB4 = 45
_VERSION = 10
_QUIT = b"\x01"
_MOST_TURNS = 8
# The server is well, and refuses that user: ER_ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD_ERROR,
# ER_NOT_SUPPORTED_AUTH_MODE.
_NOT_WELCOME = (1045, 1698, 1251)


class MysqlCheck:
    """Passes when the server lets `user` in, or refuses that user. One that is full, stops, or has locked this host out
    fails with the server's own words."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls
        self._header = PROXY_HEADERS[config.send_proxy or "off"]
        self._user = (config.user or "").encode()

    async def run(self, address: str) -> None:
        try:
            async with connected(address, None, header=self._header) as wire:
                talk = Conversation(wire)
                with waiting_for("the server has not greeted", talk):
                    number, greeting = await _packet(talk)
                _greeted(greeting)
                if self._tls is None:
                    await self._log_in(talk, number + 1)
                    return
                # TLS begins within the connection: an SSLRequest is the first half of the answer to the greeting.
                await _send(talk, number + 1, self._head(_SSL))
                with contextlib.closing(await wire.secured(self._tls)) as secure:
                    await self._log_in(Conversation(secure), number + 2, _SSL)
        except OSError as e:
            raise CheckFailed(explain(e)) from e

    @staticmethod
    def _head(more: int) -> bytes:
        return struct.pack("<IIB23x", _CAPABILITIES | more, _PACKET, _UTF8MB4)

    async def _log_in(self, talk: Conversation, number: int, more: int = 0) -> None:
        await _send(talk, number, self._head(more) + self._user + b"\0\0mysql_native_password\0")
        with waiting_for("the server has not let the user in", talk):
            for _ in range(_MOST_TURNS):
                number, answer = await _packet(talk)
                match answer[0] if answer else None:
                    case 0x00:  # OK
                        await _send(talk, 0, _QUIT)
                        return
                    case 0xFF:  # ERR
                        _judge(answer)
                        return
                    case 0x01 if answer[1:] == b"\x03":  # caching_sha2_password knows the user: OK follows
                        pass
                    case 0x01 | 0xFE:  # another question, or another way to ask: an empty password is the same to all
                        await _send(talk, number + 1, b"")
                    case _:
                        break
        raise CheckFailed("the answer is not MySQL's")


def _greeted(greeting: bytes) -> None:
    """Raises CheckFailed unless it is a server's greeting."""
    if greeting[:1] == b"\xff":  # ERR
        code, said = _said(greeting)
        raise CheckFailed(f"{said} ({code})")
    if greeting[:1] != bytes([_VERSION]):
        raise CheckFailed("the greeting is not MySQL's")


def _judge(error: bytes) -> None:
    """Raises CheckFailed for an error that says that the server does not serve."""
    code, said = _said(error)
    if code not in _NOT_WELCOME:
        raise CheckFailed(f"{said} ({code})")


def _said(error: bytes) -> tuple[int, str]:
    """Number and text of an ERR packet; a SQLSTATE stands before the text once the client is known."""
    code = int.from_bytes(error[1:3], "little")
    text = error[9:] if error[3:4] == b"#" else error[3:]
    return code, shown(text.decode("utf-8", "replace"))


async def _packet(talk: Conversation) -> tuple[int, bytes]:
    """Number and content of the next packet."""
    head = await talk.exactly(4)
    size = int.from_bytes(head[:3], "little")
    if size > 0xFFFF:
        raise CheckFailed("the answer is not MySQL's")
    return head[3], await talk.exactly(size)


async def _send(talk: Conversation, number: int, content: bytes) -> None:
    await talk.send(len(content).to_bytes(3, "little") + bytes([number & 0xFF]) + content)
