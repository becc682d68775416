"""Processes that a benchmark starts, pins to cores, and surely stops."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.accounting import tree
from bench.errors import BenchError


def dying_with_us(command: Sequence[str]) -> list[str]:
    """The command, to which the kernel sends SIGTERM when this program ends, however it ends.

    A program does that, not a function between fork and exec: in a process that uses gRPC its handlers of a fork run
    there as well, and now and then they abort the child.
    """
    return ["setpriv", "--pdeathsig", "TERM", "--", *command]


def on_cores(cores: Iterable[int], command: Sequence[str]) -> list[str]:
    """A command that runs on these CPUs only, its children as well."""
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


def program(name: str) -> str:
    """A program's path; just its name if it is not installed. Daemons are found where a user's PATH does not look."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or name


def require(name: str, package: str) -> str:
    """The program's path. Raises BenchError naming the package to install."""
    if (found := program(name)) == name:
        raise BenchError(f"{name} is missing; install it with: apt-get install {package}")
    return found


@contextlib.contextmanager
def signals_as_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as Ctrl-C does, through every `finally`, so that no process is left behind."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Process:
    """A started program with its output in a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self.command = list(command)
        with log.open("wb") as out:
            try:
                # Its own session: Ctrl-C is for us, who then stop it in order. If we are killed, the kernel tells it.
                self._popen = subprocess.Popen(
                    dying_with_us(self.command),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise BenchError(f"cannot start {name}: {error.strerror}") from error

    def __repr__(self) -> str:
        return f"<Process {self.name} pid={self._popen.pid} code={self._popen.poll()}>"

    def pids(self) -> list[int]:
        """The process and its descendants."""
        return tree(self._popen.pid)

    def check(self) -> None:
        """Raises BenchError with the end of its output if it has ended."""
        if (code := self._popen.poll()) is not None:
            raise BenchError(f"{self.name} ended with code {code}: {self.last_words()}")

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines[-3:]) or "it said nothing"

    def signal(self, number: int) -> None:
        """Sends a signal to the process itself. Raises BenchError if it has ended."""
        self.check()
        self._popen.send_signal(number)

    def wait_listening(self, port: int, timeout: float = 15.0, udp: bool = False) -> None:
        """Returns once the port takes connections (`udp`: is bound). Raises BenchError if the process ends first."""
        limit = time.monotonic() + timeout
        while True:
            self.check()
            if is_bound(port) if udp else accepts(port):
                return
            if time.monotonic() > limit:
                raise BenchError(f"{self.name} does not listen after {timeout:.0f} s: {self.last_words()}")
            time.sleep(0.02)

    def stop(self, grace: float = 5.0) -> None:
        """SIGTERM, then SIGKILL for whatever is left of its process group."""
        if self._popen.poll() is None:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()


class Processes:
    """All processes of one run; leaving the `with` block stops them, the last started first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[Process] = []

    def start(self, name: str, command: Sequence[str]) -> Process:
        """Raises BenchError if it cannot be started."""
        process = Process(name, command, self._directory / f"{name}.log")
        self._started.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure: BaseException | None = None
        while self._started:
            try:
                self._started[-1].stop()
                self._started.pop()
            except (KeyboardInterrupt, SystemExit) as again:  # a second Ctrl-C must not leave the others running
                failure = again
        if failure is not None:
            raise failure


def accepts(port: int) -> bool:
    """Whether 127.0.0.1:`port` takes a TCP connection."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def is_bound(port: int) -> bool:
    """Whether a UDP socket has 127.0.0.1:`port` or the port on all addresses, by /proc/net/udp."""
    wanted = {f"{address}:{port:04X}" for address in ("0100007F", "00000000")}
    rows = Path("/proc/net/udp").read_text().splitlines()[1:]
    return any(row.split()[1] in wanted for row in rows)
