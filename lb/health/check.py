"""What every health check is: one question to one address, answered by returning or by `CheckFailed`."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct

from lb.config.address import UnixPath, parse_address, socket_name
from lb.errors import TidegateError
from lb.net.poller import Poller


class CheckFailed(TidegateError):
    """The endpoint did not pass; the message is the reason an operator reads."""


_OURS = frozenset(
    (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
)


_IPV6_ADDRESSES = Path("/proc/net/if_inet6")  # empty or missing: this machine has none


def is_ours(failure: CheckFailed, address: str) -> str | None:
    """Why the check could not be made at all, where this machine or process is out of something; it says nothing of the
    endpoint then. An IPv6 endpoint of a machine without IPv6 cannot be reached, which the kernel says in the words of a
    machine without a free port."""
    cause = failure.__cause__ or failure.__context__
    if not isinstance(cause, OSError) or cause.errno not in _OURS:
        return None
    if cause.errno == errno.EADDRNOTAVAIL and address.startswith("[") and not _has_ipv6():
        return None
    return os.strerror(cause.errno)


def _has_ipv6() -> bool:
    try:
        return bool(_IPV6_ADDRESSES.read_bytes())
    except OSError:
        return False


Models = Mapping[str, bool]
"""What an endpoint says of its models: name -> whether it is ready there."""

NO_INDEX: Models = MappingProxyType({})
"""The answer of an endpoint that was asked which models it has, and whose server cannot tell: it may have any."""


class Means(Struct, frozen=True):
    """What the checks of one endpoint may use: `poller` watches connections, and `closing` ends with the checks, what
    they keep from one to the next included."""

    poller: Poller
    closing: ExitStack


class Check(Protocol):
    """A check of one pool; built from its `HealthConfig`. One with Means is for one address."""

    async def run(self, address: str) -> Models | None:
        """Return if the endpoint at `address` is well, else raise `CheckFailed`, and nothing else. What is returned is
        what it says of its models, None from a check that does not ask.

        The caller limits the time by cancelling; a cancelled check has closed its sockets when it ends.
        """
        ...


class Sockaddr(Struct, frozen=True):
    """An endpoint's address as socket calls take it."""

    family: socket.AddressFamily
    value: str | tuple[str, int] | tuple[str, int, int, int]


def sockaddr(address: str) -> Sockaddr:
    """Parse "1.2.3.4:port", "[v6]:port" or "unix:/path"; names are resolved before, when the plan is compiled.

    Raises CheckFailed for anything else.
    """
    try:
        parsed = parse_address(address)
    except ValueError as e:
        raise CheckFailed(str(e)) from None
    if isinstance(parsed, UnixPath):
        return Sockaddr(socket.AF_UNIX, parsed.name)
    if not parsed.literal:
        raise CheckFailed(f"{address!r} is a name, not an IP address")
    try:
        return Sockaddr(socket.AF_INET6 if ":" in parsed.host else socket.AF_INET, socket_name(parsed))
    except OSError:
        raise CheckFailed(f"{address}: there is no such interface") from None


def at_port(address: str, port: int | None) -> str:
    """`address` with another port; None, and a Unix socket, leave it as it is."""
    if port is None or address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"


def shown(text: str, most: int = 200) -> str:
    """`text` of somebody else as an operator may read it: on one line, fit for a terminal, of bounded length."""
    return "".join(c if c.isprintable() else "?" for c in text.strip())[:most]


def explain(error: OSError) -> str:
    """An operating system's error as a reason: "Connection refused", not its number or its address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if error.errno == errno.ENOTCONN:
        return "the queue of connections is full"
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
