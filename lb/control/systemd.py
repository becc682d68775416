"""systemd's side of a daemon: sd_notify(3), sd_listen_fds(3), the watchdog. Without systemd all of it does nothing."""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import MutableMapping

log = logging.getLogger("tidegate.systemd")

FIRST_FD = 3  # SD_LISTEN_FDS_START


class Notifier:
    """Sends state to the service manager. A manager that does not listen costs one log line, never the daemon."""

    def __init__(self, path: str = "", watchdog_usec: int = 0) -> None:
        """`path`: the notify socket ("@" starts an abstract one); "" sends nothing. `watchdog_usec`: 0 = no
        watchdog."""
        self.watchdog_usec = watchdog_usec
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        self._status = ""
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Takes NOTIFY_SOCKET and WATCHDOG_* out of the environment, so that children do not speak in our name."""
        path = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        watched = usec.isdigit() and pid in ("", str(os.getpid()))
        return cls(path, int(usec) if watched else 0)

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

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), self._address)
        except OSError as error:
            log.warning("the service manager was not told %s: %s", lines[0], error)


def take_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening stream sockets passed by socket activation, in order; takes the variables out of the environment.

    Descriptors that are no listening stream socket are named in the log and closed.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    environ.pop("LISTEN_PIDFDID", None)
    if not count.isdigit() or pid != str(os.getpid()):
        return []
    sockets = []
    for index in range(int(count)):
        fd = FIRST_FD + index
        if _listens(fd):
            os.set_inheritable(fd, False)
            sockets.append(socket.socket(fileno=fd))
        else:
            name = names[index] if index < len(names) else "unknown"
            log.warning(
                "descriptor %d (%s) passed by the service manager is no listening stream socket; closed", fd, name
            )
            _close(fd)
    return sockets


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
