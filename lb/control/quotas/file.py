"""The file of counts: SQLite, in WAL mode, with synchronous=NORMAL.

A commit of each look is in the kernel's hands: the death of every process of the daemon loses what came after it, the
death of the machine may lose the last commits as well, and neither damages the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from lb.errors import StartError

VERSION = 1  # of the schema; another one is not opened
_SCHEMA = f"""
CREATE TABLE counts (
    name BLOB PRIMARY KEY,
    start INTEGER NOT NULL,
    span INTEGER NOT NULL,
    used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""

Row = tuple[bytes, int, int, int]
"""The name of a client (lb/shared/quotas.pxd), the first minute of its window since 1970, the minutes of the longest
window of its kind, and what it has used."""


class QuotaFile:
    """The file `path`, made when it is missing, readable by its owner alone. One thread at a time. Raises StartError
    when it cannot be used, or another daemon has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=2, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StartError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # it is this daemon's alone until it is closed
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.executescript(_SCHEMA)
            elif version != VERSION:
                raise StartError(f"{path} has counts of version {version}, this program has {VERSION}")
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._db.close()
            raise StartError(f"{path}: {error}") from error
        except StartError:
            self._db.close()
            raise

    def load(self, minute: int) -> list[Row]:
        """The counts whose window may still run at `minute`. Raises StartError."""
        try:
            found = self._db.execute(
                "SELECT name, start, span, used FROM counts WHERE start + span > ? AND used > 0", (minute,)
            )
            return [(bytes(name), int(start), int(span), int(used)) for name, start, span, used in found]
        except sqlite3.Error as error:
            raise StartError(f"{self.path}: {error}") from error

    def save(self, rows: Iterable[Row], minute: int) -> None:
        """Takes these counts, and drops those whose window was over at `minute`. Raises sqlite3.Error, with nothing
        changed."""
        self._db.execute("BEGIN")
        try:
            self._db.executemany(
                "INSERT INTO counts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " start = excluded.start, span = excluded.span, used = excluded.used",
                rows,
            )
            self._db.execute("DELETE FROM counts WHERE start + span <= ?", (minute,))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._db.close()
