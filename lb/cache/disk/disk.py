"""The disk as the data path of a worker has it. Nothing here waits: threads read and write, and tell the loop.

An answer is written behind memory, and read when memory does not have it. What a worker has written, others find: they
look into the folders of all. Writes and removals of a worker are done one after the other; what it has asked for and is
not done yet it does not read. A disk that is full, fails or hangs costs its answers, and a line in the log when it
begins and when it is over; meanwhile it is left alone for a while after each failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from lb.cache.disk.folder import Folder, number_of, path_of, touch
from lb.cache.disk.form import Stored, Tags, pack, size_of, unpack
from lb.cache.disk.keeper import Table, read_table
from lb.cache.store import ResultCache
from lb.config.plan.caching import DiskPlan

log = logging.getLogger("tidegate.cache")

READERS = 4  # threads
MOST_READS = 64  # under way or waiting; further requests do without
MOST_WAITING = 64 << 20  # bytes that wait to be written; further answers are not
PATIENCE = 1.0  # seconds that a request waits for a read
PAUSE = 30.0  # seconds in which nothing is written after a failure
# Stands among the tags in the place of a slot: the URI's count of changes when the answer was kept. A removal is done
# later, by a thread; until then, and if a write comes behind it, nobody takes the file for an answer.
_CHANGES = 0xFFFFFFFF
_HEAD = 1 << 16  # bytes of a file beside its object, at most

Told = Callable[[Any, bytes, "Kept | None"], None]


class Kept(Struct, frozen=True):
    """An answer that was found; times in ns, as of now."""

    value: bytes
    tags: Tags  # with generations of this run
    age_ns: int  # since the value's own age counted
    fresh_ns: int  # at least 1
    error_ns: int
    cost_us: int


class _Read:
    def __init__(self, key: bytes, told: Told, context: Any) -> None:
        self.key = key
        self.told = told
        self.context = context
        self.late: asyncio.TimerHandle | None = None
        self.over = False


class Disk:
    """`worker` of `workers`, as `plan` says, for the answers of `cache`, which counts. Methods are for the loop."""

    def __init__(
        self, plan: DiskPlan, cache: ResultCache, worker: int, workers: int, loop: asyncio.AbstractEventLoop,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self._root = Path(plan.path)
        self._most = plan.max_size // workers
        self._largest = plan.max_object
        self._cache = cache
        self._secret = cache.segment.cache_secret
        self._worker = max(worker, 0)
        self._workers = workers
        self._loop = loop
        self._wall = wall
        self._reads: dict[bytes, _Read] = {}
        self._stuck = 0  # reads that nobody waits for any more, and that have not come back
        self._busy: Counter[bytes] = Counter()  # keys of writes and removals that are not done
        self._waiting = 0  # bytes of these
        self._folder: Folder | None = None  # the writer's; None: it could not be looked at
        self._table: Table | None = None
        self._folders = workers
        self._lock = threading.Lock()  # of what follows
        self._failing = False
        self._again = 0.0  # when it is tried again, monotonic s
        self._wanted: queue.SimpleQueue[_Read | None] = queue.SimpleQueue()
        self._changes: queue.SimpleQueue[Stored | bytes | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="disk writer", daemon=True)
        self._writer.start()
        self._readers = [
            threading.Thread(target=self._read_all, name="disk reader", daemon=True) for _ in range(READERS)
        ]
        for thread in self._readers:
            thread.start()

    def read(self, key: bytes, told: Told, context: Any) -> bool:
        """`told(context, key, found)` is called by the loop, once, later. False: it is not, since there is no use."""
        if self._table is None or key in self._busy or key in self._reads or len(self._reads) >= MOST_READS:
            return False
        if self._stuck >= READERS:
            self._failed("it hangs")
            return False
        read = _Read(key, told, context)
        read.late = self._loop.call_later(PATIENCE, self._give_up, read)
        self._reads[key] = read
        self._wanted.put(read)
        return True

    def write(
        self, key: bytes, value: bytes, tags: Tags, age_ns: int, fresh_ns: int, error_ns: int, cost_us: int
    ) -> None:
        """Keeps an answer, unless too much waits or the disk fails."""
        if self._waiting + len(value) > MOST_WAITING or (self._failing and time.monotonic() < self._again):
            self._cache.count_disk("dropped", 1)
            self.remove(key)  # an answer of before, which is not that of memory any more
            return
        run = self._table.run if self._table is not None else 0
        tags = (*tags, (_CHANGES, self._cache.change_count(key)))
        self._begin(key, len(value))
        self._changes.put(Stored(key, value, tags, run, self._wall(), age_ns, fresh_ns, error_ns, cost_us))

    def remove(self, key: bytes) -> None:
        """What is under the key is not read any more."""
        self._begin(key, 0)
        self._changes.put(key)

    def close(self) -> None:
        """What waits is written, for a while."""
        self._changes.put(None)
        for _ in self._readers:
            self._wanted.put(None)
        for thread in (self._writer, *self._readers):
            thread.join(PATIENCE)

    def _begin(self, key: bytes, size: int) -> None:
        self._busy[key] += 1
        self._waiting += size

    def _ended(self, key: bytes, size: int) -> None:
        self._waiting -= size
        self._busy[key] -= 1
        if not self._busy[key]:
            del self._busy[key]

    def _give_up(self, read: _Read) -> None:
        self._stuck += 1
        self._answer(read, None)

    def _came(self, read: _Read, kept: Kept | None) -> None:
        if read.over:
            self._stuck -= 1
        else:
            self._answer(read, kept)

    def _answer(self, read: _Read, kept: Kept | None) -> None:
        read.over = True
        if read.late is not None:
            read.late.cancel()
        del self._reads[read.key]
        if kept is not None:
            self._cache.count_disk("hits", 1)
        read.told(read.context, read.key, kept)

    # In threads.

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    def _write_all(self) -> None:
        self._open()
        while (change := self._changes.get()) is not None:
            key, size = (change, 0) if isinstance(change, bytes) else (change.key, len(change.value))
            try:
                if isinstance(change, bytes):
                    self._remove(change)
                else:
                    self._add(change)
            except Exception:  # one that nobody foresaw costs this answer alone
                log.exception("an answer was not written to disk")
            self._tell(self._ended, key, size)

    def _open(self) -> bool:
        """Whether the folder is known. It is looked at again after a pause where it could not be."""
        if self._folder is not None:
            return True
        if self._failing and time.monotonic() < self._again:
            return False
        try:
            table = read_table(self._root)
            if table.slots != self._cache.slots:
                raise ValueError("its purges are of another cache")
            known = [number for name in os.listdir(self._root) if (number := number_of(name)) is not None]
            self._folders = max(self._workers, 1 + max(known, default=0))
            own = [self._worker, *(each for each in known if each >= self._workers and self._is_heir(each))]
            folder = Folder(self._root, own, self._most, lambda count: self._cache.count_disk("evictions", count))
            folder.scan()
        except (OSError, ValueError) as error:
            self._failed(getattr(error, "strerror", None) or str(error))
            return False
        self._folder, self._table = folder, table
        self._count_bytes()
        return True

    def _is_heir(self, worker: int) -> bool:
        return worker % self._workers == self._worker

    def _add(self, stored: Stored) -> None:
        if not self._open() or self._folder is None or stored.run != (self._table.run if self._table else 0):
            self._cache.count_disk("dropped", 1)
            return
        if self._overtaken(stored):
            self._cache.count_disk("dropped", 1)
            self._remove(stored.key)
            return
        try:
            added = self._folder.add(stored.key, pack(stored, self._secret), size_of(stored))
        except OSError as error:
            self._failed(error.strerror or str(error))
            self._remove(stored.key)
            return
        finally:
            self._count_bytes()
        if self._overtaken(stored):  # meanwhile: the removal may have been before
            self._remove(stored.key)
        self._cache.count_disk("stored" if added else "dropped", 1)
        if added:
            self._works()

    def _overtaken(self, stored: Stored) -> bool:
        """Whether the URI was changed since, in the run that wrote it. Of other runs the counts are not known."""
        count = self._cache.change_count(stored.key)
        return any(slot == _CHANGES and known != count for slot, known in stored.tags)

    def _remove(self, key: bytes) -> None:
        if self._folder is None:
            return
        try:
            for worker in range(self._folders):
                self._folder.remove(path_of(self._root, worker, key))
        except OSError as error:
            self._failed(error.strerror or str(error))
        self._count_bytes()

    def _count_bytes(self) -> None:
        if self._folder is not None:
            self._cache.set_disk("bytes", self._folder.used)

    def _read_all(self) -> None:
        while (read := self._wanted.get()) is not None:
            kept = None
            try:
                kept = self._find(read.key)
            except OSError as error:
                self._failed(error.strerror or str(error))
            except Exception:
                log.exception("an answer was not read from disk")
            self._tell(self._came, read, kept)

    def _find(self, key: bytes) -> Kept | None:
        """The newest of what the workers have. Raises OSError."""
        best, place = None, ""
        for worker in range(self._folders):
            path = path_of(self._root, worker, key)
            try:
                stored = unpack(_content(path, self._largest + _HEAD), key, self._secret)
            except FileNotFoundError:
                continue
            except ValueError:
                self._cache.count_disk("damaged", 1)
                with contextlib.suppress(FileNotFoundError):  # by another reader
                    os.unlink(path)
                continue
            if best is None or stored.at > best.at:
                best, place = stored, path
        kept = self._usable(best) if best is not None else None
        if kept is not None:
            touch(place)
        return kept

    def _usable(self, stored: Stored) -> Kept | None:
        """None: it is too old, or one of its tags was purged. A clock that was set back makes all too old."""
        passed = self._wall() - stored.at
        left = stored.fresh_ns + stored.error_ns - passed
        table = self._table
        if passed < 0 or left <= 0 or table is None or stored.run > table.run:
            return None
        if stored.run == table.run and self._overtaken(stored):
            return None
        tags = tuple(tag for tag in stored.tags if tag[0] != _CHANGES)
        if stored.run < table.run:
            if any(table.purged(slot, stored.run, generation) for slot, generation in tags):
                return None
            tags = tuple((slot, 0) for slot, _ in tags)  # as before the first purge of this run
        fresh = max(stored.fresh_ns - passed, 1)
        return Kept(stored.value, tags, stored.age_ns + passed, fresh, max(left - fresh, 0), stored.cost_us)

    def _failed(self, why: str) -> None:
        with self._lock:
            self._again = time.monotonic() + PAUSE
            self._cache.count_disk("errors", 1)
            if self._failing:
                return
            self._failing = True
            self._cache.set_disk("failing", 1)
            if self._cache.stats()["disk_failing"] == 1:  # not for each worker
                log.error("%s: answers are not kept on disk: %s", self._root, why)

    def _works(self) -> None:
        if not self._failing:
            return
        with self._lock:
            self._failing = False
            self._cache.set_disk("failing", 0)
            if self._cache.stats()["disk_failing"] == 0:
                log.info("%s: answers are kept on disk again", self._root)


def _content(path: str, most: int) -> bytes:
    """Raises OSError, or ValueError where it is larger than it may be."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size > most:
            raise ValueError("it is too large")
        pieces = []
        while size > 0 and (piece := os.read(descriptor, size)):
            pieces.append(piece)
            size -= len(piece)
    finally:
        os.close(descriptor)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
