"""Programs of a daemon as copies of it, for daemons of tests that are themselves copies (tests/forked.py).

The daemon starts its fork server, its jobs process and its model servers by interpreters of their own, which load for
half a CPU second each. In a process that has loaded all of them, `install()` has the daemon's modules start copies of
this process instead, with the descriptors, signals and environment that the program would have. Whatever else they
start is started as ever. The master may have a thread that waits for work; a copy has only the one that made it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import random
import select
import signal
import subprocess
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Main = Callable[[], int | None]


def load() -> None:
    """Imports the programs. They may read the environment of this process meanwhile."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the master's launcher has it: a process with threads makes no copies
    for name in ("backend.warm", "lb.control.jobs.agent", "lb.control.servers.launcher", "lb.control.workers.worker",
                 "lb.proxy.proxy"):  # fmt: skip
        importlib.import_module(name)


def install() -> None:
    from lb.control.servers import launcher
    from lb.control.workers import launch

    for module in (launch, launcher):
        module.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": started})  # type: ignore[attr-defined]


def started(command: Sequence[str], **settings: Any) -> Copy | subprocess.Popen[bytes]:
    """As Popen(command, **settings)."""
    main = program(list(command))
    known = settings.keys() == {"stdin", "pass_fds", "env"} and settings["stdin"] == subprocess.DEVNULL
    if main is None or not known:
        return subprocess.Popen(command, **settings)
    return Copy(main, settings["pass_fds"], settings["env"])


def program(command: list[str]) -> Main | None:
    """What a command runs, where this process has loaded it."""
    from lb.control.servers import watcher

    match command:
        case [sys.executable, "-P", "-m", "lb.control.workers", *arguments]:
            from lb.control.workers.worker import main

            return lambda: main(arguments)
        case [sys.executable, "-P", "-m", "lb.control.jobs", *arguments]:
            from lb.control.jobs import agent

            def jobs() -> int:
                sys.argv = ["jobs", *arguments]
                return agent.main()

            return jobs
        case [sys.executable, "-P", watcher.__file__, control, "backend.warm"]:
            return lambda: watcher.main(int(control), "backend.warm")
    return None


class Copy:
    """A copy of this process that runs `main`, as much as is asked of a Popen."""

    def __init__(self, main: Main, pass_fds: Sequence[int], environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run(main, pass_fds, environment)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        if timeout is not None and self.poll() is None:
            ended = os.pidfd_open(self.pid)  # can be read then
            try:
                waiting = select.poll()
                waiting.register(ended, select.POLLIN)
                if not waiting.poll(timeout * 1000):
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            finally:
                os.close(ended)
        found = self._reap(0)
        assert found is not None
        return found

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # somebody else has, as with a Popen
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def descriptors() -> set[int]:
    """Those of this process but for pipes of which it has both ends: libuv has one, which it closes and makes anew in
    every process that is forked, by the numbers that it had, whatever has these numbers then."""
    ends: dict[str, list[int]] = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing
            ends.setdefault(os.readlink(f"/proc/self/fd/{name}"), []).append(int(name))
    return {end for link, found in ends.items() for end in found if not (link.startswith("pipe:") and len(found) == 2)}


def forget_logging() -> None:
    """Loggers are as a program finds them."""
    for handler in list(logging.root.handlers):
        logging.root.removeHandler(handler)
    logging.root.setLevel(logging.WARNING)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)


def _run(main: Main, pass_fds: Sequence[int], environment: Mapping[str, str]) -> None:
    """Does not return."""
    code = 1
    try:
        gc.freeze()  # objects of before may close descriptors at their end, whose numbers are of others here
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for descriptor in descriptors() - {0, 1, 2, *pass_fds}:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        os.environ.clear()
        os.environ.update(environment)
        random.seed()
        forget_logging()
        code = main() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
