"""The result cache over the end of the daemon, however that came: the service manager keeps the shared segment, and
beside it what a snapshot's head says (lb.control.cache.snapshot). The next daemon reads its answers out of the segment
of the one before, under the same conditions as those of a snapshot, into a segment of its own: so the processes of the
daemon before may still run, and workers, sizes and the rest of the segment may be others.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from lb.cache.store import ResultCache
from lb.config.schema.file import Config
from lb.control.cache.snapshot import Head, Kept, Models, boot, encode_head, pools_of, read_head
from lb.control.stored_sockets import DescriptorStore
from lb.control.systemd import STORED, Stored
from lb.errors import TidegateError
from lb.shared.segment import Segment

log = logging.getLogger("tidegate.cache")

SEGMENT = f"{STORED}segment"
FACTS = f"{STORED}segment-facts"
_MOST = 64 << 20  # bytes of facts

Place = tuple[int, int]  # shard, and number of an entry there


class KeptSegment:
    """The answers in the segment of the daemon before (a Source of lb.control.cache.snapshot.Restoring). Owns that
    segment until `close`."""

    def __init__(self, segment: Segment, head: Head, now: Callable[[], int]) -> None:
        """`now` is the monotonic time of the cache, in ns. Raises TidegateError where there is no cache in it."""
        self.head = head
        self._segment = segment
        self._cache = ResultCache(segment, 1)  # only what has laid it out says how large an object may be
        self._now = now
        self._closed = False

    @property
    def frames(self) -> Iterator[Place]:
        """Where entries may be."""
        return ((shard, number) for shard in range(self._cache.shard_count) for number in self._cache.ids(shard))

    def read(self, frame: Place) -> Kept | None:
        found = self._cache.entry(*frame, self._now())
        return Kept(**found) if found is not None else None

    def at(self, wall: int) -> int:
        return wall  # its times are read as they are now

    def purged(self, names: Sequence[str]) -> None:
        """What carries one of these tags is purged here, too: for workers of the program before, while there are any,
        and for what is not restored yet."""
        if not self._closed:
            for name in names:
                self._cache.purge(name.encode())

    def close(self) -> None:
        self._closed = True
        self._segment.close()


def take(stored: Iterable[Stored], now: Callable[[], int]) -> KeptSegment | None:
    """The cache of the daemon before, by what the service manager has kept. None, and a line in the log, where it
    cannot be used; None alone where there is none. Closes the descriptors that it does not return."""
    found = {each.name: each.fd for each in stored if each.name in (SEGMENT, FACTS)}
    segment = None
    try:
        if len(found) < 2:
            return None
        head = _read(found[FACTS])
        segment = Segment.attach(found[SEGMENT])
        del found[SEGMENT]  # the segment's own now
        if segment.cache_secret != head.secret:
            raise ValueError("it is another segment's")
        if segment.cache_size == 0:
            segment.close()
            return None
        return KeptSegment(segment, head, now)
    except (TidegateError, OSError, ValueError, msgspec.MsgspecError, struct.error) as error:
        log.warning("the result cache begins empty: what the service manager has kept is of no use: %s", error)
        if segment is not None:
            segment.close()
        return None
    finally:
        for fd in found.values():
            os.close(fd)


def forget(stored: Iterable[Stored], store: DescriptorStore) -> None:
    """There is no cache any more."""
    for each in stored:
        if each.name in (SEGMENT, FACTS):
            store.forget(each.name)


def _read(fd: int) -> Head:
    """Raises OSError, ValueError, MsgspecError, struct.error."""
    return read_head(os.pread(fd, min(os.fstat(fd).st_size, _MOST), 0))


class Keeping:
    """What the next daemon has to know of a segment with a cache, beside that segment. Raises OSError where there can
    be no file for it."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._fd = os.memfd_create("tidegate-facts", os.MFD_CLOEXEC)
        self._noted = b""
        self._config: Config | None = None
        self._pools: dict[str, bytes] = {}

    def store(self, store: DescriptorStore) -> None:
        """Has the service manager keep both, in place of those of the daemon before."""
        for name, fd in self.named():
            store.forget(name)
            store.store(name, fd)

    def named(self) -> tuple[tuple[str, int], ...]:
        """The descriptors of both by their names in the store."""
        return (SEGMENT, self._segment.fd), (FACTS, self._fd)

    def note(self, config: Config, slots: int, models: Mapping[str, Models]) -> None:
        """What is true now: where answers come from, and what the endpoints say of their models. `slots` are those of
        the cache's tags. One that is killed while it writes leaves facts that are none: their checksum is wrong."""
        if config is not self._config:
            self._config, self._pools = config, pools_of(config)
        known = {pool: {model: sorted(digests) for model, digests in said.items()} for pool, said in models.items()}
        # No time: the entries' times are those of a clock that goes on.
        data = encode_head(Head(0, self._segment.cache_secret, boot(), slots, self._pools, known))
        if data != self._noted:
            os.pwrite(self._fd, data, 0)
            self._noted = data

    def close(self) -> None:
        os.close(self._fd)
