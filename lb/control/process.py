"""One worker process as the master sees it: started as a fresh interpreter, watched through a pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import site
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import lb
from lb.control import signals
from lb.errors import StartError

FREE_BLOCKS = "glibc.malloc.tcache_count=256"  # of each size of up to 1 KiB: 8 MiB if there were all of all sizes
COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "lb.control.worker")


class WorkerProcess:
    """A running worker and our end of its channel; `on_exit(code)` is called from the loop once it is gone.

    `code` is the exit status, or minus the number of the signal that ended it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        index: int,
        segment_fd: int,
        bells: Sequence[int],
        command: Sequence[str],
        on_exit: Callable[[int], None],
    ) -> None:
        """`bells` are the eventfds by which workers wake each other. Raises StartError when no process can be made."""
        self._loop = loop
        self._on_exit = on_exit
        with contextlib.ExitStack() as undo:
            try:
                self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                undo.callback(self.socket.close)
                with theirs:
                    self._process = _start(index, theirs.fileno(), segment_fd, bells, command)
                undo.callback(self._process.wait)
                undo.callback(self._process.kill)
                self.pid = self._process.pid
                self._pidfd = os.pidfd_open(self.pid)
            except OSError as error:
                raise StartError(f"cannot start worker {index}: {error.strerror or error}") from error
            undo.pop_all()
        loop.add_reader(self._pidfd, self._exited)

    def kill(self) -> None:
        """SIGKILL; the exit is reported as any other."""
        self._process.send_signal(signal.SIGKILL)

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._on_exit(self._process.wait())


def _start(
    index: int, channel: int, segment: int, bells: Sequence[int], command: Sequence[str]
) -> subprocess.Popen[bytes]:
    arguments = ["--index", str(index), "--channel", str(channel)]
    arguments += ["--segment", str(segment), "--parent", str(os.getpid())]
    arguments += ["--bells", *map(str, bells)]
    with signals.held():  # until it ignores them
        return subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=(channel, segment, *bells),
            env=worker_environment(),
        )


def describe_exit(code: int) -> str:
    """'exit code 1' or 'signal SIGKILL'."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def worker_environment() -> dict[str, str]:
    """glibc keeps seven free blocks of a size at hand, and takes the long way for more; a worker with many exchanges
    under way goes through hundreds of some sizes in each batch. The operator's own word on it stands."""
    environment = child_environment()
    said = environment.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.tcache_count" not in said:
        environment["GLIBC_TUNABLES"] = f"{said}:{FREE_BLOCKS}" if said else FREE_BLOCKS
    return environment


def child_environment() -> dict[str, str]:
    """Our environment, with our own folder in the path: -P keeps the working directory out of a child's imports."""
    root = str(Path(lb.__file__).resolve().parent.parent)
    environment = dict(os.environ)
    if root not in site.getsitepackages():
        known = environment.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{known}" if known else root
    return environment
