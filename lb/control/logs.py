"""Diagnostics of master and workers: standard error, one line each, without a time where the journal writes its own."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator

from lb.errors import StartError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def setup_logging(process: str, level: str = "info") -> None:
    """Logs to standard error as `process`; into the journal (systemd.exec(5), JOURNAL_STREAM) lines carry a
    priority, not a time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(process, journal=_in_journal()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """`level`: a key of LEVELS."""
    logging.getLogger("tidegate").setLevel(LEVELS[level])


@contextlib.contextmanager
def silent_grpc() -> Iterator[None]:
    """What is imported meanwhile and uses gRPC keeps that library's own lines from standard error: of each connection
    that fails, in a form of its own. Checks tell what failed as a reason. GRPC_VERBOSITY of the environment goes first.
    """
    variable = "GRPC_VERBOSITY"
    if variable in os.environ:
        yield
        return
    os.environ[variable] = "NONE"
    try:
        yield
    finally:
        del os.environ[variable]  # model servers that we start have a log of their own


def _in_journal() -> bool:
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


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


def _open(path: str) -> int:
    try:
        if path == "-":
            return os.dup(sys.stdout.fileno())
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(path or os.devnull, flags | os.O_NONBLOCK, 0o640)  # the open of a FIFO would wait for a reader
        os.set_blocking(fd, True)  # the thread that writes may wait
        return fd
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise StartError(f"cannot open the access log {path}: nobody reads from this FIFO") from error
        raise StartError(f"cannot open the access log {path}: {error.strerror}") from error
