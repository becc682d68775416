"""Stick tables over an upgrade, and over the end of a daemon whose service manager keeps descriptors: the shared
segment, and beside it where each table is in it and what it counts.

The next program makes a segment of its own, and copies the entries of tables that are defined as they were
(lb.shared.stick_succession). After an upgrade, workers of the program before count on while they drain; what they
count is added until the last of them has ended.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from lb.config.plan.tables import TablePlace
from lb.config.schema.tables import TableConfig, table_plan
from lb.config.values import spelled
from lb.control.cache.kept import SEGMENT
from lb.control.stored_sockets import DescriptorStore
from lb.control.systemd import STORED, Stored
from lb.errors import TidegateError
from lb.shared.segment import Segment
from lb.shared.stick_succession import StickSuccession
from lb.shared.stick_tables import StickTable

log = logging.getLogger("tidegate.tables")

TABLES = f"{STORED}segment-tables"
_MOST = 1 << 20  # bytes of what is noted
_HEAD = struct.Struct("<II")  # length and checksum of what follows


class Definition(Struct, frozen=True):
    """What of a table has to be as it was for its counts to mean the same."""

    key: str
    source: tuple[int, int] | None  # bits of IPv4 and IPv6 addresses that count; None: its key is no address
    size: int
    store: list[str]
    shared: bool


class KeptTable(Struct, frozen=True):
    """A table, and where it is in the segment."""

    name: str
    definition: Definition
    place: TablePlace


class Notes(Struct, frozen=True):
    """All tables of a segment, which is told from others by its file."""

    file: tuple[int, int]  # device and inode
    tables: list[KeptTable]


def definition_of(table: TableConfig) -> Definition:
    """As a daemon notes it."""
    prefixes = (table.source.ipv4_prefix, table.source.ipv6_prefix) if table.by_address else None
    return Definition(table.key, prefixes, table.size, sorted(table.store), table.shared)


class TablesBefore:
    """The tables in the segment of the program before, which it owns until `close`."""

    def __init__(self, segment: Segment, tables: Iterable[KeptTable]) -> None:
        self._segment = segment
        self._tables = {table.name: table for table in tables}

    @property
    def secret(self) -> bytes:
        """By which it tells keys apart: that of the segment that goes on with them."""
        return self._segment.stick_secret

    def succession(self, name: str, config: TableConfig, table: StickTable) -> StickSuccession | None:
        """By which `table`, which is empty, goes on with the table that had its name; None where there was none, or it
        was another, which the log says."""
        known = self._tables.get(name)
        if known is None:
            return None
        wanted = definition_of(config)
        try:
            if known.definition != wanted:
                raise ValueError(_difference(known.definition, wanted))
            return StickSuccession(StickTable(self._segment, table_plan(name, config, known.place)), table)
        except (ValueError, MemoryError) as error:
            log.warning("tables.%s: counts begin anew: %s", name, error or "out of memory")
            return None

    def close(self) -> None:
        self._segment.close()


def _difference(before: Definition, now: Definition) -> str:
    for name in Definition.__struct_fields__:
        was, becomes = getattr(before, name), getattr(now, name)
        if was != becomes:
            return f"its {name} was {_said(was)}, and is {_said(becomes)}"
    return "it is another"


def _said(value: object) -> str:
    if isinstance(value, str):
        return spelled(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, tuple):
        return "/{} and /{}".format(*value)
    return ", ".join(value) if isinstance(value, list) else str(value)


def take(stored: Iterable[Stored]) -> TablesBefore | None:
    """The tables of the program before, by what was kept. None, and a line in the log, where they cannot be used; None
    alone where there are none. Closes the descriptor of the notes; that of the segment stays the caller's."""
    found = {each.name: each.fd for each in stored if each.name in (SEGMENT, TABLES)}
    notes = found.pop(TABLES, None)
    if notes is None:
        return None
    segment = -1
    try:
        noted = _read(notes)
        if not noted.tables:
            return None
        if SEGMENT not in found or _file(found[SEGMENT]) != noted.file:
            raise ValueError("they are another segment's")
        segment = os.dup(found[SEGMENT])
        made = TablesBefore(Segment.attach(segment), noted.tables)
        segment = -1
        return made
    except (TidegateError, OSError, ValueError, msgspec.MsgspecError) as error:
        log.warning("tables begin anew: what was kept of them is of no use: %s", error)
        return None
    finally:
        for fd in (notes, segment):
            if fd >= 0:
                os.close(fd)


def _file(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _read(fd: int) -> Notes:
    """Raises OSError, ValueError, MsgspecError."""
    data = os.pread(fd, min(os.fstat(fd).st_size, _MOST), 0)
    head, body = data[: _HEAD.size], data[_HEAD.size :]
    length, checksum = _HEAD.unpack(head) if len(head) == _HEAD.size else (-1, 0)
    if not 0 <= length <= len(body) or zlib.crc32(body[:length]) != checksum:
        raise ValueError("the notes are damaged")
    return msgspec.msgpack.decode(body[:length], type=Notes)


class KeepingTables:
    """What the next program has to know of the tables, in a memfd beside the segment. Raises OSError where there can
    be no file for it."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._fd = os.memfd_create("tidegate-tables", os.MFD_CLOEXEC)
        self._noted: Sequence[KeptTable] | None = None

    def named(self, with_segment: bool) -> tuple[tuple[str, int], ...]:
        """The descriptor by its name in the store, and that of the segment where nobody else keeps it."""
        mine = (TABLES, self._fd)
        return ((SEGMENT, self._segment.fd), mine) if with_segment else (mine,)

    def store(self, store: DescriptorStore, with_segment: bool) -> None:
        """Has the service manager keep them, in place of those of the daemon before."""
        for name, fd in self.named(with_segment):
            store.forget(name)
            store.store(name, fd)

    def note(self, tables: Sequence[KeptTable]) -> None:
        """What is true now. One that is killed while it writes leaves notes that are none: their checksum is wrong."""
        if tables != self._noted:
            body = msgspec.msgpack.encode(Notes(_file(self._segment.fd), list(tables)))
            os.pwrite(self._fd, _HEAD.pack(len(body), zlib.crc32(body)) + body, 0)
            self._noted = tables

    def close(self) -> None:
        os.close(self._fd)
