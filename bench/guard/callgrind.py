"""Running guarded paths under callgrind, several at a time: the figures do not depend on how busy the machine is."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.guard.driver import DONE
from bench.guard.profile import Count, Profile, parse, per_request
from bench.processes import dying_with_us, require
from lb.control.workers.launch import FREE_BLOCKS

MARK = "tg_guard_mark"
# What an event loop calls of the data path: these and all below them are counted, the rest of the program is not.
ENTRIES = ("__pyx_pw_2lb_3net_6poller_6Poller_*_run", "__pyx_pw_2lb_3net_6poller_6Poller_*_flush_later")
# The hashes of strings must be the same in every run. valgrind's processor is an emulated one, but libc's choice to
# copy with `rep movsb` above some size is worth nothing there.
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
    "GLIBC_TUNABLES": f"glibc.cpu.hwcaps=-ERMS,-FSRM:{FREE_BLOCKS}",
}
# Any further variable would move the stack, and libc's string functions look at addresses.
_KEPT = ("PATH", "HOME", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Length:
    """How many requests a run makes: those that are dropped, and those that are counted."""

    warmup: int = 200
    requests: int = 1000


def count(
    paths: Sequence[str], length: Length, *, jobs: int, progress: Callable[[str, Count], None] = lambda *_: None
) -> dict[str, Count]:
    """Counts each path in a process of its own (some 15 s each), `jobs` at a time.

    Raises BenchError when valgrind is missing or one of them fails; then none is left running.
    """
    valgrind = require("valgrind", "valgrind")
    waiting = list(paths)
    running: list[_Attempt] = []
    found: dict[str, Count] = {}
    with tempfile.TemporaryDirectory(prefix="tidegate-guard-") as directory:
        try:
            while waiting or running:
                while waiting and len(running) < max(1, jobs):
                    running.append(_Attempt(valgrind, waiting.pop(0), length, Path(directory)))
                for attempt in _ended(running):
                    running.remove(attempt)
                    found[attempt.path] = result = attempt.result()
                    progress(attempt.path, result)
        finally:
            for attempt in running:
                attempt.kill()
    return {path: found[path] for path in paths}


class _Attempt:
    """One path under callgrind, from its start to its profile."""

    def __init__(self, valgrind: str, path: str, length: Length, directory: Path) -> None:
        self.path = path
        self._length = length
        self._out = directory / f"{path}.callgrind"
        self._said = directory / f"{path}.out"
        self._deadline = time.monotonic() + _TIMEOUT_S
        command = [
            valgrind, "--tool=callgrind", "--vgdb=no", "--quiet", "--collect-systime=yes", f"--dump-before={MARK}",
            f"--callgrind-out-file={self._out}", *(f"--toggle-collect={entry}" for entry in ENTRIES),
            sys.executable, "-m", "bench.guard.driver", path,
            "--warmup", str(length.warmup), "--requests", str(length.requests),
        ]  # fmt: skip
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with self._said.open("wb") as said:
            self._popen = subprocess.Popen(
                dying_with_us(command),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**kept, **_ENVIRONMENT},
            )
        self.pidfd = os.pidfd_open(self._popen.pid)

    def late(self) -> bool:
        return time.monotonic() > self._deadline

    def kill(self) -> None:
        self._popen.send_signal(signal.SIGKILL)
        self._popen.wait()
        os.close(self.pidfd)

    def result(self) -> Count:
        """To be called when the process has ended. Raises BenchError when it failed or its profile is of no use."""
        os.close(self.pidfd)
        said = self._said.read_text(errors="replace").strip().splitlines()
        if self._popen.wait() or not said or said[-1] != DONE:
            last = said[-1] if said else f"ended with code {self._popen.returncode}"
            raise BenchError(f"{self.path} failed under callgrind: {last}")
        profile = self._between_marks()
        if not profile.total:
            raise BenchError(
                f"{self.path}: callgrind saw nothing of the data path: the compiled modules have no symbols; build "
                "them with make dev, and do not strip them"
            )
        return per_request(profile, self._length.requests)

    def _between_marks(self) -> Profile:
        part = self._out.with_name(f"{self._out.name}.2")  # 1: to the first mark; 2: to the second; none: the rest
        if not part.exists():
            raise BenchError(f"{self.path}: callgrind did not see the marks in bench.guard._mark; build it: make dev")
        with part.open(encoding="utf-8", errors="replace") as lines:
            profile = parse(lines)
        if MARK not in profile.trigger:
            raise BenchError(f"{self.path}: callgrind's profile was ended by {profile.trigger!r} and not by a mark")
        return profile


def _ended(running: Sequence[_Attempt]) -> list[_Attempt]:
    """Those that have ended; waits for the first. Raises BenchError when one takes too long."""
    poll = select.poll()
    for attempt in running:
        poll.register(attempt.pidfd, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(1000)}
    for attempt in running:
        if attempt.late():
            raise BenchError(f"{attempt.path}: no end after {_TIMEOUT_S} s under callgrind; use fewer requests")
    return [attempt for attempt in running if attempt.pidfd in ready]
