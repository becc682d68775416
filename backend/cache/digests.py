"""Digests of the files of a model, which are the largest that the server reads.

To read a file of 1 GiB takes half a second, longer than its model takes to load from the cache. So the digest of a
large file is noted beside the cache with what `stat` says of the file, and holds as long as that stays the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from backend.cache.store import digest_of

_LARGE = 16 << 20  # bytes from which a digest is noted
# A file that was changed a moment ago may be changed again without another time: the kernel's clock ticks every 4 ms.
_SETTLED = 2.0


class Digests:
    """Notes are in `folder`, which is made for the first one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, files: Iterable[Path], root: Path) -> str:
        """The digest of files with their names below `root`. Raises OSError."""
        total = hashlib.sha256()
        for path in sorted(files):
            total.update(f"{path.relative_to(root)}\0{self._one(path)}\n".encode(errors="surrogateescape"))
        return total.hexdigest()

    def _one(self, path: Path) -> str:
        status = path.stat()
        if status.st_size < _LARGE:
            return digest_of(path)
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
        whole = os.fsencode(path.resolve())
        note = self._folder / f"{hashlib.sha256(whole).hexdigest()[:32]}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(note.read_bytes())
            if known["stamp"] == stamp:
                return str(known["sha256"])
        digest = digest_of(path)
        if max(status.st_mtime, status.st_ctime) + _SETTLED < time.time():
            with suppress(OSError):  # a cache that may only be read, or a full disk: then it is read again
                self._folder.mkdir(parents=True, exist_ok=True)
                made = note.with_suffix(f".{secrets.token_hex(4)}")
                made.write_text(json.dumps({"path": os.fsdecode(whole), "stamp": stamp, "sha256": digest}))
                os.replace(made, note)
        return digest
