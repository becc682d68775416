"""The processes between the master and the servers of managed pools. Run as a script, with the standard library alone:

    master ── launcher ── watcher ── server ── what the server starts

One launcher forks a watcher for each server. A watcher takes over every process that its server leaves behind
(PR_SET_CHILD_SUBREAPER of prctl(2)), also one in a session of its own, so that nothing outlives the server. A watcher
whose master is gone ends its server: a master that was killed leaves no server behind, and the next master does not
start a second one beside it. A watcher that is killed takes its server along (PR_SET_PDEATHSIG); what that server had
started falls to the launcher, which kills it.

A launcher may load a module first, of which servers are copies then: they start without an interpreter that loads
everything again. It has one thread, or its servers are started by their command.

Messages of the launcher's socket: one byte with three descriptors, namely a Specification as JSON, the watcher's end of
its socket, and the writing end of the server's output.
Messages of a watcher's socket: from the master one byte, the number of a signal for the server; to the master
`started PID`, or `failed REASON`, and `exited CODE`. The end of either socket is the end of the peer.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

_GRACE = 2.0  # seconds that a server whose master is gone has after SIGTERM
_PATIENCE = 0.2  # seconds in which what a server has left is to end, before the server's end is told
_PAUSE = 0.005
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
# What operators tell the daemon; `systemctl kill` reaches all of its processes. A server may handle them as it likes.
_OF_THE_DAEMON = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_OF_THE_SERVER = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


class Specification(NamedTuple):
    """How a server is started. `warm` are arguments for the launcher's own module, a copy of which is the server then;
    `command` says the same for a launcher that has none."""

    command: list[str]
    environment: dict[str, str]
    cores: list[int]  # CPUs that it may run on; all of the daemon's where there are none
    warm: list[str]


Run = Callable[[list[str]], int]

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: ctypes.c_ulong | ctypes.c_char_p) -> None:
    if _libc.prctl(option, value, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _children() -> set[int]:
    """The processes whose parent is this one, those included that have ended and are not reaped yet."""
    me, found = os.getpid(), set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # else it has ended
            if int(file.read().rpartition(b")")[2].split()[1]) == me:
                found.add(int(name))
    return found


def _reap() -> dict[int, int]:
    """Exit codes by process, of all children that have ended."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def _kill(pid: int, number: int) -> None:
    """Of a child that is not reaped, so that the number is no other process's."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _end_all(patience: float) -> bool:
    """Kills all children, and theirs as they fall to this process; whether none is left within so many seconds."""
    end = time.monotonic() + patience
    while found := _children():
        for pid in found:
            _kill(pid, signal.SIGKILL)
        _reap()
        if time.monotonic() >= end:
            return not _children()
        time.sleep(_PAUSE)
    return True


class _Wakeup:
    """A descriptor that can be read once a child has ended."""

    def __init__(self) -> None:
        self.fd, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if before >= 0:  # the launcher's, in a watcher
            os.close(before)

    def heard(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass


class _Watcher:
    """One server, from its start to the end of the last process that it has left."""

    def __init__(self, master: socket.socket, wanted: Specification, output: int, run: Run | None) -> None:
        self._master = master
        self._wanted = wanted
        self._output = output
        self._run = run
        self._wakeup = _Wakeup()

    def run(self) -> None:
        _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
        _prctl(_PR_SET_NAME, ctypes.c_char_p(b"tidegate: watch"))
        if self._master_is_gone():  # before anything was started
            return
        server, problem = self._start()
        os.close(self._output)
        if problem:
            os.waitpid(server, 0)
            self._tell(f"failed {problem}")
            return
        self._tell(f"started {server}")
        code = self._watch(server)
        gone = _end_all(_PATIENCE)
        self._tell(f"exited {code}")
        while not gone:
            gone = _end_all(1.0)

    def _master_is_gone(self) -> bool:
        try:
            return not self._master.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _tell(self, message: str) -> None:
        with contextlib.suppress(OSError):  # the master is gone
            self._master.send(message.encode())

    def _start(self) -> tuple[int, str]:
        """The server's process, and what kept it from beginning."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            problem = "it cannot begin"
            try:
                self._become_the_server(me)
                if self._run is not None and self._wanted.warm:
                    os.close(writing)
                    os._exit(self._copy(self._run))
                wanted = self._wanted
                os.execvpe(wanted.command[0], wanted.command, wanted.environment)  # noqa: S606
            except OSError as error:
                problem = error.strerror or str(error)
            finally:  # whatever happened, this copy of the watcher ends here
                os.write(writing, problem.encode())
                os._exit(127)
        os.close(writing)
        said = b""
        while piece := os.read(reading, 4096):  # until exec closes the other end
            said += piece
        os.close(reading)
        return pid, said.decode()

    def _become_the_server(self, watcher: int) -> None:
        os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != watcher:
            raise ProcessLookupError(errno.ESRCH, "its watcher is gone")
        wanted = self._wanted
        if wanted.cores:
            os.sched_setaffinity(0, wanted.cores)
        for number in _OF_THE_DAEMON:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        for number in _OF_THE_SERVER:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(self._output, 1)
        os.dup2(self._output, 2)

    def _copy(self, run: Callable[[list[str]], int]) -> int:
        """This process as the server, without another program; its exit status."""
        os.environ.clear()
        os.environ.update(self._wanted.environment)
        try:
            return run(self._wanted.warm)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            return 1

    def _watch(self, server: int) -> int:
        """Waits for the server's end; its exit code. Passes signals on, and ends a server whose master is gone."""
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        poll.register(self._wakeup.fd, select.POLLIN)
        kill_at = float("inf")
        while True:
            ended = _reap()
            if server in ended:
                return ended[server]
            now = time.monotonic()
            if now >= kill_at:
                _kill(server, signal.SIGKILL)
                kill_at = float("inf")
            left = None if kill_at == float("inf") else 1000 * (kill_at - now)
            ready = {fd for fd, _ in poll.poll(left)}
            if self._wakeup.fd in ready:
                self._wakeup.heard()
            if self._master.fileno() in ready:
                number = self._asked()
                if number is None:
                    poll.unregister(self._master)
                    _kill(server, signal.SIGTERM)
                    kill_at = time.monotonic() + _GRACE
                else:
                    _kill(server, number)

    def _asked(self) -> int | None:
        """The signal that the master asks for; None once the master is gone."""
        try:
            return next(iter(self._master.recv(1)), None)
        except OSError:
            return None


class _Launcher:
    """Starts what the master asks for, until the master is gone and everything has ended."""

    def __init__(self, control: socket.socket, run: Run | None) -> None:
        self._control = control
        self._run = run
        self._wakeup = _Wakeup()
        self._watchers: set[int] = set()
        self._left = False  # a watcher was killed, and something of its server may be here

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeup.fd, select.POLLIN)
        open_ = True
        while open_ or self._watchers or self._left:
            ready = {fd for fd, _ in poll.poll(1000 * _PAUSE if self._left else None)}
            if self._wakeup.fd in ready:
                self._wakeup.heard()
            for pid, code in _reap().items():
                if pid in self._watchers:
                    self._watchers.discard(pid)
                    self._left = self._left or code != 0
            if self._left:
                strangers = _children() - self._watchers
                for pid in strangers:
                    _kill(pid, signal.SIGKILL)
                self._left = bool(strangers)
            if self._control.fileno() in ready and not self._take():
                open_ = False
                poll.unregister(self._control)

    def _take(self) -> bool:
        """One message of the master; False once that is gone."""
        rights = array.array("i")
        room = socket.CMSG_SPACE(3 * rights.itemsize)
        try:
            data, ancillary, _, _ = self._control.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                rights.frombytes(payload)
        if not data or len(rights) != 3:
            return False
        try:
            self._fork(*rights)
        finally:
            for fd in rights:
                os.close(fd)
        return True

    def _fork(self, specification: int, watcher: int, output: int) -> None:
        alone = len(os.listdir("/proc/self/task")) == 1  # else a copy would lack what other threads hold
        try:
            pid = os.fork()
        except OSError as error:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(watcher)) as sock:
                sock.send(f"failed {error.strerror}".encode())
            return
        if pid:
            self._watchers.add(pid)
            return
        try:
            self._control.close()
            os.close(self._wakeup.fd)
            with open(os.dup(specification), "rb") as file:
                wanted = Specification(**json.loads(file.read()))
            os.close(specification)
            _Watcher(socket.socket(fileno=watcher), wanted, output, self._run if alone else None).run()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)


def _load(module: str) -> Run | None:
    """`run` of a module; None where that cannot be imported, which the server's own command tells better."""
    try:
        found: Run = importlib.import_module(module).run
    except Exception:
        return None
    return found


def main(control: int, module: str = "") -> None:
    """The launcher, on its end of the socket. `module` has `run(arguments)`, for servers that are copies of this
    process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
    _prctl(_PR_SET_NAME, ctypes.c_char_p(b"tidegate: start"))
    for number in (signal.SIGTERM, signal.SIGINT, *_OF_THE_DAEMON):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.set_inheritable(control, False)
    run = _load(module) if module else None
    gc.collect()
    gc.freeze()  # watchers and copies share what was loaded once
    _Launcher(socket.socket(fileno=control), run).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
