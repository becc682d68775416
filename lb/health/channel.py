"""gRPC connections of checks: one for each, plain or through TLS, and gRPC's errors as reasons."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from functools import cache

import grpc
import grpc.aio

from lb.config.units import MILLISECOND
from lb.health.check import CheckFailed, explain, sockaddr
from lb.health.tcp import reach
from lb.health.tls import CheckTls

_LARGEST = 4 * 1024 * 1024  # of an answer, gRPC's own default
_KEEPALIVE_MS = 600_000  # servers by default take one ping in five minutes

_OPTIONS = (
    # Without these, a channel would share its connection, and the back-off after a failed one, with those before it.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_receive_message_length", _LARGEST),
)


class Channels:
    """Makes the channels of one check, whose time is `timeout` nanoseconds."""

    def __init__(self, timeout: int, tls: CheckTls | None = None) -> None:
        self._tls = tls
        # gRPC goes on connecting for these times, 20 s if not told, after the channel is closed: a socket per check.
        connect_ms = max(100, timeout // MILLISECOND)
        self._options = (
            *_OPTIONS,
            ("grpc.min_reconnect_backoff_ms", connect_ms),
            ("grpc.initial_reconnect_backoff_ms", connect_ms),
            # A channel that is closed while its peer takes nothing stays until what it has to say is written: a socket
            # per check at a server that makes it answer (PING, SETTINGS) and never reads. With keepalive, gRPC sets
            # TCP_USER_TIMEOUT, and the kernel ends such a connection.
            ("grpc.keepalive_time_ms", max(_KEEPALIVE_MS, connect_ms)),
            ("grpc.keepalive_timeout_ms", connect_ms),
        )

    @contextlib.asynccontextmanager
    async def open(self, address: str) -> AsyncIterator[grpc.aio.Channel]:
        """A connection of its own, so that each check also proves that the endpoint still accepts.

        Raises CheckFailed for what is no address, when the files of TLS cannot be read, and for a certificate that is
        revoked: gRPC's library knows no revocation lists, so a handshake of our own goes first where there are some.
        """
        if self._tls is not None and self._tls.plan.crl:
            await reach(address, self._tls, ("h2",))
        async with self._made(address) as channel:
            yield channel

    def _made(self, address: str) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(_target(address), options=self._options)
        plan = self._tls.plan
        try:
            if not plan.ca:
                _trust_system()
        except OSError as e:
            raise CheckFailed(explain(e)) from e
        credentials = grpc.ssl_channel_credentials(plan.ca or None, plan.key or None, plan.certificate or None)
        named = (("grpc.ssl_target_name_override", self._tls.name), ("grpc.default_authority", self._tls.name))
        return grpc.aio.secure_channel(_target(address), credentials, options=(*self._options, *named))


@cache
def _trust_system() -> None:
    """Makes the system's authorities those whom gRPC's library trusts by default: it reads these once. Those that it is
    given with a channel it parses for each, and the system's hundreds were most of what a check cost.

    Raises OSError when the file has none.
    """
    system = ssl.get_default_verify_paths().cafile
    if system is not None:
        # A file without any would be remembered, too.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=system)
        # For the library in this process alone: os.environ, which children inherit, stays as it is.
        os.putenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", system)


def reason(error: grpc.aio.AioRpcError) -> str:
    """A failed call as an operator reads it."""
    details = " ".join((error.details() or "").split())
    return f"{error.code().name}: {details}" if details else str(error.code().name)


def _target(address: str) -> str:
    """The address in a form that gRPC takes literally, without its name resolution."""
    target = sockaddr(address)
    if target.family == socket.AF_UNIX:
        return address
    return f"{'ipv4' if target.family == socket.AF_INET else 'ipv6'}:{address}"
