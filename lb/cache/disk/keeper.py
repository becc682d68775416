"""What outlives a restart beside the answers on disk: the secret of their keys, and what was purged.

    secret    32 bytes; keys and checksums are made under it
    purges    the number of the run, and of each slot of tags its last purge: run and generation
    lock      held by the daemon that uses the folder

Generations of tags begin at 0 with each run of the daemon. A file says its run: it holds when each of its tags has, in
that run, the generation of the last purge or a later one, or is of a later run than that purge. A purge is answered
once its place in `purges` is written. Where that fails, `purges` is removed, and the next run begins empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
import struct
from array import array
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lb.cache.disk.folder import number_of

log = logging.getLogger("tidegate.cache")

_MAGIC = b"TgPurge1"
_HEAD = struct.Struct("<8sIIQ")
_PURGE = struct.Struct("<Q")
_SECRET = 32
_GONE = ".gone-"


class Table:
    """The purges up to the beginning of a run."""

    def __init__(self, run: int, purges: array[int]) -> None:
        self.run = run
        self.slots = len(purges)
        self.purges = purges  # of each slot its last: run << 32 | generation

    def purged(self, slot: int, run: int, generation: int) -> bool:
        """Whether a tag of the slot was purged after it had this generation in that run."""
        return slot >= self.slots or _purge(run, generation) < self.purges[slot]


def read_table(root: Path) -> Table:
    """Raises OSError, or ValueError where the file is of another kind."""
    data = (root / "purges").read_bytes()
    if len(data) < _HEAD.size:
        raise ValueError("purges: it is cut short")
    magic, slots, run, _ = _HEAD.unpack_from(data)
    if magic != _MAGIC or len(data) != _HEAD.size + slots * _PURGE.size:
        raise ValueError("purges: it is of another kind")
    purges = array("Q", data[_HEAD.size :])
    return Table(run, purges)


class Keeper:
    """For the master, before there are workers. `secret` is one that is to be in force; by default that of before. What
    was kept under another one is removed. Blocks. Raises OSError."""

    def __init__(self, root: Path, secret: bytes | None = None) -> None:
        self._root = root
        self._purges = -1
        self._thread = ThreadPoolExecutor(1, "disk keeper")
        self._pending: set[Future[None]] = set()
        with contextlib.suppress(FileExistsError):
            os.mkdir(root, 0o700)
        if os.stat(root).st_mode & 0o077:
            names = os.listdir(root)
            if names and "lock" not in names:  # as of a path that is a letter short, such as /var
                raise OSError(errno.ENOTEMPTY, "it has other files, and others may read it")
            os.chmod(root, 0o700)
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            known = _known_secret(root)
            self.secret = secret or known or secrets.token_bytes(_SECRET)
            self._same = self.secret == known
            if not self._same:
                self._empty()
                _write_whole(root / "secret", self.secret)
        except BlockingIOError:
            self.close()
            raise BlockingIOError(errno.EAGAIN, "another daemon uses it") from None
        except OSError:
            self.close()
            raise

    def begin(self, slots: int) -> None:
        """A new run, of a cache with so many slots of tags. Blocks. Raises OSError."""
        table = None
        try:
            table = read_table(self._root)
        except (FileNotFoundError, ValueError) as error:
            if self._same and isinstance(error, ValueError):
                log.warning("%s begins empty: %s", self._root, error)
        if table is not None and table.slots != slots:
            log.warning("%s begins empty: the memory of the cache has another size", self._root)
            table = None
        if table is None:
            self._empty()
            table = Table(0, array("Q", bytes(slots * _PURGE.size)))
        head = _HEAD.pack(_MAGIC, slots, table.run + 1, 0)
        _write_whole(self._root / "purges", head + table.purges.tobytes())
        self._run = table.run + 1
        self._purges = os.open(self._root / "purges", os.O_WRONLY | os.O_CLOEXEC)
        self._thread.submit(self._sweep)

    def purged(self, generations: Mapping[int, int]) -> None:
        """These are the generations of slots now. `settled` waits until that is written."""
        pending = self._thread.submit(self._note, dict(generations))
        self._pending.add(pending)
        pending.add_done_callback(self._pending.discard)

    async def settled(self) -> None:
        """What was purged stays so, whatever comes."""
        for pending in list(self._pending):
            await asyncio.wrap_future(pending)

    def close(self) -> None:
        self._thread.shutdown()
        for descriptor in (self._purges, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._purges = self._lock = -1

    def _note(self, generations: Mapping[int, int]) -> None:
        try:
            for slot, generation in generations.items():
                place = _PURGE.pack(_purge(self._run, generation))
                os.pwrite(self._purges, place, _HEAD.size + slot * _PURGE.size)
            os.fdatasync(self._purges)
        except OSError as error:
            log.error("%s: a purge is not kept, so that the next start begins empty: %s", self._root, error.strerror)
            with contextlib.suppress(OSError):
                os.unlink(self._root / "purges")

    def _empty(self) -> None:
        """What is there is not found any more; `_sweep` removes it."""
        for name in os.listdir(self._root):
            if number_of(name) is not None:
                os.rename(self._root / name, self._root / f"{_GONE}{name}-{secrets.token_hex(4)}")

    def _sweep(self) -> None:
        for name in os.listdir(self._root):
            if name.startswith(_GONE):
                shutil.rmtree(self._root / name, ignore_errors=True)


def _purge(run: int, generation: int) -> int:
    return run << 32 | generation


def _known_secret(root: Path) -> bytes | None:
    try:
        secret = (root / "secret").read_bytes()
    except FileNotFoundError:
        return None
    return secret if len(secret) == _SECRET else None


def _write_whole(path: Path, data: bytes) -> None:
    """All of it or nothing, for its owner alone. Raises OSError."""
    temporary = path.with_name(f".{path.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
