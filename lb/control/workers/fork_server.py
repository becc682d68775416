"""The fork server: a process that has loaded what a worker needs, and makes a worker of a copy of itself when asked.

A fresh interpreter needs about a second of CPU time to load the data path, and more while the machine is busy; a fork
needs milliseconds. So a worker that dies is back before the queue of its sockets is full. Workers also share the memory
of what was loaded once, and are of one version with the master, whatever has been installed since.

The server runs one thread and no event loop, as fork(2) wants it. Frames (lb.control.workers.channel) from the master:
`fork`, with the worker's end of its channel, the segment and the wakeup descriptors. Frames to the master: `forked`,
with a pidfd or an error, and `exited`. The server ends when the master's end of the socket closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from lb.control.workers.channel import Channel, ChannelError, Decoder, Message, encode, receive, rights
from lb.control.workers.launch import Launched
from lb.errors import StartError

log = logging.getLogger("tidegate.master")


class Child(Protocol):
    """A worker as the server's owner sees it (lb.control.workers.process.WorkerProcess)."""

    def forked(self, pid: int, pidfd: int) -> None:
        """It runs; the pidfd is its own from now on."""

    def ended(self, code: int | None) -> None:
        """It has ended, or never came to be; None: nobody can tell how."""

    def abandoned(self) -> None:
        """It runs on, but nobody will tell of its end."""


class ForkServer:
    """The master's side. The process is started when it is first needed, and again when it has died.

    A server that has made a worker before and does not make the next within `timeout` seconds is killed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command: Sequence[str],
        environment: Callable[[], dict[str, str]],
        timeout: float = 5.0,
        early: Launched | None = None,
    ) -> None:
        """`early` is a process that has been started before; it is taken for the first."""
        self._early = early
        self._timeout = timeout
        self._loop = loop
        self._command = command
        self._environment = environment
        self._launched: Launched | None = None
        self._channel: Channel | None = None
        self._pidfd = -1
        self._useful = False  # it has forked a worker
        self._asked = 0
        self._pending: dict[int, Child] = {}
        self._running: dict[int, Child] = {}
        self._closed = False

    def fork(self, child: Child, index: int, fds: Sequence[int]) -> None:
        """Asks for worker `index`, which gets copies of `fds`. Raises StartError when there can be no server."""
        if self._closed:
            raise StartError("the daemon stops")
        self._begin()
        assert self._channel is not None
        self._asked += 1
        number = self._asked
        try:
            self._channel.send({"type": "fork", "number": number, "index": index}, fds)
        except ChannelError as error:
            raise StartError(f"cannot start worker {index}: {error}") from error
        self._pending[number] = child
        if self._useful:
            self._loop.call_later(self._timeout, self._overdue, number)

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        return self._launched.process.pid if self._launched is not None else None

    def will_tell(self, pid: int) -> bool:
        """Whether the end of process `pid` is going to be reported."""
        return pid in self._running

    def kill(self) -> None:
        """Ends a server that hangs; what it was asked for fails."""
        if self._launched is not None:
            self._launched.process.kill()

    def close(self) -> None:
        """Ends the server; to be called when no worker is left."""
        self._closed = True
        if self._launched is not None:
            self._loop.remove_reader(self._pidfd)
            self._forget()

    def _begin(self) -> None:
        if self._launched is not None:
            return
        launched, self._early = self._early, None
        try:
            launched = launched or Launched(self._command, self._environment())
            self._pidfd = os.pidfd_open(launched.process.pid)
        except OSError as error:
            if launched is not None:
                launched.close()
            raise StartError(f"cannot start the fork server of the workers: {error.strerror or error}") from error
        self._launched = launched
        self._useful = False
        self._channel = Channel(
            self._loop,
            launched.socket,
            self._on_message,
            lambda reason: log.debug("the fork server's channel ended: %s", reason),
        )
        self._loop.add_reader(self._pidfd, self._died)

    def _died(self) -> None:
        self._loop.remove_reader(self._pidfd)
        pid = self._launched.process.pid if self._launched is not None else 0
        useful = self._useful
        code = self._forget()
        log.error("the fork server (pid %d) died: %s", pid, describe_exit(code))
        pending, running = list(self._pending.values()), list(self._running.values())
        self._pending, self._running = {}, {}
        for child in running:
            child.abandoned()
        for child in pending:
            child.ended(code)
        if useful and not self._closed:  # else whoever needs it tries again, with pauses
            with contextlib.suppress(StartError):
                self._begin()

    def _forget(self) -> int:
        assert self._launched is not None
        os.close(self._pidfd)
        if self._channel is not None:
            self._channel.close()
        code = self._launched.close()
        self._launched = self._channel = None
        return code

    def _overdue(self, number: int) -> None:
        if number in self._pending:
            log.error("the fork server makes no worker: killing it")
            self.kill()

    def _on_message(self, message: Message, fds: list[int]) -> None:
        match message.get("type"):
            case "forked":
                self._on_forked(message, fds)
            case "exited":
                child = self._running.pop(message["pid"], None)
                if child is not None:
                    child.ended(message["code"])
            case other:
                log.error("the fork server sent an unknown frame: %s", other)

    def _on_forked(self, message: Message, fds: list[int]) -> None:
        child = self._pending.pop(message["number"], None)
        if child is None:
            return
        if not fds:
            log.error("the fork server cannot make a worker: %s", message["error"])
            child.ended(None)
            return
        self._useful = True
        self._running[message["pid"]] = child
        child.forked(message["pid"], fds[0])


class Birth(Struct, frozen=True):
    """What a new worker is given; the descriptors are its own."""

    index: int
    channel: int
    segment: int
    wakeups: Sequence[int]


class Server:
    """The process's side, on the socket to the master."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = Decoder()
        self._children: dict[int, int] = {}  # pidfd -> pid
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def serve(self) -> Birth | None:
        """Returns in each worker that it makes; in the server itself None, once the master is gone."""
        try:
            while True:
                for fd, _ in self._poll.poll():
                    if fd != self._socket.fileno():
                        self._reap(fd)
                        continue
                    data, fds, _ = receive(self._socket)
                    if not data:
                        return None
                    if (birth := self._obey(self._decoder.feed(data, fds))) is not None:
                        return birth
        except (OSError, ChannelError):  # the master is gone
            return None

    def _obey(self, messages: list[tuple[Message, list[int]]]) -> Birth | None:
        while messages:
            message, fds = messages.pop(0)
            if self._fork(message["number"]):
                self._socket.close()
                self._decoder.close()
                for fd in (*self._children, *(fd for _, later in messages for fd in later)):
                    os.close(fd)
                return Birth(message["index"], fds[0], fds[1], fds[2:])
            for fd in fds:
                os.close(fd)
        return None

    def _fork(self, number: int) -> bool:
        """True in the new process."""
        answer: Message = {"type": "forked", "number": number, "pid": 0, "error": ""}
        try:
            pid = os.fork()
        except OSError as error:
            self._send({**answer, "error": error.strerror})
            return False
        if pid == 0:
            return True
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._send({**answer, "error": error.strerror})
            return False
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._send({**answer, "pid": pid}, [pidfd])
        return False

    def _reap(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        pid = self._children.pop(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._send({"type": "exited", "pid": pid, "code": os.waitstatus_to_exitcode(status)})

    def _send(self, message: Message, fds: Sequence[int] = ()) -> None:
        frame = memoryview(encode(message, len(fds)))
        sent = self._socket.sendmsg([frame], rights(fds))
        self._socket.sendall(frame[sent:])


def describe_exit(code: int | None) -> str:
    """'exit code 1' or 'signal SIGKILL'."""
    if code is None:
        return "unknown exit status"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
