"""Diagnostics of master and workers: standard error, one line each, without a time where the journal writes its own."""

from __future__ import annotations

import logging
import os
import sys

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def setup_logging(process: str, level: str = "info") -> None:
    """Logs to standard error as `process`; into the journal (systemd.exec(5), JOURNAL_STREAM) lines carry a priority, not a time."""
    handler = logging.StreamHandler(sys.stderr)
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
