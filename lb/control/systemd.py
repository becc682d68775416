"""systemd's side of a daemon: sd_notify(3), sd_listen_fds(3), the watchdog, and the descriptor store, which keeps
descriptors by name from one run of the service to the next. Without systemd all of it does nothing."""

from __future__ import annotations

import array
import logging
import os
import select
import socket
import stat
import time
from collections.abc import MutableMapping, Sequence

from msgspec import Struct

log = logging.getLogger("tidegate.systemd")

FIRST_FD = 3  # SD_LISTEN_FDS_START
STORED = "tidegate,"  # names of what we have stored begin so; a unit's name has no comma
LONGEST_NAME = 255  # FDNAME of sd_notify(3)
_PATIENCE = 1.0  # seconds for the manager to take a message that has descriptors


class Notifier:
    """Sends state to the service manager. A manager that does not listen costs one log line, never the daemon."""

    def __init__(self, path: str = "", watchdog_usec: int = 0, room: int = 0) -> None:
        """`path`: the notify socket ("@" starts an abstract one); "" sends nothing. `watchdog_usec`: 0 = no
        watchdog. `room`: descriptors that the manager keeps for us at most."""
        self.watchdog_usec = watchdog_usec
        self.stores = bool(path) and room > 0
        self._room = room
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        self._status = ""
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def environment(self) -> dict[str, str]:
        """What `from_environment` has taken, for a program that takes this one's place in the process."""
        if self._socket is None:
            return {}
        path = f"@{self._address[1:]}" if self._address.startswith("\0") else self._address
        said = {"NOTIFY_SOCKET": path, "FDSTORE": str(self._room)}
        if self.watchdog_usec:
            said |= {"WATCHDOG_USEC": str(self.watchdog_usec), "WATCHDOG_PID": str(os.getpid())}
        return said

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Takes NOTIFY_SOCKET, WATCHDOG_* and FDSTORE out of the environment, so that children do not speak in our
        name."""
        path = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        room = environ.pop("FDSTORE", "")  # systemd 254
        watched = usec.isdigit() and pid in ("", str(os.getpid()))
        return cls(path, int(usec) if watched else 0, int(room) if room.isdigit() else 0)

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={status}")
        self._status = status

    def reloading(self) -> None:
        """Must be followed by `ready`, whatever became of the reload (Type=notify-reload waits for it)."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        self._send("STOPPING=1", f"STATUS={status}")
        self._status = status

    def status(self, status: str) -> None:
        """Sends nothing when it is what was said last."""
        if status != self._status:
            self._send(f"STATUS={status}")
            self._status = status

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def store(self, name: str, descriptor: int) -> bool:
        """Has the manager keep a descriptor under `name`, beside others of that name; whether it was asked to. What is
        there already it leaves as it is."""
        if not self.stores or len(name) > LONGEST_NAME:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (descriptor,)))]
        # FDPOLL=0: the manager forgets a descriptor when `forget` says so, not when epoll reports something there.
        return self._tell_store((f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0").encode(), rights)

    def forget(self, name: str) -> None:
        """Has the manager close what it keeps under `name`."""
        if self.stores:
            self._tell_store(f"FDSTOREREMOVE=1\nFDNAME={name}".encode(), [])

    def barrier(self) -> None:
        """Waits until the manager has done what it was told, for `_PATIENCE` at most."""
        if not self.stores:
            return
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (writing,)))]
            told = self._tell_store(b"BARRIER=1", rights)
        finally:
            os.close(writing)
        with open(reading, "rb", buffering=0) as end:
            if told and not select.select([end], [], [], _PATIENCE)[0]:  # the manager closes it then
                log.warning("the service manager takes its time")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self.stores = False

    def _tell_store(self, message: bytes, rights: list[tuple[int, int, array.array[int]]]) -> bool:
        assert self._socket is not None
        self._socket.settimeout(_PATIENCE)  # there may be as many as listeners, more than the manager's queue takes
        try:
            self._socket.sendmsg([message], rights, 0, self._address)
        except OSError as error:
            log.warning("the service manager keeps nothing over a restart: %s", error)
            return False
        finally:
            self._socket.setblocking(False)
        return True

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), self._address)
        except OSError as error:
            log.warning("the service manager was not told %s: %s", lines[0], error)


class Stored(Struct, frozen=True):
    """A descriptor that the daemon before this one has stored; it is the holder's to close."""

    name: str
    fd: int


class Passed(Struct, frozen=True):
    """What the service manager passes: listening stream sockets of its own, in order, and what it has kept for us."""

    sockets: Sequence[socket.socket] = ()
    stored: Sequence[Stored] = ()


def take_descriptors(environ: MutableMapping[str, str]) -> Passed:
    """What is passed by socket activation and from the descriptor store; takes the variables out of the environment.

    Descriptors that are neither stored ones nor listening stream sockets are named in the log and closed.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    environ.pop("LISTEN_PIDFDID", None)
    if not count.isdigit() or pid != str(os.getpid()):
        return Passed()
    sockets, stored = [], []
    for index in range(int(count)):
        fd, name = FIRST_FD + index, names[index] if index < len(names) else "unknown"
        if name.startswith(STORED):
            os.set_inheritable(fd, False)
            stored.append(Stored(name, fd))
        elif _listens(fd):
            os.set_inheritable(fd, False)
            sockets.append(socket.socket(fileno=fd))
        else:
            log.warning(
                "descriptor %d (%s) passed by the service manager is no listening stream socket; closed", fd, name
            )
            _close(fd)
    return Passed(sockets, stored)


def _listens(fd: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        probe = socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    with probe:
        return probe.type == socket.SOCK_STREAM and bool(probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        log.debug("descriptor %d was not open: %s", fd, error)
