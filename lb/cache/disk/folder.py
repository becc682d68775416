"""The files of a worker: written whole or not at all, and bounded. Of one thread, but for `path_of` and `touch`."""

from __future__ import annotations

import contextlib
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

_BLOCK = 4096  # bytes in which file systems give room
_NAME = re.compile(r"[0-9a-f]{62}")
_CHANCES = 8  # files in a row that are spared at an eviction since they were read of late


def number_of(name: str) -> int | None:
    """The worker whose folder is called so."""
    return int(name) if len(name) == 3 and name.isascii() and name.isdigit() else None


def path_of(root: Path, worker: int, key: bytes) -> str:
    """Where a worker keeps what is under the key."""
    name = key.hex()
    return f"{root}/{worker:03}/{name[:2]}/{name[2:]}"


def touch(path: str) -> None:
    """It is in use: others go before it."""
    with contextlib.suppress(OSError):
        os.utime(path)


class Folder:
    """The files under `root` that are of `workers`: those of `workers[0]`, to which new ones are added, and those that
    workers left which are no more. They have `most` bytes of room. `evicted` is told the number of files that go."""

    def __init__(self, root: Path, workers: Sequence[int], most: int, evicted: Callable[[int], None]) -> None:
        self._root = root
        self._workers = workers
        self._most = most
        self._evicted = evicted
        self._files: OrderedDict[str, tuple[int, int]] = (
            OrderedDict()
        )  # path -> room, time of its last use; in that order
        self.used = 0

    def scan(self) -> None:
        """What is there, of before this process; what was not finished is removed. Raises OSError."""
        found = []
        for worker in self._workers:
            folder = f"{self._root}/{worker:03}"
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as parts:
                for part in parts:
                    with contextlib.suppress(NotADirectoryError), os.scandir(part.path) as files:
                        found += [_seen(file) for file in files]
        for used, room, path in sorted(each for each in found if each is not None):
            self._files[path] = (room, used)
            self.used += room
        self._make_room(0)

    def add(self, key: bytes, parts: Sequence[bytes], size: int) -> bool:
        """Keeps a file, in the place of one that was there; False where it is too large. Raises OSError."""
        room = -(-size // _BLOCK) * _BLOCK
        if room > self._most:
            return False
        path = path_of(self._root, self._workers[0], key)
        folder, _, name = path.rpartition("/")
        self._make_room(room)
        temporary = f"{folder}/.{name}"
        try:
            descriptor = _create(folder, temporary)
            try:
                for part in parts:
                    _write(descriptor, part)
                used = os.fstat(descriptor).st_mtime_ns  # once it has its name another worker may remove it
            finally:
                os.close(descriptor)
            os.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._forget(path)
        self._files[path] = (room, used)
        self.used += room
        return True

    def remove(self, path: str) -> None:
        """Raises OSError where it cannot be removed."""
        self._forget(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def _forget(self, path: str) -> None:
        room, _ = self._files.pop(path, (0, 0))
        self.used -= room

    def _make_room(self, room: int) -> None:
        """Files that were not used for the longest time go first."""
        spared = 0
        while self._files and self.used + room > self._most:
            path, (size, used) = next(iter(self._files.items()))
            with contextlib.suppress(FileNotFoundError):
                now = os.stat(path).st_mtime_ns
                if now > used and spared < _CHANCES:  # another worker has read it, or this one
                    spared += 1
                    self._files[path] = (size, now)
                    self._files.move_to_end(path)
                    continue
            spared = 0
            self.remove(path)
            self._evicted(1)


def _seen(file: os.DirEntry[str]) -> tuple[int, int, str] | None:
    """Time of its last use, room and path of an answer's file."""
    if not _NAME.fullmatch(file.name):
        with contextlib.suppress(OSError):  # unfinished: its writer is dead
            os.unlink(file.path)
        return None
    try:
        seen = file.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return seen.st_mtime_ns, -(-seen.st_size // _BLOCK) * _BLOCK, file.path


def _create(folder: str, path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        for each in (folder.rpartition("/")[0], folder):
            with contextlib.suppress(FileExistsError):
                os.mkdir(each, 0o700)
        return os.open(path, flags, 0o600)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
