"""Room on the disk for jobs in a file of SQLite."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

ROW = 4096  # bytes of a job without its request, about
_RESERVE = 64 << 20  # bytes of the disk that submissions leave, or an eighth of it; answers leave half of that
_UNKNOWN = 1 << 62  # bytes
_LOOK = 1.0  # seconds for which what is left of the disk is known


class Room:
    """What changes may take of the disk. Submissions leave room for the answers of jobs that are accepted, and answers
    for the removal of jobs that are over: on a full disk SQLite can remove nothing either. For the writer's thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = self._reserve = 0  # bytes
        self._known_until = 0.0  # monotonic

    def take(self, db: sqlite3.Connection, size: int, answers: bool = False) -> None:
        """Raises sqlite3.OperationalError where there is no room for `size` bytes, of `answers` or of submissions."""
        size = 2 * (size + ROW)  # in the WAL, and in the file
        now = time.monotonic()
        if now >= self._known_until or not self._has(size, answers):
            self._look(db)
            self._known_until = now + _LOOK
            if not self._has(size, answers):
                what = "the removal of jobs that are over" if answers else "the answers of jobs that are accepted"
                raise sqlite3.OperationalError(f"the disk is full: what is left is for {what}")
        self._left -= size

    def _has(self, size: int, answers: bool) -> bool:
        return self._left - size >= (self._reserve // 2 if answers else self._reserve)

    def _look(self, db: sqlite3.Connection) -> None:
        """Free pages of the file are room, too; pages that only the WAL has, take some at the next checkpoint."""
        disk = os.statvfs(self._path.parent)
        if not disk.f_blocks:  # a file system that says nothing of its size, as some over a network do
            self._reserve, self._left = 0, _UNKNOWN
            return
        (page,), (pages,), (free,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("page_size", "page_count", "freelist_count")
        )
        to_come = max(0, pages * page - self._path.stat().st_size)
        self._reserve = min(_RESERVE, disk.f_blocks * disk.f_frsize // 8)
        self._left = disk.f_bavail * disk.f_frsize + free * page - to_come
