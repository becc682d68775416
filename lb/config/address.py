"""Addresses as the configuration spells them: `host:port`, `[v6]:port`, `unix:/path`."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from msgspec import Struct

# sockaddr_un.sun_path holds 108 bytes with the terminating NUL (unix(7)).
UNIX_PATH_MAX = 107
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)


class HostPort(Struct, frozen=True):
    """A host with a port; `literal` says that the host is an IP address and not a name."""

    host: str
    port: int
    literal: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixPath(Struct, frozen=True):
    """A Unix socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@lru_cache(maxsize=8192)
def parse_address(text: str) -> HostPort | UnixPath:
    """`text` as an address in canonical form; ValueError says what is wrong with it."""
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:"))
    if "://" in text:
        raise ValueError(f"{text!r} is a URL; write HOST:PORT, without scheme and path")
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} has no port; write HOST:PORT, [IPV6]:PORT or unix:/PATH")
    number = _port(text, port)
    if host.startswith("[") and host.endswith("]"):
        return HostPort(_ipv6(host[1:-1]), number, True)
    if ":" in host:
        raise ValueError(f"{text!r} is not an address; write an IPv6 address in brackets, as in [::1]:{port}")
    if not host:
        raise ValueError(f"{text!r} has no host; write HOST:PORT")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return HostPort(str(ipaddress.IPv4Address(host)), number, True)
        except ValueError:
            raise ValueError(f"{host!r} is not an IPv4 address") from None
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise ValueError(f"{host!r} is not an IP address or a host name")
    return HostPort(host.lower(), number, False)


def parse_target(text: str) -> HostPort | UnixPath:
    """`text` as an address to connect to; the host may be a name."""
    address = parse_address(text)
    _refuse_link_local(address, "no interface to reach it by can be named")
    return address


def parse_bind(text: str) -> HostPort | UnixPath:
    """`text` as an address to listen on: an IP address, or `localhost` for 127.0.0.1; port 0 lets the kernel
    choose."""
    host, colon, port = text.rpartition(":")
    if colon and host in ("", "*"):
        raise ValueError(f"{text!r} has no IP address; write 0.0.0.0:{port} or [::]:{port} for every address")
    address = parse_address(text)
    if isinstance(address, UnixPath) or address.literal:
        _refuse_link_local(address, f"no interface can be named; write [::]:{port} for every IPv6 address")
        return address
    if address.host == "localhost":
        return HostPort("127.0.0.1", address.port, True)
    raise ValueError(f"{address.host!r} is a name; an address to listen on is an IP address or unix:/PATH")


def is_loopback(address: HostPort | UnixPath) -> bool:
    """Whether only this machine can reach it."""
    return isinstance(address, UnixPath) or (address.literal and ipaddress.ip_address(address.host).is_loopback)


def overlap(a: HostPort | UnixPath, b: HostPort | UnixPath) -> bool:
    """Whether both cannot be listened on at once: equal, or one of them is every address of the same family."""
    if isinstance(a, UnixPath) or isinstance(b, UnixPath):
        return a == b
    if a.port != b.port or a.port == 0 or (":" in a.host) != (":" in b.host):
        return False
    return a.host == b.host or any(ipaddress.ip_address(x.host).is_unspecified for x in (a, b))


def _port(text: str, port: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} has no valid port; a port is a number up to 65535")
    return int(port)


def _ipv6(host: str) -> str:
    """In canonical form; an IPv4 address that is mapped into IPv6 (RFC 4291 section 2.5.5.2) is that address: it is
    what an IPv4 socket binds and connects to."""
    if "%" in host:
        raise ValueError(f"{host!r} has a scope, which is not supported; write an address that needs none")
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"{host!r} is not an IPv6 address") from None
    return str(address.ipv4_mapped or address)


def _refuse_link_local(address: HostPort | UnixPath, why: str) -> None:
    """A link-local address of IPv6 (fe80::/10) says nothing without its interface: the kernel refuses it."""
    if isinstance(address, HostPort) and ":" in address.host and ipaddress.ip_address(address.host).is_link_local:
        raise ValueError(f"{address.host!r} is a link-local address, and {why}")


def _unix(path: str) -> UnixPath:
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"'unix:{path}' is not a socket path; write unix: and an absolute path")
    if "\0" in path:
        raise ValueError(f"'unix:{path}' is not a socket path: no path has a NUL")
    if len(path.encode()) > UNIX_PATH_MAX:
        raise ValueError(f"'unix:{path}' is longer than the {UNIX_PATH_MAX} bytes that a socket path may have")
    return UnixPath(path)
