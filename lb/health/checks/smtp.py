"""SMTP check: a mail server greets, answers EHLO, and is told goodbye (RFC 5321 section 4.3.2)."""

from __future__ import annotations

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed, shown
from lb.health.checks.conversation import Conversation, conversation, waiting_for
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import PROXY_HEADERS

_MOST_LINES = 100


class SmtpCheck:
    """Passes on 220 to the connection and 250 to EHLO. With TLS it speaks from the first byte, as on port 465."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls
        self._header = PROXY_HEADERS[config.send_proxy or "off"]

    async def run(self, address: str) -> None:
        async with conversation(address, self._tls, self._header) as talk:
            await _reply(talk, b"220", "the greeting")
            await talk.send(b"EHLO tidegate.invalid\r\n")
            await _reply(talk, b"250", "EHLO")
            # The goodbye is waited for: whoever closes first is "lost connection" to the server.
            await talk.send(b"QUIT\r\n")
            await _reply(talk, b"221", "QUIT")


async def _reply(talk: Conversation, wanted: bytes, to: str) -> None:
    """Reads a reply of one or more lines. Raises CheckFailed unless its code is `wanted`."""
    with waiting_for(f"{to} has no reply", talk):
        for _ in range(_MOST_LINES):
            line = await talk.line()
            if line[:3] != wanted:
                raise CheckFailed(f"{to}: {shown(line.decode('latin-1'))!r}")
            if line[3:4] != b"-":
                return
    raise CheckFailed(f"{to}: a reply of more than {_MOST_LINES} lines")
