"""What a store of several daemons knows of its jobs: a copy in memory of the records that its server has.

The server's records are the truth, and each change is made there first. The copy says which job is the next, without
asking for all. It is a database of SQLite in memory, which has the orders that are looked for as indices.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from lb.jobs.job import FINAL, Job, State, receiver_of

_NUMBER = {state: number for number, state in enumerate(State)}
_QUEUED, _RUNNING = _NUMBER[State.QUEUED], _NUMBER[State.RUNNING]
_OVER = ", ".join(str(_NUMBER[state]) for state in FINAL)
UNFINISHED = (State.QUEUED, State.RUNNING)

_SCHEMA = f"""
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    slot TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    seq INTEGER NOT NULL UNIQUE,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    created REAL NOT NULL,
    due REAL NOT NULL,
    deadline REAL NOT NULL,
    expires REAL NOT NULL,
    hook_due REAL,
    receiver TEXT NOT NULL,
    record BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX states ON jobs (state, seq);
CREATE INDEX queued ON jobs (priority, seq, due, deadline) WHERE state = {_QUEUED};
CREATE INDEX deadlines ON jobs (deadline) WHERE state = {_QUEUED};
CREATE INDEX ages ON jobs (created) WHERE state = {_QUEUED};
CREATE INDEX over ON jobs (expires) WHERE state IN ({_OVER});
CREATE INDEX hooks ON jobs (hook_due) WHERE hook_due IS NOT NULL;
"""


class Record(Struct, frozen=True):
    """A job as the server keeps it. `seq` orders jobs by age, 0 in the first version, whose own revision it is.
    `number` is that of the last attempt, `owner` the daemon that runs it. Request and answer are beside it, in
    `request_parts` and `answer_parts` messages; `answer_number` is the attempt that has answered. `hook_owner` is the
    daemon that tells the webhook."""

    job: Job
    print: bytes
    request_parts: int
    webhook: str = ""
    seq: int = 0
    number: int = 0
    owner: str = ""
    answer_number: int = 0
    answer_parts: int = 0
    hook_due: float | None = None
    hook_failures: int = 0
    hook_owner: str = ""


class Held(Struct, frozen=True):
    """A record with its place at the server: `slot` is its subject there, `revision` that of its last change."""

    slot: str
    revision: int
    record: Record

    @property
    def job(self) -> Job:
        return self.record.job


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def packed(record: Record) -> bytes:
    """A record as it is sent; `held` is the way back."""
    return _encoder.encode(record)


def held(slot: str, revision: int, data: bytes) -> Held:
    """The record of a message. Raises msgspec.MsgspecError where it is none of this release."""
    record = _decoder.decode(data)
    return Held(slot, revision, record if record.seq else msgspec.structs.replace(record, seq=revision))


class Index:
    """The copy. Changes may come twice and late: the greatest revision of a slot counts."""

    def __init__(self) -> None:
        self.unfinished: Counter[str] = Counter()  # jobs by tenant
        self.counts: Counter[tuple[str, State]] = Counter()  # jobs by route and state
        self.gone: dict[str, int] = {}  # revisions of the ends of slots
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def put(self, new: Held) -> bool:
        """Takes a change; whether it is one."""
        before = self._in_slot(new.slot)
        if new.revision <= (before.revision if before is not None else self.gone.get(new.slot, 0)):
            return False
        if before is not None:
            self._forget(before)
        self.gone.pop(new.slot, None)
        record, job = new.record, new.job
        self._db.execute(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                job.id, new.slot, new.revision, record.seq, _NUMBER[job.state], job.priority, job.created, job.due,
                job.deadline, job.expires, record.hook_due, receiver_of(record.webhook), packed(record),
            ),
        )  # fmt: skip
        self._count(job, 1)
        return True

    def remove(self, slot: str, revision: int) -> Job | None:
        """A job was forgotten: the job, where it was known."""
        before = self._in_slot(slot)
        if revision <= (before.revision if before is not None else self.gone.get(slot, 0)):
            return None
        self.gone[slot] = revision
        if before is None:
            return None
        self._forget(before)
        return before.job

    def get(self, job: str) -> Held | None:
        return next(self._found("WHERE id = ?", job), None)

    def due(self, now: float, most: int) -> list[Held]:
        """The next to run."""
        return list(
            self._found(
                f"WHERE state = {_QUEUED} AND due <= ? AND deadline > ? ORDER BY priority, seq LIMIT ?", now, now, most
            )
        )

    def late(self, now: float, most: int) -> list[Held]:
        """Queued ones whose deadline is over."""
        return list(self._found(f"WHERE state = {_QUEUED} AND deadline <= ? ORDER BY deadline LIMIT ?", now, most))

    def expired(self, now: float, most: int) -> list[Held]:
        """Those that are over, and to be forgotten."""
        return list(self._found(f"WHERE state IN ({_OVER}) AND expires <= ? LIMIT ?", now, most))

    def running(self) -> list[Held]:
        return list(self._found(f"WHERE state = {_RUNNING}"))

    def to_tell(self, now: float, most: int, busy: Sequence[str] = ()) -> list[Held]:
        """Those whose webhook is due, but for those to the receivers `busy`."""
        others = f" AND receiver NOT IN ({', '.join('?' * len(busy))})" if busy else ""
        return list(self._found(f"WHERE hook_due <= ?{others} ORDER BY hook_due LIMIT ?", now, *busy, most))

    def latest(self, state: State | None, most: int) -> Sequence[Job]:
        """The last that were accepted, newest first."""
        where = "" if state is None else f"WHERE state = {_NUMBER[state]}"
        return tuple(found.job for found in self._found(f"{where} ORDER BY seq DESC LIMIT ?", most))

    def oldest(self) -> float:
        """When the oldest queued job was accepted; 0.0 for none."""
        (found,) = self._db.execute(f"SELECT min(created) FROM jobs WHERE state = {_QUEUED}").fetchone()
        return found or 0.0

    def __contains__(self, job: str) -> bool:
        return self._db.execute("SELECT 1 FROM jobs WHERE id = ?", (job,)).fetchone() is not None

    def _in_slot(self, slot: str) -> Held | None:
        return next(self._found("WHERE slot = ?", slot), None)

    def _found(self, where: str, *values: Any) -> Iterator[Held]:
        rows = self._db.execute(f"SELECT slot, revision, record FROM jobs {where}", values).fetchall()
        return (Held(slot, revision, _decoder.decode(data)) for slot, revision, data in rows)

    def _forget(self, before: Held) -> None:
        self._db.execute("DELETE FROM jobs WHERE id = ?", (before.job.id,))
        self._count(before.job, -1)

    def _count(self, job: Job, by: int) -> None:
        self.counts[job.route, job.state] += by
        if not self.counts[job.route, job.state]:
            del self.counts[job.route, job.state]
        if job.state in UNFINISHED:
            self.unfinished[job.tenant] += by
            if not self.unfinished[job.tenant]:
                del self.unfinished[job.tenant]
