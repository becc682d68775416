"""TLS of health checks: the same trust, identity and names as the workers' connections have."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from msgspec import Struct

from lb.config.plan.plan import EndpointPlan, PoolPlan
from lb.config.plan.tls import PoolTlsPlan

T = TypeVar("T")


class CheckTls(Struct, frozen=True):
    """What a check of one endpoint goes through; `name` is who the endpoint must prove to be."""

    plan: PoolTlsPlan
    name: str

    @property
    def server_name(self) -> str | None:
        return self.name or None

    def context(self, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        """Made once for all endpoints of a pool. Raises ssl.SSLError or OSError."""
        return _context(self.plan, alpn)


def check_tls(pool: PoolPlan, endpoint: EndpointPlan, own: PoolTlsPlan | None = None) -> CheckTls | None:
    """The TLS of an endpoint's checks: their `own`, or the pool's; None: they are plain."""
    tls = own or pool.tls
    if tls is None:
        return None
    address = "" if endpoint.address.startswith("unix:") else endpoint.address.rpartition(":")[0].strip("[]")
    return CheckTls(tls, tls.server_name or endpoint.host or address)


@lru_cache(maxsize=64)
def _context(plan: PoolTlsPlan, alpn: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if plan.min_version == "tls1.3" else ssl.TLSVersion.TLSv1_2
    if not plan.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif plan.ca:
        # Whoever stands in the file is trusted, root or not; comments in it need not be ASCII.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=plan.ca.decode("ascii", "ignore"))
    else:
        context.load_default_certs()
        # A file without any, which that takes in silence, would be remembered with the context.
        if (system := ssl.get_default_verify_paths().cafile) is not None:
            context.load_verify_locations(cafile=system)
    if plan.crl and plan.verify:
        # Each authority of a chain needs a list, as towards the workers (lb.net.tls.revocation).
        with _memory("revocations", plan.crl) as lists:
            context.load_verify_locations(cafile=f"/proc/self/fd/{lists.fileno()}")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if plan.certificate:
        _load_pair(context, plan.certificate, plan.key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """The module ssl takes files only; these exist in memory alone."""
    with _memory("certificate", certificate) as chain, _memory("key", key) as private:
        context.load_cert_chain(f"/proc/self/fd/{chain.fileno()}", f"/proc/self/fd/{private.fileno()}")


def _memory(name: str, content: bytes) -> Any:
    stream = os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC), "w+b")
    stream.write(content)
    stream.flush()
    return stream


async def secured(plain: socket.socket, tls: CheckTls, alpn: tuple[str, ...] = ()) -> ssl.SSLSocket:
    """TLS on a connected, non-blocking socket, which it takes over. Raises OSError, with the socket closed."""
    context = tls.context(alpn)
    secure = context.wrap_socket(plain, server_hostname=tls.server_name, do_handshake_on_connect=False)
    try:
        await finish(secure, secure.do_handshake)
    except BaseException:
        secure.close()
        raise
    return secure


async def finish(secure: ssl.SSLSocket, call: Callable[..., T], *args: Any) -> T:
    """What the socket's `call` gives, as soon as it need not wait. Raises OSError."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return call(*args)
        except ssl.SSLWantReadError:
            await _ready(loop.add_reader, loop.remove_reader, secure.fileno())
        except ssl.SSLWantWriteError:
            await _ready(loop.add_writer, loop.remove_writer, secure.fileno())


async def _ready(add: Callable[..., Any], remove: Callable[[int], Any], fd: int) -> None:
    came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not came.done():
            came.set_result(None)

    add(fd, wake)
    try:
        await came
    finally:
        remove(fd)
