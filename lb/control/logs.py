"""Diagnostics of master and workers: standard error, one line each, without a time where the journal writes its own."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import stat
import sys
from typing import TextIO

from lb.errors import StartError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def setup_logging(process: str, level: str = "info") -> None:
    """Logs to standard error as `process`; into the journal (systemd.exec(5), JOURNAL_STREAM) lines carry a
    priority, not a time."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter(process, journal=_in_journal()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """`level`: a key of LEVELS."""
    logging.getLogger("tidegate").setLevel(LEVELS[level])


def _in_journal() -> bool:
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Handler(logging.StreamHandler[TextIO]):
    """Waits a moment for who reads standard error, where that is a pipe, and not for ever: the daemon goes on, and so
    does its end. The lines that were lost are counted, and said when somebody reads again."""

    _MOMENT = 1000  # milliseconds, and none for the lines after one that was lost

    _lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        if not self._taken():
            self._lost += 1
            return
        if self._lost:
            text, self._lost = f"nobody read this log: {self._lost} lines were lost", 0
            super().emit(logging.LogRecord("tidegate.log", logging.WARNING, "", 0, text, None, None))
        super().emit(record)

    def _taken(self) -> bool:
        poll = select.poll()
        try:
            poll.register(self.stream.fileno(), select.POLLOUT)
            return bool(poll.poll(0 if self._lost else self._MOMENT))
        except (OSError, ValueError):  # closed, or no file at all: the write says so
            return True


class _Formatter(logging.Formatter):
    _PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

    def __init__(self, process: str, journal: bool) -> None:
        line = f"{process}: %(name)s: %(message)s"
        super().__init__(line if journal else f"%(asctime)s %(levelname)-7s {line}")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._journal:
            return text
        priority = self._PRIORITY.get(record.levelno, 5)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


class AccessLog:
    """The master's descriptor of the access log, which workers get a duplicate of. Off, it is the null device."""

    def __init__(self) -> None:
        self._path = ""
        self._fd = _open("")

    def fileno(self) -> int:
        return self._fd

    def stage(self, path: str) -> StagedLog:
        """Opens `path` ("" = off, "-" = standard output) for a change. Raises StartError."""
        return StagedLog(self, path, None if path == self._path else _open(path))

    def reopen(self) -> None:
        """Opens the same path anew. Raises StartError with the old file still in use."""
        self.replace(self._path, _open(self._path))

    def replace(self, path: str, fd: int) -> None:
        os.close(self._fd)
        self._path, self._fd = path, fd

    def close(self) -> None:
        os.close(self._fd)
        self._fd = -1


class StagedLog:
    """An access log that is opened but not yet used."""

    def __init__(self, log: AccessLog, path: str, fd: int | None) -> None:
        self._log = log
        self._path = path
        self._fd = fd

    def commit(self) -> bool:
        """Uses it; returns whether the descriptor is another one now."""
        if self._fd is None:
            return False
        self._log.replace(self._path, self._fd)
        self._fd = None
        return True

    def discard(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def _standard_output() -> int:
    """A pipe or a terminal is opened anew: others who have it, too, would be surprised by writes that do not wait."""
    fd = sys.stdout.fileno()
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):  # no /proc, another user's: the writer looks before it writes
            return os.open(f"/proc/self/fd/{fd}", _FLAGS)
    return os.dup(fd)


def _open(path: str) -> int:
    try:
        if path == "-":
            return _standard_output()
        # The open of a FIFO would wait for a reader, and so would writes.
        return os.open(path or os.devnull, _FLAGS | os.O_CREAT, 0o640)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise StartError(f"cannot open the access log {path}: nobody reads from this FIFO") from error
        raise StartError(f"cannot open the access log {path}: {error.strerror}") from error
