"""Listening sockets in the service manager's descriptor store: they stay open from the end of one daemon to the start
of the next, however the first one ended. Clients that connect meanwhile wait in their queues.

A name in the store says what a socket is: `tidegate,listen,tcp,BIND`, `…,unix,BIND,DEVICE,INODE` of its path, or
`…,udp,BIND,NUMBER`, with BIND as in a URL. A port that the kernel chooses is another one after a restart: such a socket
is not stored.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Sequence, Set
from typing import Protocol
from urllib.parse import quote

from lb.control.systemd import STORED, Stored

log = logging.getLogger("tidegate.master")

_LISTEN = f"{STORED}listen,"


class DescriptorStore(Protocol):
    """Keeps descriptors by name when this process has ended; lb.control.systemd.Notifier is one."""

    def store(self, name: str, descriptor: int) -> bool: ...
    def forget(self, name: str) -> None: ...
    def barrier(self) -> None: ...


class StoredSockets:
    """What is stored for listeners. `found` are the descriptors of the daemon before, of which those of listeners are
    taken; each is claimed by its listener, or closed by `keep_only`."""

    def __init__(self, store: DescriptorStore, found: Iterable[Stored] = ()) -> None:
        self._store = store
        self._names: set[str] = set()  # what the store has of ours
        self._found: dict[str, socket.socket] = {}
        for each in found:
            if each.name.startswith(_LISTEN):
                self._found[each.name] = socket.socket(fileno=each.fd)
                self._names.add(each.name)

    def claim(self, bind: str) -> socket.socket | None:
        """The stream socket that the daemon before had for this bind."""
        return self._take(_name(bind))

    def claim_group(self, bind: str, count: int) -> list[socket.socket]:
        """The datagram sockets of this bind, one for each worker; none where their number was another one."""
        names = [_name_of_datagrams(bind, number) for number in range(count)]
        if any(name not in self._found for name in names):
            return []
        return [self._found.pop(name) for name in names]

    def keep_only(self, binds: Set[str], groups: Set[tuple[str, int]]) -> list[str]:
        """Closes what neither a stream listener of `binds` nor a datagram listener of `groups` (bind and number of
        sockets) has use for, before others open sockets in its place; returns the names. Waits for the manager."""
        wanted = {_name(bind) for bind in binds}
        for bind, count in groups:
            names = {_name_of_datagrams(bind, number) for number in range(count)}
            if names <= self._found.keys() and _name_of_datagrams(bind, count) not in self._found:
                wanted |= names
        gone = sorted(self._found.keys() - wanted)
        for name in gone:
            self._found.pop(name).close()
            self._forget(name)
        if gone:
            self._store.barrier()
        return gone

    def keep(self, bind: str, sockets: Sequence[socket.socket]) -> bool:
        """Stores the sockets of a listener; whether all of them are."""
        if bind.endswith(":0"):
            return False
        kept = [self._keep(name, sock) for name, sock in _named(bind, sockets)]  # each, whatever became of those before
        return all(kept)

    def forget(self, bind: str, sockets: Sequence[socket.socket]) -> None:
        """For a listener that is no more, while its sockets are open."""
        for name, _ in _named(bind, sockets):
            self._forget(name)

    def close(self) -> None:
        """Ours; the manager keeps its own."""
        for sock in self._found.values():
            sock.close()
        self._found.clear()

    def _take(self, name: str) -> socket.socket | None:
        sock = self._found.pop(name, None)
        if sock is not None:
            sock.setblocking(False)
        return sock

    def _keep(self, name: str, sock: socket.socket) -> bool:
        if name not in self._names and self._store.store(name, sock.fileno()):
            self._names.add(name)
        return name in self._names

    def _forget(self, name: str) -> None:
        if name in self._names:
            self._names.remove(name)
            self._store.forget(name)


def _named(bind: str, sockets: Sequence[socket.socket]) -> Iterable[tuple[str, socket.socket]]:
    if sockets[0].type == socket.SOCK_DGRAM:
        return [(_name_of_datagrams(bind, number), sock) for number, sock in enumerate(sockets)]
    return [(_name(bind), sockets[0])]


def _name(bind: str) -> str:
    """A path that is another file by now is another name."""
    if not bind.startswith("unix:"):
        return f"{_LISTEN}tcp,{quote(bind)}"
    try:
        status = os.lstat(bind.removeprefix("unix:"))
    except OSError:
        return f"{_LISTEN}unix,{quote(bind)},gone"
    return f"{_LISTEN}unix,{quote(bind)},{status.st_dev},{status.st_ino}"


def _name_of_datagrams(bind: str, number: int) -> str:
    return f"{_LISTEN}udp,{quote(bind)},{number}"
