"""The sockets of a udp listener: one for each worker, all bound to one address, and all kept open by the master.

The kernel gives every flow (both addresses and ports) to one of the sockets by its hash (SO_REUSEPORT, socket(7)), so a
session stays with its worker without a word between workers. A worker that dies loses its sessions, but no datagram:
they wait in its socket for the worker that takes its place.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Protocol

from lb.config.address import Bind, HostPort, UnixPath, socket_name
from lb.config.plan.plan import Plan

# What the socket module does not name (Linux): asm-generic/socket.h, linux/in.h, linux/sock_diag.h.
_SO_MEMINFO = 55
_SO_RCVBUFFORCE = 33
_IP_PKTINFO = 8
_IP_TRANSPARENT = 19
_IPV6_TRANSPARENT = 75
_NAME_SIZE = 16  # IFNAMSIZ, linux/if.h
_MEMINFO = struct.Struct("=9I")  # the last is SK_MEMINFO_DROPS


def open_group(bind: Bind, count: int) -> list[socket.socket]:
    """`count` non-blocking sockets for `bind`, which has an IP address; port 0 is the same free port for all. Raises
    OSError.

    The first is bound before it allows others beside it: so it meets whoever has the address already, a second daemon
    of the same user included, who would otherwise share the flows in silence.
    """
    made: list[socket.socket] = []
    address = bind.address
    assert isinstance(address, HostPort)
    try:
        made.append(_open(bind, address, beside=False))
        if count > 1:
            made[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        while len(made) < count:
            same = HostPort(address.host, made[0].getsockname()[1], address.literal)
            made.append(_open(bind, same, beside=True))
    except OSError:
        for sock in made:
            sock.close()
        raise
    return made


def _open(bind: Bind, address: HostPort, beside: bool) -> socket.socket:
    host = address.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        set_options(sock, bind)
        # Before the bind: what is queued without its destination could not be answered from there.
        if host == "0.0.0.0":  # noqa: S104
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        elif host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        if beside:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(socket_name(address))
    except OSError:
        sock.close()
        raise
    return sock


def set_options(sock: socket.socket, bind: Bind) -> None:
    """What `bind` says of a socket of an IP address, before it is bound. Raises OSError."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bind.ipv6only)
    if bind.interface:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bind.interface.encode() + b"\0")
    if bind.transparent:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        if sock.family == socket.AF_INET or not bind.ipv6only:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def unlike(sock: socket.socket, bind: Bind) -> str:
    """In what the options of the bound `sock`, which the service manager made, are not those of `bind`: words behind
    its name, which name the directive of its unit (systemd.socket(5)); "" if they serve the same clients."""
    if isinstance(bind.address, UnixPath):
        return ""
    six = sock.family == socket.AF_INET6
    alone = six and bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    if alone and (bind.address.host == "0.0.0.0" or not bind.ipv6only):  # noqa: S104
        return "takes IPv6 only: set BindIPv6Only=both in its unit"
    if not alone and bind.ipv6only and bind.address.host == "::":
        return "takes IPv4, too: set BindIPv6Only=ipv6-only in its unit, or ipv6only: false here"
    device = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _NAME_SIZE).rstrip(b"\0").decode()
    if device != bind.interface:
        return f"is for {device or 'every interface'}: set BindToDevice={bind.interface} in its unit"
    level, option = (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT) if six else (socket.IPPROTO_IP, _IP_TRANSPARENT)
    if bind.transparent and not sock.getsockopt(level, option):
        return "is not transparent: set Transparent=yes in its unit"
    return ""


def set_receive_buffer(sockets: Sequence[socket.socket], wanted: int) -> int:
    """Gives each socket room for `wanted` bytes, 0 being the kernel's default; returns what each has then."""
    for sock in sockets:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted or _default_buffer())  # beyond rmem_max
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted or _default_buffer())
    return receive_buffer(sockets)


def receive_buffer(sockets: Sequence[socket.socket]) -> int:
    """Bytes of room that each socket has. The kernel doubles what it is given, for its own overhead, and tells that."""
    return min(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 for sock in sockets)


def _default_buffer() -> int:
    with open("/proc/sys/net/core/rmem_default") as file:
        return int(file.read()) // 2


def kernel_drops(sockets: Sequence[socket.socket]) -> int:
    """Datagrams that found the sockets' buffers full (SO_MEMINFO)."""
    return sum(_MEMINFO.unpack(s.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[-1] for s in sockets)


class _Group(Protocol):
    @property
    def sockets(self) -> Sequence[socket.socket]: ...


class _Sockets(Protocol):
    def __contains__(self, listener: str) -> bool: ...
    def __getitem__(self, listener: str) -> _Group: ...


def drops_by_listener(plan: Plan, sockets: _Sockets) -> dict[str, int]:
    """The datagrams that found the buffers of a listener's sockets full."""
    return {
        x.name: sum(kernel_drops(sockets[place].sockets) for place in x.places() if place in sockets)
        for x in plan.listeners
        if x.udp is not None and x.name in sockets
    }
