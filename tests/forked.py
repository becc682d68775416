"""Daemons and commands of tests, forked from a process that has loaded `lb` once.

To import what the daemon and the command line are made of costs a CPU second, hundreds of times in a run of all tests.
Here a process of its own imports it once, and forks for each daemon or command: a process with its own environment,
descriptors, session and folder, which runs the same `main`. Tests that are about the start itself use `exec`.

    Forked(["run", "-c", "tidegate.yaml"], ...)       as Popen([sys.executable, "-m", "lb.cli", "run", ...])
    Forked(["tests/control/standin.py", "run"], ...)  as Popen([sys.executable, "tests/control/standin.py", "run"])
    Forked(["-c", "import lb; ...", "run"], ...)      as Popen([sys.executable, "-c", "import lb; ...", "run"])
    Forked(["-m", "backend", "serve", ...], ...)      as Popen([sys.executable, "-m", "backend", "serve", ...])
"""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import copies
from children import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[1]
MESSAGE = 1 << 20  # bytes of a request at most

File = IO[Any] | int | None


class ForkServer:
    """The process that forks, and the way to it. One for a process of tests, made when it is needed first."""

    _only: ForkServer | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": ENVIRONMENT["PYTHONPATH"]},
            start_new_session=True,  # Ctrl-C ends the tests, which end it
        )
        theirs.close()
        atexit.register(self.close)

    @classmethod
    def only(cls) -> ForkServer:
        with cls._lock:
            if cls._only is None or cls._only._process.poll() is not None:
                cls._only = ForkServer()
            return cls._only

    def fork(self, request: dict[str, Any], files: Sequence[int]) -> socket.socket:
        """Where the pid comes and, at its end, the status, as one message each."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            descriptors = array.array("i", [*files, theirs.fileno()])
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE)
            self._socket.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        return ours

    def close(self) -> None:
        self._socket.close()
        self._process.wait(20)


class Forked:
    """The part of subprocess.Popen that tests use; `arguments` are a script, or those of `tidegate`."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: File = subprocess.DEVNULL,
        stdout: File = None,
        stderr: File = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        start_new_session: bool = False,
    ) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        request = {
            "arguments": self.args,
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd or Path.cwd()),
            "session": start_new_session,
        }
        with contextlib.ExitStack() as opened:
            files = [self._file(opened, number, file) for number, file in enumerate((stdin, stdout, stderr))]
            self._end = ForkServer.only().fork(request, files)
        self.pid = int(self._message(20))

    def _file(self, opened: contextlib.ExitStack, number: int, file: File) -> int:
        if file == subprocess.PIPE:
            reading, writing = os.pipe()
            opened.callback(os.close, writing)
            setattr(self, ("stdin", "stdout", "stderr")[number], os.fdopen(reading))
            return writing
        if file == subprocess.DEVNULL:
            null = os.open(os.devnull, os.O_RDWR)
            opened.callback(os.close, null)
            return null
        if file is None:
            return number
        return file if isinstance(file, int) else file.fileno()

    def _message(self, seconds: float | None) -> bytes:
        if not readable([self._end], seconds):
            raise subprocess.TimeoutExpired(self.args, seconds or 0)
        said = self._end.recv(64)
        assert said, "the process that forks has ended"
        return said

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(int(self._message(timeout)))
            self._end.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to pipes, to their end, and then its end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        said = {pipe: b"" for pipe in (self.stdout, self.stderr) if pipe is not None}
        reading = dict.fromkeys(said)
        while reading:
            left = None if deadline is None else max(0, deadline - time.monotonic())
            ready = readable(reading, left)
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            for pipe in ready:
                data = os.read(pipe.fileno(), 65536)
                said[pipe] += data
                if not data:
                    del reading[pipe]
                    pipe.close()
        self.wait(None if deadline is None else max(0, deadline - time.monotonic()))
        output, errors = (said[p].decode() if p is not None else "" for p in (self.stdout, self.stderr))
        return output, errors


def readable(files: Iterable[Any], seconds: float | None) -> list[Any]:
    """As select(2) says, which takes no descriptor above 1,023."""
    waiting = select.poll()
    by_number = {file.fileno(): file for file in files}
    for number in by_number:
        waiting.register(number, select.POLLIN)
    return [by_number[number] for number, _ in waiting.poll(None if seconds is None else seconds * 1000)]


def run(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = 60,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run, with what the command writes."""
    process = Forked(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=cwd)
    try:
        output, errors = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    done = subprocess.CompletedProcess(process.args, process.wait(), output, errors)
    if check:
        done.check_returncode()
    return done


# What follows runs in the process that forks.


def serve(requests: socket.socket) -> None:
    """Until nobody can ask any more; the processes that it has forked go on."""
    load()
    watched: dict[int, socket.socket] = {}
    ended, wakes = socket.socketpair()
    for end in (ended, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    while True:
        ready = readable([requests, ended], None)
        if ended in ready:
            with contextlib.suppress(BlockingIOError):
                while ended.recv(4096):
                    pass
        reap(watched)
        if requests in ready:
            data, ancillary, _, _ = requests.recvmsg(MESSAGE, 4096)
            if not data:
                return
            files = array.array("i")
            for _, _, received in ancillary:
                files.frombytes(received)
            pid = os.fork()
            if pid == 0:
                become(json.loads(data), list(files[:3]))
            report = socket.socket(fileno=files[3])
            with contextlib.suppress(OSError):
                report.send(str(pid).encode())
            watched[pid] = report
            for file in files[:3]:
                os.close(file)


def reap(watched: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            with watched.pop(found[0]) as report, contextlib.suppress(OSError):
                report.send(str(found[1]).encode())


def load() -> None:
    """What the daemon and its commands import, also where they need it only later."""
    import gc
    import importlib

    import setproctitle

    for name in (
        "aiohttp.web", "uvloop", "lb.cli.app", "lb.cli.admin", "lb.cli.check", "lb.cli.run", "lb.cli.status",
        "lb.config.load", "lb.control.master", "lb.control.run", "lb.cli.explain",
    ):  # fmt: skip
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    copies.load()
    setproctitle.getproctitle()  # which finds the title's place, and would not in a copy with another environment
    gc.collect()
    gc.freeze()


def become(request: dict[str, Any], files: list[int]) -> None:
    """Does not return."""
    import random
    import traceback

    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, 1 << 16)
        if request["session"]:
            os.setsid()
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        random.seed()
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        copies.install()
        code = called(request["arguments"])
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)


def called(arguments: list[str]) -> int:
    """The exit status of the command, or of the script."""
    import runpy

    try:
        if arguments[0].endswith(".py"):
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
            return 0
        if arguments[:2] == ["-m", "backend"]:
            from backend import warm

            return warm.run(arguments[2:])
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(arguments[1], {"__name__": "__main__"})
            return 0
        from lb.cli.app import main

        sys.argv = ["tidegate", *arguments]
        code = main()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            return 1
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
