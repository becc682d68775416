"""Listening sockets in the service manager's descriptor store: they stay open from the end of one daemon to the start
of the next, however the first one ended. Clients that connect meanwhile wait in their queues.

A name in the store says what a socket is: `tidegate,listen,tcp,BIND`, `…,unix,BIND,DEVICE,INODE` of its path, or
`…,udp,BIND,NUMBER`, with BIND as in a URL; behind a BIND whose port the kernel chooses stands the listener.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Sequence, Set
from typing import Protocol
from urllib.parse import quote

from lb.config.address import parse_socket
from lb.control.systemd import STORED, Stored

log = logging.getLogger("tidegate.master")

_LISTEN = f"{STORED}listen,"

Place = tuple[str, str]


class DescriptorStore(Protocol):
    """Keeps descriptors by name when this process has ended, if `stores`; lb.control.systemd.Notifier is one."""

    @property
    def stores(self) -> bool: ...
    def store(self, name: str, descriptor: int) -> bool: ...
    def forget(self, name: str) -> None: ...
    def barrier(self) -> None: ...


class StoredSockets:
    """What is stored for listeners. `found` are the descriptors of the daemon before, of which those of listeners are
    taken; each is claimed by its listener, or closed by `keep_only`. A `place` is a listener's name and its bind."""

    def __init__(self, store: DescriptorStore, found: Iterable[Stored] = ()) -> None:
        self._store = store
        self._found = {x.name: socket.socket(fileno=x.fd) for x in found if x.name.startswith(_LISTEN)}
        self._names = set(self._found) if store.stores else set()  # what the store has of ours

    def claim(self, place: Place) -> socket.socket | None:
        """The stream socket that the daemon before had there."""
        sock = self._found.pop(_name(place), None)
        if sock is not None:
            sock.setblocking(False)
        return sock

    def claim_group(self, place: Place, count: int) -> list[socket.socket]:
        """The datagram sockets there, one for each worker; none where their number was another one."""
        names = _names(place, count)
        if any(name not in self._found for name in names):
            return []
        return [self._found.pop(name) for name in names]

    def keep_only(self, places: Set[Place], groups: Set[tuple[Place, int]]) -> list[str]:
        """Closes what neither a stream listener of `places` nor a datagram listener of `groups` (with its number of
        sockets) has use for, before others open sockets there; returns the names. Waits for the manager."""
        wanted = {_name(place) for place in places}
        for place, count in groups:
            *names, next_one = _names(place, count + 1)
            if self._found.keys() >= set(names) and next_one not in self._found:
                wanted |= set(names)
        gone = sorted(self._found.keys() - wanted)
        for name in gone:
            self._found.pop(name).close()
            self._forget(name)
        if gone:
            self._store.barrier()
        return gone

    def keep(self, place: Place, sockets: Sequence[socket.socket]) -> bool:
        """Stores the sockets of a listener; whether all of them are."""
        kept = [self._keep(name, sock) for name, sock in named(place, sockets)]  # each, whatever became of those before
        return all(kept)

    def forget(self, place: Place, sockets: Sequence[socket.socket]) -> None:
        """For a listener that is no more, while its sockets are open."""
        for name, _ in named(place, sockets):
            self._forget(name)

    def give_back(self, stored: Sequence[tuple[str, int]]) -> None:
        """The store has the sockets of `stored` (name, descriptor) again and no other of ours, whatever was kept and
        forgotten since. Waits for the manager."""
        listening = {name: fd for name, fd in stored if name.startswith(_LISTEN)}
        for name in sorted(self._names - listening.keys()):
            self._forget(name)
        for name in sorted(listening.keys() - self._names):
            if self._store.store(name, listening[name]):
                self._names.add(name)
        self._store.barrier()

    def close(self) -> None:
        """Ours; the manager keeps its own."""
        for sock in self._found.values():
            sock.close()
        self._found.clear()

    def _keep(self, name: str, sock: socket.socket) -> bool:
        if name not in self._names and self._store.store(name, sock.fileno()):
            self._names.add(name)
        return name in self._names

    def _forget(self, name: str) -> None:
        if name in self._names:
            self._names.remove(name)
            self._store.forget(name)


def named(place: Place, sockets: Sequence[socket.socket]) -> list[tuple[str, socket.socket]]:
    """The sockets of a listener with their names in the store."""
    if sockets[0].type == socket.SOCK_DGRAM:
        return list(zip(_names(place, len(sockets)), sockets, strict=True))
    return [(_name(place), sockets[0])]


def _name(place: Place) -> str:
    """Of a stream socket. A path that is another file by now is another name."""
    bind = place[1]
    if not bind.startswith("unix:"):
        return f"{_LISTEN}tcp,{_quoted(place)}"
    if bind.startswith("unix:@"):
        return f"{_LISTEN}unix,{quote(bind)}"
    try:
        status = os.lstat(bind.removeprefix("unix:"))
    except OSError:
        return f"{_LISTEN}unix,{quote(bind)},gone"
    return f"{_LISTEN}unix,{quote(bind)},{status.st_dev},{status.st_ino}"


def _names(place: Place, count: int) -> list[str]:
    """Of datagram sockets."""
    return [f"{_LISTEN}udp,{_quoted(place)},{number}" for number in range(count)]


def _quoted(place: Place) -> str:
    listener, bind = place
    return f"{quote(bind)},{quote(listener)}" if parse_socket(bind).chosen_port else quote(bind)
