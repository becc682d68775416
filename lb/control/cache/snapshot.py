"""The result cache over a restart: written to a file at an orderly stop, read back at the next start.

The file of version 1 is a magic number and frames, each a length (u32, little-endian), msgpack and a checksum:

    Head     when it was written, the secret of the keys, what pools and models there were
    Kept     an entry, any number of them
    End      how many there are

The checksums of all but the head are keyed by the secret and go over the frame's number, so that a file that is torn,
cut short, put together or of another kind is none. It is written under another name and renamed, readable by its owner
alone: it has the answers and the secret. It is removed once it is read: what is purged afterwards must not come back.

Models may have become others while no daemon ran. So an entry goes into the cache once the endpoints of its pool have
said of its model what they said before the stop (lb.control.cache.model_watch), and the pool is configured as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from hashlib import blake2b
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

from lb.cache import tags
from lb.cache.store import ResultCache
from lb.config.plan.plan import Plan
from lb.config.schema.file import Config
from lb.control.cache.message import fields

log = logging.getLogger("tidegate.cache")

MAGIC = b"TgSnap1\n"
LONGEST = 30.0  # seconds for the writing, which a stop waits for
PATIENCE = 600.0  # seconds for pools to say what models they have
_CHECKSUM = 16
_SECRET = 32
_SLICE = 200  # entries between two turns of the loop
_LENGTH = struct.Struct("<I")

Models = Mapping[str, Set[bytes]]  # model -> digests of what endpoints say of it
Pools = Mapping[str, bytes]  # pool -> a digest of where its answers come from


class Head(Struct, array_like=True):
    at: int  # Unix time, ns
    secret: bytes
    boot: str  # of the machine: with another one, monotonic times are others
    slots: int  # of the table of tags
    pools: dict[str, bytes]
    models: dict[str, dict[str, list[bytes]]]


class Kept(Struct, array_like=True):
    key: bytes
    value: bytes
    age_ns: int
    fresh_ns: int
    stale_ns: int
    error_ns: int
    cost_us: int
    flags: int
    slots: list[int]


class End(Struct, array_like=True):
    entries: int


async def save(
    path: Path, cache: ResultCache, now: Callable[[], int], pools: Pools, models: Mapping[str, Models],
    hurry: Callable[[], bool] = lambda: False,
) -> None:  # fmt: skip
    """Writes what is in the cache and of use. On any trouble, and where it would take too long, there is no file, and a
    line in the log. `now` is the monotonic time of the cache, in ns."""
    writing = None
    try:
        writing = _Writing(path)
        known = {pool: {model: sorted(digests) for model, digests in said.items()} for pool, said in models.items()}
        writing.begin(Head(time.time_ns(), cache.segment.cache_secret, boot(), cache.slots, dict(pools), known))
        begun = time.monotonic()
        for shard in range(cache.shard_count):
            if hurry() or time.monotonic() - begun > LONGEST:
                log.warning("%s is not written: the stop would wait too long for it", path)
                return
            for entry in cache.entries(shard, now()):
                writing.add(Kept(**entry))
            await asyncio.sleep(0)
        log.info("%d answers of the cache are kept in %s", writing.end(), path)
    except OSError as error:
        log.error("%s is not written: %s", path, error.strerror)
    finally:
        if writing is not None:
            writing.close()


class _Writing:
    """A file that is there when it is whole."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        path.unlink(missing_ok=True)  # an old one must not outlive what is purged after it
        self._path = path
        self._secret = b""
        self._count = 0
        descriptor, self._temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        self._file = os.fdopen(descriptor, "wb")

    def begin(self, head: Head) -> None:
        self._file.write(encode_head(head))
        self._secret = head.secret

    def add(self, kept: Kept) -> None:
        self._count += 1
        self._file.write(_frame(self._secret, self._count, kept))

    def end(self) -> int:
        """It is there; the number of entries."""
        self._file.write(_frame(self._secret, self._count + 1, End(self._count)))
        self._file.flush()
        os.fsync(self._file.fileno())
        os.rename(self._temporary, self._path)
        self._temporary = ""
        return self._count

    def close(self) -> None:
        """Leaves nothing behind that is not whole."""
        with contextlib.suppress(OSError):  # of what could not be written
            self._file.close()
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)


F = TypeVar("F")


class Source(Protocol[F]):
    """What the cache had: a Snapshot, or lb.control.cache.kept.KeptSegment. `frames` name the entries, in a way of the
    source's own."""

    head: Head

    @property
    def frames(self) -> Iterable[F]: ...

    def read(self, frame: F) -> Kept | None:
        """The entry, None when there is no such any more; its times are of `at`."""

    def at(self, wall: int) -> int:
        """The Unix time, ns, that times of entries are of, where `wall` is now."""


class Snapshot:
    """What a file had."""

    def __init__(self, head: Head, frames: Sequence[bytes]) -> None:
        self.head = head
        self.frames = frames  # msgpack of each Kept

    def read(self, frame: bytes) -> Kept | None:
        return msgspec.msgpack.decode(frame, type=Kept)

    def at(self, wall: int) -> int:
        return self.head.at


def load(path: Path) -> Snapshot | None:
    """The snapshot in a file, which is gone then. None, and a line in the log, where it cannot be used; None alone
    where there is no file."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                log.warning("%s is not used: others may read or write it", path)
                return None
            data = file.read()
        path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s is not used: %s", path, error.strerror)
        return None
    try:
        return _read(data)
    except (ValueError, msgspec.MsgspecError, struct.error) as error:
        log.warning("%s is not used, the cache begins empty: %s", path, error)
        return None


def encode_head(head: Head) -> bytes:
    """A snapshot's beginning, without entries."""
    return MAGIC + _frame(b"", 0, head)


def read_head(data: bytes) -> Head:
    """Of a snapshot's beginning. Raises ValueError, MsgspecError, struct.error."""
    if not data.startswith(MAGIC):
        raise ValueError("it is no snapshot of this version")
    head = msgspec.msgpack.decode(next(_frames(data), b""), type=Head)
    if len(head.secret) != _SECRET:
        raise ValueError("it has no secret")
    return head


def _read(data: bytes) -> Snapshot:
    """Raises ValueError, MsgspecError."""
    head = read_head(data)
    _, *found = _frames(data)
    if not found or msgspec.msgpack.decode(found[-1], type=End).entries != len(found) - 1:
        raise ValueError("it is not whole")
    return Snapshot(head, found[:-1])


def _frames(data: bytes) -> Iterator[bytes]:
    at, number, secret = len(MAGIC), 0, b""
    while at < len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        payload, checksum = data[at : at + size], data[at + size : at + size + _CHECKSUM]
        if checksum != _checksum(secret, number, payload):
            raise ValueError("it is damaged, or not whole")
        if number == 0:
            secret = msgspec.msgpack.decode(payload, type=Head).secret
        yield payload
        at += size + _CHECKSUM
        number += 1


def _frame(secret: bytes, number: int, content: Struct) -> bytes:
    payload = msgspec.msgpack.encode(content)
    return _LENGTH.pack(len(payload)) + payload + _checksum(secret, number, payload)


def _checksum(secret: bytes, number: int, payload: bytes) -> bytes:
    return blake2b(number.to_bytes(8, "little") + payload, digest_size=_CHECKSUM, key=secret).digest()


class Restoring(Generic[F]):
    """Puts the entries of a snapshot into the cache, those of models once these are known to be the same."""

    def __init__(
        self, snapshot: Source[F], cache: ResultCache, now: Callable[[], int], wall: Callable[[], int] = time.time_ns
    ) -> None:
        self._snapshot = snapshot
        self._cache = cache
        self._now = now
        self._wall = wall
        self._waiting: dict[tuple[str, str], list[F]] = {}
        self._purged: set[int] = set()  # slots
        self._same = asyncio.Event()
        self._confirmed: set[tuple[str, str]] = set()
        self.restored = 0
        self._total = 0

    def purged(self, names: Sequence[str]) -> None:
        """What carries one of these tags is not restored any more."""
        self._purged |= {self._cache.slot_of(name.encode()) for name in names}

    def looked(self, pool: str, models: Models) -> None:
        """The endpoints of a pool say this of their models now."""
        before = self._snapshot.head.models.get(pool, {})
        for model, digests in models.items():
            if before.get(model) == sorted(digests):
                self._confirmed.add((pool, model))
                self._same.set()

    async def run(self, plan: Plan, pools: Pools) -> None:
        """Until all is restored, or has waited too long."""
        head = self._snapshot.head
        if self._cache.slots > head.slots or self._wall() < head.at:
            why = "the clock was set back" if self._cache.slots <= head.slots else "the cache is larger than it was"
            log.warning("the snapshot of the cache is not used: %s", why)
            return
        await self._divide(plan, pools)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._waiting:
                    await self._same.wait()
                    self._same.clear()
                    for key in [key for key in self._waiting if key in self._confirmed]:
                        await self._restore_all(self._waiting.pop(key))
        left = sum(map(len, self._waiting.values()))
        self._waiting.clear()
        log.info(
            "%d of %d answers from before are in the cache%s", self.restored, self._total,
            f"; the models of {left} are others, or did not come" if left else "",
        )  # fmt: skip

    async def _divide(self, plan: Plan, pools: Pools) -> None:
        """What is of no model, an answer of HTTP, goes into the cache at once; it has monotonic times within. What is
        of a pool that is the same waits."""
        slot = self._cache.slot_of
        names = {slot(tags.of_pool(pool.name).encode()): pool.name for pool in plan.pools if pool.protocol == "oip"}
        same = {pool for pool, digest in pools.items() if self._snapshot.head.pools.get(pool) == digest}
        others: list[F] = []
        for number, frame in enumerate(self._snapshot.frames):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            kept = self._read(frame)
            if kept is None:
                continue
            self._total += 1
            pool = next((names[each] for each in kept.slots if each in names), None)
            model = dict(fields(kept.value)).get(1)
            if model is None or not kept.slots:
                others.append(frame)
            elif pool in same and slot(tags.of_model(pool, model).encode()) in kept.slots:
                self._waiting.setdefault((pool, model), []).append(frame)
        if self._snapshot.head.boot == boot():
            await self._restore_all(others)

    def _read(self, frame: F) -> Kept | None:
        """A smaller table of tags has fewer slots, of which each stands for several."""
        kept = self._snapshot.read(frame)
        if kept is not None:
            kept.slots = [slot & (self._cache.slots - 1) for slot in kept.slots]
        return kept

    async def _restore_all(self, frames: Sequence[F]) -> None:
        for number, frame in enumerate(frames):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            kept = self._read(frame)
            if kept is None or self._purged.intersection(kept.slots):
                continue
            wall = self._wall()
            passed = max(wall - self._snapshot.at(wall), 0)
            fresh, stale, error = (max(left - passed, 0) for left in (kept.fresh_ns, kept.stale_ns, kept.error_ns))
            if fresh or stale or error:
                self.restored += self._cache.restore(
                    kept.key, kept.value, self._now(), kept.age_ns + passed, fresh, stale, error, kept.cost_us,
                    kept.flags, kept.slots,
                )  # fmt: skip


def boot() -> str:
    """Of the machine. Raises OSError where the kernel does not tell."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pools_of(config: Config) -> dict[str, bytes]:
    """Of each pool a digest of where its answers come from, as the configuration has it."""
    found = {}
    for name, pool in config.pools.items():
        text = pool.model_dump_json(include={"protocol", "endpoints", "discover", "engine", "serve"})
        found[name] = blake2b(text.encode(), digest_size=16).digest()
    return found
