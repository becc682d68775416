"""Redis check: the server answers PING (https://redis.io/docs/latest/commands/ping/)."""

from __future__ import annotations

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed, shown
from lb.health.checks.conversation import conversation, waiting_for
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import PROXY_HEADERS

# Errors of a server that serves those who may ask: it wants a password, or its user may not use PING.
_WELL = (b"+PONG", b"-NOAUTH", b"-NOPERM")


class RedisCheck:
    """Passes when the server answers PONG, or asks for a password. A server that still loads its data fails."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls
        self._header = PROXY_HEADERS[config.send_proxy or "off"]

    async def run(self, address: str) -> None:
        async with conversation(address, self._tls, self._header) as talk:
            await talk.send(b"PING\r\n")
            with waiting_for("PING has no answer", talk):
                answer = await talk.line()
        if not answer.startswith(_WELL):
            raise CheckFailed(f"PING was answered with {shown(answer.decode('latin-1'))!r}")
