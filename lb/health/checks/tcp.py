"""TCP check: the endpoint accepts a connection (also on a Unix socket), and says what it should."""

from __future__ import annotations

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed, Means, explain
from lb.health.checks.conversation import conversation
from lb.health.checks.plain import inquire
from lb.health.checks.steps import Script
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import PROXY_HEADERS, connected


class TcpCheck:
    """Passes when a connection is established, with TLS when the handshake has been good, too, and every step of the
    script, if there is one, went as it should."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None, means: Means | None = None) -> None:
        self._tls = tls
        self._poller = means.poller if means is not None else None
        self._header = PROXY_HEADERS[config.send_proxy or "off"]
        self._script = Script(config.steps) if config.steps else None

    async def run(self, address: str) -> None:
        if self._script is not None:
            async with conversation(address, self._tls, self._header) as talk:
                await self._script.run(talk)
            return
        if self._tls is not None or self._header:
            await reach(address, self._tls, header=self._header)
            return
        try:
            await inquire(address, b"", bool, self._poller)
        except OSError as e:
            raise CheckFailed(explain(e)) from e


async def reach(address: str, tls: CheckTls | None, alpn: tuple[str, ...] = (), header: bytes = b"") -> None:
    """Connects, says `header`, with TLS goes as far as the end of the handshake, and closes. Raises CheckFailed."""
    try:
        async with connected(address, tls, alpn, header):
            pass
    except OSError as e:
        raise CheckFailed(explain(e)) from e
