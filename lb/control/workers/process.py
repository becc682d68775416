"""One worker process as the master sees it: made by the fork server, watched through a pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence

from lb.control.workers.fork_server import ForkServer
from lb.errors import StartError

_STATUS_WAIT = 1.0  # seconds for the fork server to tell how a worker ended


class WorkerProcess:
    """A worker and our end of its channel; `on_exit(code)` is called from the loop once it is gone.

    `code` is the exit status, or minus the number of the signal that ended it; None where it is unknown. `pid` is 0
    until the fork server has made the process; the channel can be used before.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        server: ForkServer,
        index: int,
        segment_fd: int,
        wakeups: Sequence[int],
        on_exit: Callable[[int | None], None],
    ) -> None:
        """`wakeups` are the eventfds by which workers wake each other. Raises StartError when no process can be
        made."""
        self._loop = loop
        self._server = server
        self._on_exit: Callable[[int | None], None] | None = on_exit
        self._pidfd = -1
        self._doomed = False  # killed before it was there
        self.pid = 0
        try:
            self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise StartError(f"cannot start worker {index}: {error.strerror or error}") from error
        with theirs:
            try:
                server.fork(self, index, (theirs.fileno(), segment_fd, *wakeups))
            except StartError:
                self.socket.close()
                raise

    @property
    def pidfd(self) -> int:
        """-1 until the fork server has made the process."""
        return self._pidfd

    def kill(self) -> None:
        """SIGKILL; the exit is reported as any other. A fork server that has not made the process yet is killed."""
        if self._pidfd < 0:
            self._doomed = True
            self._server.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def forked(self, pid: int, pidfd: int) -> None:
        self.pid, self._pidfd = pid, pidfd
        self._loop.add_reader(pidfd, self._gone)
        if self._doomed:
            self.kill()

    def abandoned(self) -> None:
        """The pidfd goes on telling of the end."""

    def ended(self, code: int | None) -> None:
        if self._on_exit is None:
            return
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        on_exit, self._on_exit = self._on_exit, None
        on_exit(code)

    def _gone(self) -> None:
        """The fork server is about to tell the exit status; a worker that has died is not kept waiting for it."""
        self._loop.remove_reader(self._pidfd)
        if self._server.will_tell(self.pid):
            self._loop.call_later(_STATUS_WAIT, self.ended, None)
        else:
            self.ended(None)
