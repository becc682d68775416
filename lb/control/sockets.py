"""Listening sockets: opened by the master, kept across reloads, or taken over from the service manager.

A bind is a lb.config.address.Bind as text. A listener has one or more; each has a place, which is the listener's name,
with the bind behind it from the second on (lb.config.address.places). What is said of a listener's socket below holds
for each place.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from lb.config.address import Bind, HostPort, UnixPath, parse_socket, socket_name, sockets_shown
from lb.control.datagrams import open_group, set_options, set_receive_buffer, unlike
from lb.control.stored_sockets import StoredSockets, named
from lb.errors import StartError

log = logging.getLogger("tidegate.master")

BACKLOG = 4096  # the kernel lowers it to net.core.somaxconn

_ids = itertools.count(1)
_Socket = socket.socket


class Listening(Struct):
    """One open listening socket; `id` is never used twice in a master's life, so that workers can name it.

    A udp listener has one for each worker; `socket` is the first worker's and `others` are the rest.
    """

    bind: str
    socket: socket.socket
    listener: str = ""  # whose it was at first
    inherited: bool = False
    id: int = field(default_factory=lambda: next(_ids))
    inode: tuple[int, int] | None = None  # of a Unix socket's path: only what is still ours is unlinked
    stored: bool = False  # the service manager keeps it for the next start
    others: tuple[Listening, ...] = ()
    receive_buffer: int = 0  # asked for, of a udp listener; 0 = the kernel's default

    @property
    def datagram(self) -> bool:
        return self.socket.type == socket.SOCK_DGRAM

    @property
    def sockets(self) -> list[_Socket]:
        return [self.socket, *(other.socket for other in self.others)]

    def of(self, worker: int) -> Listening:
        """What the worker takes from."""
        return self.others[worker - 1] if self.others and worker else self

    @property
    def address(self) -> str:
        """What it really listens on: the port is known even when the bind says 0."""
        return format_address(self.socket)

    def close(self) -> None:
        """Closes the socket and removes a Unix socket's path, if that still is the one we made. A stored socket is for
        the next start, and so is its path."""
        path = self.bind.removeprefix("unix:") if self.inode and not self.stored else ""
        for sock in self.sockets:
            sock.close()
        if path and _inode(path) == self.inode:
            try:
                os.unlink(path)
            except OSError as error:
                log.warning("the socket %s was not removed: %s", path, error.strerror)


class SocketTable:
    """The open sockets by listener. `stage` opens what is missing, then `commit` or `discard` ends the change.

    A listener keeps its socket while its bind is the same, and one that was renamed does, too.
    """

    def __init__(self, inherited: Iterable[socket.socket] = (), stored: StoredSockets | None = None) -> None:
        """`stored` are the sockets of the daemon before this one, and take those of this one."""
        self._open: dict[str, Listening] = {}
        self._spare = [Listening(format_address(s), s, inherited=True) for s in inherited]
        self._beside: list[Listening] = []
        self._stored = stored

    def __getitem__(self, listener: str) -> Listening:
        return self._open[listener]

    def __contains__(self, listener: str) -> bool:
        return listener in self._open

    def shown(self, places: Mapping[str, str]) -> list[str]:
        """A listener's sockets as `ss` shows them (place -> bind)."""
        return sockets_shown((bind, self._open[place].address) for place, bind in places.items())

    @property
    def unclaimed(self) -> Sequence[str]:
        """Addresses passed by the service manager that no listener uses."""
        return [listening.bind for listening in self._spare]

    def stage(self, binds: Mapping[str, str], datagrams: Mapping[str, int] | None = None) -> dict[str, Listening]:
        """Sockets for all listeners of `binds` (listener -> bind): open ones that fit, else new ones.

        `datagrams` names those that take datagrams, with the number of sockets each needs. Raises StartError, with none
        left open.
        """
        staged: dict[str, Listening] = {}
        groups = datagrams or {}
        known = {_key(name, x.bind, x.datagram): x for name, x in self._open.items()}
        try:
            for name, bind in binds.items():
                staged[name] = known.get(_key(name, bind, name in groups)) or (
                    self._datagrams(name, bind, groups[name]) if name in groups else self._listen(name, bind)
                )
        except StartError:
            self.discard(staged)
            raise
        return staged

    def commit(self, staged: dict[str, Listening]) -> None:
        """Closes every socket that is not in `staged`. One of the service manager's is kept aside for a later claim."""
        kept = {listening.id for listening in staged.values()}
        for listening in self._open.values():
            if listening.id not in kept:
                self._release(listening)
        self._open = staged
        for listening in staged.values():
            self._store(listening)

    def set_receive_buffers(self, wanted: Mapping[str, int]) -> None:
        """Room for waiting datagrams by udp listener. What the kernel does not give is said in the log."""
        for name, size in wanted.items():
            listening = self._open[name]
            if listening.receive_buffer == size:
                continue
            listening.receive_buffer = size
            try:
                given = set_receive_buffer(listening.sockets, size)
            except OSError as error:
                log.error("listener %s: udp.receive_buffer: %s", name, error.strerror)
                continue
            if given < size:
                log.warning(
                    "listener %s: udp.receive_buffer: the kernel gives %d bytes instead of %d: raise "
                    "net.core.rmem_max, or give the daemon CAP_NET_ADMIN",
                    name,
                    given,
                    size,
                )

    def discard(self, staged: dict[str, Listening]) -> None:
        """Closes what `stage` opened."""
        kept = {listening.id for listening in self._open.values()}
        for listening in staged.values():
            if listening.id not in kept:
                self._release(listening)

    def close(self) -> None:
        for listening in [*self._open.values(), *self._spare]:
            listening.close()
        self._open, self._spare = {}, []
        if self._stored is not None:
            self._stored.close()

    def listen_beside(self, bind: str) -> Listening:
        """A socket that is no listener's: one that was left for this bind, else a new one. Its holder closes it. Raises
        StartError."""
        listening = self._listen("", bind)
        self._store(listening)
        self._beside.append(listening)
        return listening

    def handed(self) -> tuple[list[int], list[tuple[str, int]]]:
        """All descriptors, for the next program in this process: those of the service manager, and by name in the
        store those of ours."""
        found = [*self._open.values(), *self._spare, *(x for x in self._beside if x.socket.fileno() >= 0)]
        ours = [x for x in found if not x.inherited]
        inherited = [x.socket.fileno() for x in found if x.inherited]
        return inherited, [(name, sock.fileno()) for x in ours for name, sock in named((x.listener, x.bind), x.sockets)]

    def give_back(self, stored: Sequence[tuple[str, int]]) -> None:
        """Has the service manager keep what the program before had there, `stored`, and nothing else of ours: for the
        way back to that program."""
        if self._stored is not None:
            self._stored.give_back(stored)

    def _listen(self, name: str, bind: str) -> Listening:
        """The socket that the service manager or the daemon before has left, else a new one. Raises StartError."""
        listening = self._claim(bind) or self._take_up(name, bind) or self._new(bind)
        listening.listener = name
        return listening

    def _new(self, bind: str) -> Listening:
        try:
            return listen(bind)
        except StartError as error:
            wanted = parse_socket(bind)
            for spare in self._spare_at(wanted):
                if reason := unlike(spare.socket, wanted):
                    said = f"cannot listen on {bind}: the socket passed by the service manager {reason}"
                    raise StartError(said) from error
            raise

    def _store(self, listening: Listening) -> None:
        """For the next start, where the service manager keeps sockets and this is none of its own."""
        if self._stored is not None and not listening.inherited and not listening.stored:
            listening.stored = self._stored.keep((listening.listener, listening.bind), listening.sockets)

    def close_unused(self, binds: Mapping[str, str], datagrams: Mapping[str, int], other: Sequence[str]) -> None:
        """Closes what the daemon before has left for binds that neither a listener has, as `stage` is told of them, nor
        anybody else (`other`)."""
        if self._stored is None:
            return
        streams = {(name, bind) for name, bind in binds.items() if name not in datagrams}
        groups = {((name, binds[name]), count) for name, count in datagrams.items()}
        for name in self._stored.keep_only({*streams, *(("", bind) for bind in other)}, groups):
            log.info("closed a socket of the daemon before, which no listener uses: %s", name)

    def _take_up(self, name: str, bind: str) -> Listening | None:
        sock = self._stored.claim((name, bind)) if self._stored is not None else None
        if sock is None:
            return None
        return Listening(bind, sock, inode=_inode(bind.removeprefix("unix:")) if bind.startswith("unix:") else None)

    def _datagrams(self, name: str, bind: str, count: int) -> Listening:
        found = self._stored.claim_group((name, bind), count) if self._stored is not None else []
        listening = _group(bind, found) if found else listen_datagrams(bind, count)
        listening.listener = name
        return listening

    def _claim(self, bind: str) -> Listening | None:
        wanted = parse_socket(bind)
        for spare in self._spare_at(wanted):
            if not unlike(spare.socket, wanted):
                self._spare.remove(spare)
                spare.socket.setblocking(False)
                return Listening(bind, spare.socket, inherited=True)
        return None

    def _spare_at(self, wanted: Bind) -> list[Listening]:
        """What the service manager has passed for the address of `wanted`, whatever its options."""
        return [spare for name in _names(wanted) for spare in self._spare if spare.address == name]

    def _release(self, listening: Listening) -> None:
        if listening.inherited:
            self._spare.append(listening)
            return
        if self._stored is not None and listening.stored:
            self._stored.forget((listening.listener, listening.bind), listening.sockets)
            listening.stored = False
        listening.close()


def _key(listener: str, bind: str, datagram: bool) -> tuple[str, str, bool]:
    """What makes it the same socket: the address, and with port 0, which is another port each time, the listener."""
    return (listener if parse_socket(bind).chosen_port else "", bind, datagram)


def listen(bind: str) -> Listening:
    """A new non-blocking listening socket. Raises StartError with one line that says what to do."""
    wanted = parse_socket(bind)
    address = wanted.address
    if isinstance(address, UnixPath):
        return _listen_unix(bind, address)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = _new_socket(family, bind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        set_options(sock, wanted)
        sock.bind(socket_name(address))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on {bind}: {_reason(error, wanted)}") from error
    return Listening(bind, sock)


def _new_socket(family: int, bind: str) -> socket.socket:
    try:
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:  # no descriptor left, or no IPv6 here
        raise StartError(f"cannot listen on {bind}: {_reason(error, parse_socket(bind))}") from error


def listen_datagrams(bind: str, count: int) -> Listening:
    """`count` bound datagram sockets, one for each worker. Raises StartError with one line that says what to do."""
    wanted = parse_socket(bind)
    if isinstance(wanted.address, UnixPath):
        raise StartError(f"cannot listen on {bind}: datagrams need an IP address")
    try:
        return _group(bind, open_group(wanted, count))
    except OSError as error:
        raise StartError(f"cannot listen on {bind} (udp): {_reason(error, wanted)}") from error


def _group(bind: str, sockets: Sequence[socket.socket]) -> Listening:
    first, *rest = sockets
    return Listening(bind, first, others=tuple(Listening(bind, sock) for sock in rest))


def format_address(sock: socket.socket) -> str:
    """A socket's own address in the form of a bind."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        text = os.fsdecode(name)
        return f"unix:@{text[1:]}" if text.startswith("\0") else f"unix:{text}"
    if sock.family != socket.AF_INET6:
        return f"{name[0]}:{name[1]}"
    return f"[{name[0]}{_scope(name[3])}]:{name[1]}"


def _scope(index: int) -> str:
    """Of a link-local address: `%` and the interface, by its number once that is gone."""
    try:
        return f"%{socket.if_indextoname(index)}" if index else ""
    except OSError:
        return f"%{index}"


def _listen_unix(bind: str, address: UnixPath) -> Listening:
    sock = _new_socket(socket.AF_UNIX, bind)
    try:
        if not address.abstract:
            _remove_stale(address.path)
        sock.bind(address.name)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on {bind}: {_reason(error, Bind(address))}") from error
    return Listening(bind, sock, inode=None if address.abstract else _inode(address.path))


def _remove_stale(path: str) -> None:
    """Removes a socket that nobody listens on; raises OSError for anything else that is in the way."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        result = probe.connect_ex(path)
    if result != errno.ECONNREFUSED:  # it was accepted, or its backlog is full, or it is not ours to judge
        raise OSError(errno.EADDRINUSE if result in (0, errno.EAGAIN) else result, os.strerror(result))
    os.unlink(path)


def _names(wanted: Bind) -> list[str]:
    """How the service manager's socket for `wanted` may call itself; a dual-stack "[::]" also serves "0.0.0.0"."""
    address = wanted.address
    if isinstance(address, HostPort) and address.host == "0.0.0.0":  # noqa: S104
        return [str(address), f"[::]:{address.port}"]
    return [str(address)]


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reason(error: Exception, bind: Bind) -> str:
    """Why listening on `bind` failed."""
    match error:
        case OSError(errno=errno.EADDRINUSE):
            who = "ss -lxp" if isinstance(bind.address, UnixPath) else "ss -lntup"
            return f"the address is in use ({who} shows by whom)"
        case OSError(errno=errno.EPERM) if bind.transparent:
            return "transparent is not permitted (it needs CAP_NET_ADMIN: AmbientCapabilities in the unit)"
        case OSError(errno=errno.EPERM) if bind.interface:
            return "the interface is not permitted (kernels before 5.7 want CAP_NET_RAW)"
        case OSError(errno=errno.ENODEV):
            return "there is no such interface (ip link shows which there are)"
        case OSError(errno=errno.EACCES):
            return "not permitted (a port below 1024 needs CAP_NET_BIND_SERVICE; a path needs a writable folder)"
        case OSError(errno=errno.EADDRNOTAVAIL):
            return "no interface has this address"
        case OSError(strerror=str(text)) if text:
            return text[0].lower() + text[1:]
    return str(error)
