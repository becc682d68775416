"""Addresses as the configuration spells them: `host:port`, `[v6]:port`, `[fe80::1%eth0]:port`, `unix:/path`,
`unix:@name`."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from functools import lru_cache

from msgspec import Struct

# sockaddr_un.sun_path holds 108 bytes with the terminating NUL (unix(7)).
UNIX_PATH_MAX = 107
# Of a network interface: IFNAMSIZ is 16 with the NUL, and the kernel refuses "/", ":" and blanks (netdevice(7)).
INTERFACE = r"(?!\.{1,2}$)[!-$&-.0-9;-~]{1,15}"
_INTERFACE = re.compile(INTERFACE, re.ASCII)
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
    """A Unix socket in the file system; with `@` in front a name in the kernel's abstract namespace (unix(7))."""

    path: str

    @property
    def abstract(self) -> bool:
        """Whether no file stands for it."""
        return self.path.startswith("@")

    @property
    def name(self) -> str:
        """As the socket module wants it."""
        return "\0" + self.path[1:] if self.abstract else self.path

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
    _refuse_link_local(address)
    return address


def parse_bind(text: str) -> HostPort | UnixPath:
    """`text` as an address to listen on: an IP address, or `localhost` for 127.0.0.1; port 0 lets the kernel
    choose."""
    host, colon, port = text.rpartition(":")
    if colon and host in ("", "*"):
        raise ValueError(f"{text!r} has no IP address; write 0.0.0.0:{port} or [::]:{port} for every address")
    address = parse_address(text)
    if isinstance(address, UnixPath) or address.literal:
        _refuse_link_local(address)
        return address
    if address.host == "localhost":
        return HostPort("127.0.0.1", address.port, True)
    raise ValueError(f"{address.host!r} is a name; an address to listen on is an IP address or unix:/PATH")


class PortRange(Struct, frozen=True):
    """One address with ports from `first` to `last`."""

    first: HostPort | UnixPath
    last: int  # its own port, or 0 where it has none

    def __str__(self) -> str:
        return str(self.first) if len(self) == 1 else f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return self.last - self.first.port + 1 if isinstance(self.first, HostPort) else 1

    def __iter__(self) -> Iterator[HostPort | UnixPath]:
        if isinstance(self.first, UnixPath):
            yield self.first
            return
        for port in range(self.first.port, self.last + 1):
            yield HostPort(self.first.host, port, self.first.literal)


@lru_cache(maxsize=1024)
def parse_bind_range(text: str) -> PortRange:
    """`text` as an address to listen on, whose port may be a range: `10.0.0.1:9000-9010`."""
    found = None if text.startswith("unix:") else re.fullmatch(r"(.*:[0-9]{1,5})-([0-9]{1,5})", text)
    if found is None:
        address = parse_bind(text)
        return PortRange(address, address.port if isinstance(address, HostPort) else 0)
    first, last = parse_bind(found[1]), _port(text, found[2])
    assert isinstance(first, HostPort)
    if first.port == 0 or last < first.port:
        raise ValueError(f"{text!r} is no range of ports; write the lower port first, from 1 on")
    return PortRange(first, last)


class Bind(Struct, frozen=True):
    """Where a socket listens, and how. As text it is what tells sockets apart: the address, and what is not the default
    behind it, as in `[::]:80 ipv6only=off interface=eth0 transparent`."""

    address: HostPort | UnixPath
    ipv6only: bool = True
    interface: str = ""
    transparent: bool = False

    def __str__(self) -> str:
        text = str(self.address)
        if isinstance(self.address, UnixPath):
            return text  # options are those of IP sockets; a path may have blanks
        if not self.ipv6only:
            text += " ipv6only=off"
        if self.interface:
            text += f" interface={self.interface}"
        return f"{text} transparent" if self.transparent else text

    @property
    def chosen_port(self) -> bool:
        """Whether the kernel chooses the port, another one each time."""
        return isinstance(self.address, HostPort) and self.address.port == 0


@lru_cache(maxsize=8192)
def parse_socket(text: str) -> Bind:
    """What `str` made of a Bind."""
    address, *options = text.split(" ") if not text.startswith("unix:") else [text]
    interface = next((x.removeprefix("interface=") for x in options if x.startswith("interface=")), "")
    return Bind(parse_bind(address), "ipv6only=off" not in options, interface, "transparent" in options)


def sockets_shown(opened: Iterable[tuple[str, str]]) -> list[str]:
    """Sockets as `ss` shows them, from (Bind as text, the address it has): `*` is every address of both families,
    `%eth0` an interface. Ports in a row are one range, as the configuration writes them."""
    runs: list[tuple[str, int, int, str]] = []  # host, first port, last port, option
    for text, address in opened:
        bind = parse_socket(text)
        if isinstance(bind.address, UnixPath):
            runs.append((address, 0, 0, ""))
            continue
        host, _, port = address.rpartition(":")
        host = "*" if not bind.ipv6only else host
        host += f"%{bind.interface}" if bind.interface else ""
        option = " transparent" if bind.transparent else ""
        if runs and runs[-1][::3] == (host, option) and runs[-1][2] + 1 == int(port):
            runs[-1] = (host, runs[-1][1], int(port), option)
        else:
            runs.append((host, int(port), int(port), option))
    return [
        host if not first else f"{host}:{first}{f'-{last}' if last > first else ''}{option}"
        for host, first, last, option in runs
    ]


def port_of(bind: str) -> int:
    """The port of a Bind as text; 0 for a Unix socket or a port that the kernel chooses."""
    address = parse_socket(bind).address
    return address.port if isinstance(address, HostPort) else 0


def places(name: str, binds: Iterable[str]) -> dict[str, str]:
    """The sockets of the listener `name`, place -> bind: the first has the name of the listener alone."""
    found: dict[str, str] = {}
    for bind in binds:
        found[f"{name} {bind}" if found else name] = bind
    return found


def socket_name(address: HostPort) -> tuple[str, int] | tuple[str, int, int, int]:
    """As the socket module wants it. Raises OSError where there is no such interface."""
    host, _, scope = address.host.partition("%")
    if not scope:
        return address.host, address.port
    return host, address.port, 0, int(scope) if scope.isdigit() else socket.if_nametoindex(scope)


def is_loopback(address: HostPort | UnixPath) -> bool:
    """Whether only this machine can reach it."""
    return isinstance(address, UnixPath) or (address.literal and ipaddress.ip_address(address.host).is_loopback)


def overlap(a: HostPort | UnixPath, b: HostPort | UnixPath) -> bool:
    """Whether both cannot be listened on at once: equal, or one of them is every address of the same family."""
    if isinstance(a, UnixPath) or isinstance(b, UnixPath):
        return a == b
    if a.port != b.port or a.port == 0 or (":" in a.host) != (":" in b.host):
        return False
    return a.host == b.host or _is_every(a) or _is_every(b)


def collide(a: Bind, b: Bind) -> bool:
    """The same of sockets with options: those of two interfaces stand beside each other, and one of both families takes
    the addresses of IPv4, too."""
    if isinstance(a.address, UnixPath) or isinstance(b.address, UnixPath):
        return a.address == b.address
    if a.interface and b.interface and a.interface != b.interface:
        return False
    for dual, other in ((a, b.address), (b, a.address)):
        if not dual.ipv6only and ":" not in other.host:
            return dual.address == HostPort("::", other.port, True) and other.port != 0
    return overlap(a.address, b.address)


def _is_every(address: HostPort | UnixPath) -> bool:
    return isinstance(address, HostPort) and ipaddress.ip_address(address.host).is_unspecified


def _port(text: str, port: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} has no valid port; a port is a number up to 65535")
    return int(port)


def _ipv6(host: str) -> str:
    """In canonical form; an IPv4 address that is mapped into IPv6 (RFC 4291 section 2.5.5.2) is that address: it is
    what an IPv4 socket binds and connects to."""
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"{host!r} is not an IPv6 address") from None
    if address.scope_id is not None:
        if not address.is_link_local:
            raise ValueError(f"{host!r} has a scope, and only link-local addresses (fe80::/10) have one")
        if not _INTERFACE.fullmatch(address.scope_id):
            raise ValueError(f"{host!r}: {address.scope_id!r} is not the name of an interface")
    return str(address.ipv4_mapped or address)


def _refuse_link_local(address: HostPort | UnixPath) -> None:
    """A link-local address of IPv6 (fe80::/10) says nothing without its interface: the kernel refuses it."""
    if isinstance(address, UnixPath) or ":" not in address.host or "%" in address.host:
        return
    if ipaddress.ip_address(address.host).is_link_local:
        text = f"{address.host!r} is a link-local address, which needs its interface; write [{address.host}%eth0]"
        raise ValueError(f"{text}:{address.port} for that of eth0")


def _unix(path: str) -> UnixPath:
    if path.startswith("@"):
        if not re.fullmatch(r"@[!-~]{1,107}", path):
            raise ValueError(f"'unix:{path}' is not a name of an abstract socket: 1 to 107 visible ASCII characters")
        return UnixPath(path)
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"'unix:{path}' is not a socket path; write unix: and an absolute path, or unix:@NAME")
    if "\0" in path:
        raise ValueError(f"'unix:{path}' is not a socket path: no path has a NUL")
    if len(path.encode()) > UNIX_PATH_MAX:
        raise ValueError(f"'unix:{path}' is longer than the {UNIX_PATH_MAX} bytes that a socket path may have")
    return UnixPath(path)
