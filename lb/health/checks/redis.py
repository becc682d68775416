"""Redis check: the server answers PING (https://redis.io/docs/latest/commands/ping/)."""

from __future__ import annotations

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed, explain, shown
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import connected

_LARGEST = 4096  # bytes of an answer; what Redis says here is a line
# Errors of a server that serves those who may ask: it wants a password, or its user may not use PING.
_WELL = (b"+PONG", b"-NOAUTH", b"-NOPERM")


class RedisCheck:
    """Passes when the server answers PONG, or asks for a password. A server that still loads its data fails."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls

    async def run(self, address: str) -> None:
        try:
            async with connected(address, self._tls) as wire:
                await wire.send(b"PING\r\n")
                answer = b""
                while b"\n" not in answer and len(answer) < _LARGEST:
                    received = await wire.receive(_LARGEST)
                    if not received:
                        raise CheckFailed("the connection was closed before PING was answered")
                    answer += received
        except OSError as e:
            raise CheckFailed(explain(e)) from e
        if not answer.startswith(_WELL):
            raise CheckFailed(f"PING was answered with {shown(answer.decode('latin-1'))!r}")
