"""The upgrade of a running master: from the trial of the installed program to the moment when that takes over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from lb.control.upgrade.handover import Handover, OldWorker, Program, become, end, still_there, this_program
from lb.control.workers.channel import Message, encode
from lb.control.workers.fork_server import describe_exit
from lb.control.workers.launch import OF_THE_MASTER
from lb.errors import StartError
from lb.tasks import end_tasks

log = logging.getLogger("tidegate.upgrade")

TRIAL = 60.0  # seconds for the installed program to show that it would start
START = 20.0  # seconds for it to serve
_BLOCKED = 2.0  # seconds beyond these, for a loop that has not heard that they are over
ANSWER = 0.2  # seconds for whoever asked for it to hear that it goes on
TOLD = re.compile(r"^version (\S+) starts", re.MULTILINE)  # what a trial says
WARNING = ": warning: "  # in the lines of `tidegate check` that are no errors
Stored = tuple[tuple[str, int], ...]  # name and number
_BESIDE = 32  # descriptors of a program besides those of what it serves
_SHOWN = 10  # lines of why it would not
_ENDING = 5.0  # seconds for their end, beyond the drain


class Outcome(Struct, frozen=True):
    """What became of the last upgrade that was asked for in this process. `at` is Unix time, seconds. `admin` is where
    the admin server of the next program will listen, "" where that is not known."""

    ok: bool
    at: float
    before: str  # versions
    after: str
    error: str = ""
    admin: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_room() -> None:
    """Raises StartError where the next program could not open its own descriptors beside those that it gets, and the
    program before could not either."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        wanted = 2 * len(os.listdir("/proc/self/fd")) + _BESIDE
    except OSError as error:
        raise StartError(f"an upgrade needs more descriptors than are left: {error.strerror}") from error
    if limit < wanted:
        raise StartError(f"an upgrade needs {wanted} descriptors, of {limit}: raise the limit (LimitNOFILE, ulimit -n)")


async def try_installed(config: Path, program: Program, stop: asyncio.Event) -> str:
    """The version of the program that is installed now, which has shown that it would start. Raises StartError; at once
    when `stop` is set."""
    if not program.arguments:  # the daemon is part of another program, such as that of `make run`
        raise StartError("only a daemon that `tidegate run` has started can be upgraded")
    try:
        process = await asyncio.create_subprocess_exec(
            *program.command, "check", "--trial", "--config", str(config),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name not in OF_THE_MASTER},
        )  # fmt: skip
    except OSError as error:
        raise StartError(f"{program.command[0]} cannot be run: {error.strerror}") from error
    talk, stopping = asyncio.create_task(process.communicate()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({talk, stopping}, timeout=TRIAL, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            raise StartError("the daemon is stopping")
        if not talk.done():
            raise StartError(f"the installed program did not start within {TRIAL:.0f} s in its trial")
        said, problems = talk.result()
    finally:
        await end_tasks([talk, stopping])
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise StartError(
            "the installed program would not start: " + "; ".join(_reasons(problems, process.returncode)[-_SHOWN:])
        )
    version = TOLD.search(said.decode())
    if version is None:
        raise StartError(f"the installed program does not know of trials: {' '.join(program.command)}")
    return version[1]


def _reasons(problems: bytes, code: int) -> list[str]:
    """What a trial said of its failure, or how it ended. Warnings are no reason: among them are the addresses that the
    daemon has."""
    lines = problems.decode(errors="replace").strip().splitlines()
    return [line for line in lines if WARNING not in line] or [f"{describe_exit(code)}, and it said no reason"]


class Succession:
    """What a program has from the one before it in the process, until that is of no use any more.

    Until `succeeded`, the way back is open: `go_back`. A thread goes it where the loop is blocked, until `heard`. From
    then on the workers of the program before drain; `workers` says who is left.
    """

    def __init__(self, handover: Handover, environment: Callable[[Stored], dict[str, str]]) -> None:
        """`environment` gives that of the program before, from what this had in the descriptor store. Raises StartError
        when descriptors cannot be kept for the way back, and it cannot be gone at once."""
        self.handover = handover
        self._environment = environment
        self._turn = threading.Lock()  # for the way back
        self._back: Handover | None = handover
        if handover.failed:  # this is the program before
            self._back = None
        else:
            self._keep_the_way_back()
        self._guard = threading.Timer(START + _BLOCKED, self._go_back_blocked)
        self._guard.daemon = True
        self._guard.start()
        self._loop = asyncio.get_running_loop()
        self._left: dict[int, OldWorker] = {worker.pidfd: worker for worker in handover.workers}
        self._channels = {worker.pidfd: worker.channel for worker in handover.workers}
        self._gone = asyncio.Event()
        self._when_gone: list[Callable[[], None]] = []
        for worker in handover.workers:
            self._loop.add_reader(worker.pidfd, self._ended, worker)
        self._children = {os.pidfd_open(pid): pid for pid in handover.children if _is_child(pid)}
        for pidfd, pid in self._children.items():
            self._loop.add_reader(pidfd, self._reap, pidfd, pid)
        self._settle()

    def _keep_the_way_back(self) -> None:
        try:
            self._back = self.handover.copied()
        except OSError as error:
            reason = f"descriptors cannot be kept for the way back: {error.strerror}"
            self.go_back(reason)  # with those that there are
            raise StartError(reason) from error

    @property
    def workers(self) -> list[int]:
        """Processes of the program before that still serve."""
        return [worker.pid for worker in self._left.values()]

    def when_gone(self, call: Callable[[], None]) -> None:
        """`call` is called once no worker of the program before is left."""
        self._when_gone.append(call)
        self._settle()

    def _go_back_blocked(self) -> None:
        self.go_back(f"it did not serve within {START:.0f} s, and its event loop was blocked")

    def succeeded(self) -> None:
        """This program serves: the workers of the one before take no more connections, and drain."""
        with self._turn:
            back, self._back = self._back, None
        if back is not None:
            back.close()
        for worker in self._left.values():
            if not worker.hears or not _send(worker.channel, {"type": "leave"}):
                os.close(self._channels.pop(worker.pidfd))

    def tell(self, health: dict[str, dict[str, bool]]) -> None:
        """Which endpoints are up, by pool and address, for the sessions that workers of the program before have. One
        that takes nothing any more hears no more."""
        for pidfd, channel in list(self._channels.items()):
            if not _send(channel, {"type": "health", "pools": health}):
                os.close(self._channels.pop(pidfd))

    def heard(self) -> None:
        """The loop knows whether this program serves: no thread goes back any more."""
        self._guard.cancel()

    def go_back(self, reason: str) -> None:
        """Runs the program before again. Returns where there is no way back, and says why."""
        with self._turn:
            back, self._back = self._back, None
        if self.handover.failed:
            log.error("the program before does not start either: %s", reason)
        if back is None:
            return
        if not still_there(back.before):
            log.error("the upgrade failed, and version %s is not in %s any more", back.before.version, back.before.path)
            return
        log.error("the upgrade failed, version %s goes on: %s", back.before.version, reason)
        environment = self._environment(back.stored)
        try:
            become(back.before, replace(back, before=this_program(), failed=reason), environment, exactly=True)
        except OSError as error:
            log.error("%s cannot be run any more: %s", back.before.exact[0], error.strerror)

    async def end(self, seconds: float, hurry: asyncio.Event) -> None:
        """The daemon stops: so do the workers of the program before, within their own time for a drain."""
        end(list(self._left))
        waits = [asyncio.ensure_future(self._gone.wait()), asyncio.ensure_future(hurry.wait())]
        await asyncio.wait(waits, timeout=seconds + _ENDING, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def handed(self) -> tuple[OldWorker, ...]:
        """Workers of programs before, for the next one: they drain already, and are only to be waited for."""
        return tuple(
            worker
            if pidfd in self._channels
            else replace(worker, channel=os.open(os.devnull, os.O_RDONLY), hears=False)
            for pidfd, worker in self._left.items()
        )

    def _ended(self, worker: OldWorker) -> None:
        self._loop.remove_reader(worker.pidfd)
        del self._left[worker.pidfd]
        os.close(worker.pidfd)
        channel = self._channels.pop(worker.pidfd, None)
        if channel is not None:
            os.close(channel)
        _wait_for(worker.pid)  # where we are process 1, it is ours
        self._settle()

    def _settle(self) -> None:
        if self._left:
            return
        self._gone.set()
        calls, self._when_gone = self._when_gone, []
        for call in calls:
            call()

    def _reap(self, pidfd: int, pid: int) -> None:
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        del self._children[pidfd]
        _wait_for(pid)


def _send(channel: int, message: Message) -> bool:
    """Whether a worker takes a frame, at once and whole. What it has sent itself is left unread."""
    frame = encode(message)
    try:
        with socket.socket(fileno=os.dup(channel)) as sock:
            return sock.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(frame)
    except OSError:
        return False


def _wait_for(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _is_child(pid: int) -> bool:
    """Whether it is still there, running or to be waited for."""
    return os.path.exists(f"/proc/{pid}")
