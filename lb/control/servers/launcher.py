"""Starts the servers of managed pools through a process of its own (lb.control.servers.watcher), and one server as the
master sees it."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Protocol

from lb.control import signals
from lb.control.servers import watcher
from lb.control.servers.watcher import Specification
from lb.control.workers.launch import child_environment
from lb.control.workers.lines import LineReader
from lb.errors import StartError

_MESSAGE = 4096  # longest message of a watcher
_COLD = (sys.executable, "-I", "-S")  # the interpreter alone, which starts in a few milliseconds and stays small
_WARM = (sys.executable, "-P")


class Process(Protocol):
    """A server that runs, here or elsewhere. `pid` is None before it runs, and where it is another machine's."""

    @property
    def pid(self) -> int | None: ...
    def signal(self, number: signal.Signals) -> None: ...


Launch = Callable[
    [Specification, Callable[[int], None], Callable[[str], None], Callable[[int | None, str], None]], Process
]
"""Starts a server; then `on_start`, `on_line` and `on_exit` of ServerProcess. Raises StartError."""


class Launcher:
    """The process is started when it is first needed, and again when it has died. Servers outlive it."""

    def __init__(self, module: str = "") -> None:
        """`module` is loaded once, for servers that are copies of the process: see lb.control.servers.watcher."""
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def launch(self, wanted: Specification, watcher_end: int, output: int) -> None:
        """Hands the descriptors over, which stay the caller's here. Raises StartError."""
        try:
            specification = os.memfd_create("tidegate-server")
            try:
                with open(os.dup(specification), "wb") as file:
                    file.write(json.dumps(wanted._asdict()).encode())
                os.lseek(specification, 0, os.SEEK_SET)
                self._send(specification, watcher_end, output)
            finally:
                os.close(specification)
        except OSError as error:
            raise StartError(f"cannot start {wanted.command[0]}: {error.strerror or error}") from error

    def start(
        self,
        wanted: Specification,
        on_start: Callable[[int], None],
        on_line: Callable[[str], None],
        on_exit: Callable[[int | None, str], None],
    ) -> ServerProcess:
        """A server on this machine (a Launch). Raises StartError."""
        return ServerProcess(self, wanted, on_start, on_line, on_exit)

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """Ends the process; to be called when no server is left."""
        if self._process is not None and self._socket is not None:
            self._socket.close()
            self._process.kill()
            self._process.wait()
        self._process = self._socket = None

    def _send(self, *descriptors: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        if self._process is not None and self._process.poll() is not None:
            self.close()
        try:
            self._running().sendmsg([b"+"], rights)
        except (BrokenPipeError, ConnectionResetError):  # it dies at this moment
            self.close()
            self._running().sendmsg([b"+"], rights)

    def _running(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            with theirs, signals.held():  # until it ignores them
                self._process = subprocess.Popen(
                    [*(_WARM if self._module else _COLD), watcher.__file__, str(theirs.fileno()), self._module],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={**child_environment(), "OPENBLAS_NUM_THREADS": "1"} if self._module else None,
                )
        except OSError:
            ours.close()
            raise
        ours.setblocking(False)
        self._socket = ours
        return ours


class ServerProcess:
    """A server in a process group of its own, on the running loop.

    `on_start(pid)` is called when the command runs, `on_line(text)` with what it writes, and `on_exit(code, problem)`
    the moment it is gone, after its last line: the exit status, or minus the number of the signal that ended it; None
    where nobody can tell. `problem` says why the command never ran. What it had started is gone then, too, as far as
    the kernel lets go of it.
    """

    def __init__(
        self,
        launcher: Launcher,
        wanted: Specification,
        on_start: Callable[[int], None],
        on_line: Callable[[str], None],
        on_exit: Callable[[int | None, str], None],
    ) -> None:
        """Raises StartError when no process can be made."""
        with contextlib.ExitStack() as undo:
            try:
                reading, writing = os.pipe()
                undo.callback(os.close, reading)
                try:
                    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
                    undo.callback(ours.close)
                    with theirs:
                        launcher.launch(wanted, theirs.fileno(), writing)
                finally:
                    os.close(writing)
            except OSError as error:
                raise StartError(f"cannot start {wanted.command[0]}: {error.strerror or error}") from error
            undo.pop_all()
        self.pid: int | None = None
        self._follow(wanted.command[0], ours, reading, on_start, on_line, on_exit)

    @classmethod
    def adopted(
        cls,
        pid: int,
        watcher: socket.socket,
        output: int,
        on_line: Callable[[str], None],
        on_exit: Callable[[int | None, str], None],
    ) -> ServerProcess:
        """A server that runs since before this program. Owns the socket of its watcher and the pipe of its output."""
        self = cls.__new__(cls)
        self.pid = pid
        self._follow(f"process {pid}", watcher, output, lambda pid: None, on_line, on_exit)
        return self

    def _follow(
        self,
        name: str,
        watcher: socket.socket,
        output: int,
        on_start: Callable[[int], None],
        on_line: Callable[[str], None],
        on_exit: Callable[[int | None, str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._on_start = on_start
        self._on_exit: Callable[[int | None, str], None] | None = on_exit
        self._socket = watcher
        self._socket.setblocking(False)
        self._output = LineReader(self._loop, output, on_line)
        self._loop.add_reader(self._socket, self._told)

    def hand_over(self) -> tuple[int, int]:
        """The descriptors of the watcher's socket and of the output, for another program in this process."""
        return self._socket.fileno(), self._output.fd

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process. SIGKILL ends what it has started as well."""
        with contextlib.suppress(OSError):  # the watcher is gone, which we are about to hear
            self._socket.send(bytes((number,)))

    def _told(self) -> None:
        try:
            message = self._socket.recv(_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        word, _, rest = message.decode("utf-8", "replace").partition(" ")
        match word:
            case "started":
                self.pid = int(rest)
                self._on_start(self.pid)
            case "failed":
                self._ended(None, f"cannot start {self._name}: {rest}")
            case "exited":
                self._ended(int(rest), "")
            case _:
                self._loop.remove_reader(self._socket)
                self._socket.close()
                self._ended(None, "")

    def _ended(self, code: int | None, problem: str) -> None:
        """The socket stays until the watcher closes it: with ours closed it would take the master for gone."""
        on_exit, self._on_exit = self._on_exit, None
        if on_exit is not None:
            self._output.finish()
            on_exit(code, problem)
