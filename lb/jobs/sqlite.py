"""Jobs in a file of SQLite, in WAL mode with synchronous=FULL.

One thread writes. It takes all changes that wait, makes one transaction of them and commits once: one fsync for as many
submissions as came during the one before (group commit). A second thread reads, beside the writer, by its own
connection. Measured figures and alternatives: docs/adr/jobs.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgpack

from lb.jobs.job import FINAL, STEPS, Answer, Attempt, Delivery, Job, Request, State, Submission, fingerprint
from lb.jobs.room import ROW, Room
from lb.jobs.store import KeyReusedError, QuotaError, StoreAwayError, StoreError

log = logging.getLogger("tidegate.jobs")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

VERSION = 1  # of the schema; another one is not opened
_MOST = 512  # changes in one transaction
_TROUBLE = 60.0  # seconds without a failure after which the file is tried, and trouble may be over
_REMOVED = 8 << 20  # bytes of bodies that one transaction removes: SQLite may write zeros over them (SECURE_DELETE)
_AGAIN = 5.0  # seconds between two tries to open a file on a disk that is full or fails
_PASSING = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_PASSING_OS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
_NUMBER = {state: number for number, state in enumerate(State)}
_STATE = dict(enumerate(State))
_QUEUED, _RUNNING, _DEAD = _NUMBER[State.QUEUED], _NUMBER[State.RUNNING], _NUMBER[State.DEAD]
_OVER = ", ".join(str(_NUMBER[state]) for state in FINAL)
_SETTLED = ", ".join(str(number) for state, number in _NUMBER.items() if not STEPS[state])

# Requests and answers have tables of their own: SQLite writes all of a row anew when one of its columns changes.
# A request is needed no more once its job has an answer or is cancelled; that of a dead job may be queued anew.
# The triggers count, so that no statement can forget to. `queued` has what `_take` looks at: the rows of jobs that are
# not due are not read.
_SCHEMA = f"""
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    route TEXT NOT NULL,
    tenant TEXT NOT NULL,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    created REAL NOT NULL,
    deadline REAL NOT NULL,
    due REAL NOT NULL,
    number INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    status INTEGER NOT NULL,
    failure TEXT NOT NULL,
    finished REAL NOT NULL,
    expires REAL NOT NULL,
    key TEXT,
    print BLOB NOT NULL,
    webhook TEXT NOT NULL,
    hook_due REAL,
    hook_failures INTEGER NOT NULL
) STRICT;
CREATE TABLE requests (seq INTEGER PRIMARY KEY, request BLOB NOT NULL) STRICT;
CREATE TABLE answers (seq INTEGER PRIMARY KEY, answer BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX keys ON jobs (tenant, key) WHERE key IS NOT NULL;
CREATE INDEX queued ON jobs (priority, seq, due, deadline) WHERE state = {_QUEUED};
CREATE INDEX running ON jobs (seq) WHERE state = {_RUNNING};
CREATE INDEX dead ON jobs (seq) WHERE state = {_DEAD};
CREATE INDEX deadlines ON jobs (deadline) WHERE state = {_QUEUED};
CREATE INDEX over ON jobs (expires) WHERE state IN ({_OVER});
CREATE INDEX hooks ON jobs (hook_due) WHERE hook_due IS NOT NULL;
CREATE TABLE counts (
    tenant TEXT NOT NULL,
    route TEXT NOT NULL,
    state INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (tenant, route, state)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER come AFTER INSERT ON jobs BEGIN
    INSERT INTO counts VALUES (new.tenant, new.route, new.state, 1)
    ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER step AFTER UPDATE OF state ON jobs WHEN new.state != old.state BEGIN
    UPDATE counts SET jobs = jobs - 1 WHERE tenant = old.tenant AND route = old.route AND state = old.state;
    INSERT INTO counts VALUES (new.tenant, new.route, new.state, 1)
    ON CONFLICT DO UPDATE SET jobs = jobs + 1;
    DELETE FROM counts WHERE tenant = old.tenant AND route = old.route AND state = old.state AND jobs <= 0;
END;
CREATE TRIGGER settle AFTER UPDATE OF state ON jobs WHEN new.state IN ({_SETTLED}) BEGIN
    DELETE FROM requests WHERE seq = new.seq;
END;
CREATE TRIGGER go AFTER DELETE ON jobs BEGIN
    DELETE FROM requests WHERE seq = old.seq;
    DELETE FROM answers WHERE seq = old.seq;
    UPDATE counts SET jobs = jobs - 1 WHERE tenant = old.tenant AND route = old.route AND state = old.state;
    DELETE FROM counts WHERE tenant = old.tenant AND route = old.route AND state = old.state AND jobs <= 0;
END;
PRAGMA user_version = {VERSION};
"""

_JOB = (
    "id, route, tenant, state, priority, created, deadline, due, attempts, status, failure, finished, expires"  # as Job
)


# `receiver_of` (lb.jobs.job), where the rows are: a call of Python for each would stop all else while many are due.
_RECEIVER = (
    "lower(substr(webhook, 1, instr(webhook, '://') + 1 + "
    "instr(replace(substr(webhook, instr(webhook, '://') + 3), '?', '/') || '/', '/')))"
)


class SqliteStore:
    """A JobStore (lb.jobs.store) in the file `path`, made when it is missing, readable by its owner alone. Another
    process that has it open is waited for. A file on a disk that is full or fails is opened later, with further tries:
    until then jobs are refused with StoreAwayError, and none are known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self._writer: _Writer | None = None
        self._reader: _Reader | None = None
        self._room = Room(path)
        self._away = ""  # why the file is not open yet
        self._opening: asyncio.Task[None] | None = None

    @property
    def error(self) -> str:
        return self._away or (self._writer.error if self._writer is not None else "")

    async def open(self, now: float) -> int:
        try:
            return await self._open(now)
        except StoreError as error:
            if not _passes(error.__cause__):
                raise
            self._away = str(error)
            log.error("%s; jobs are refused until it can be opened", error)
            self._opening = asyncio.create_task(self._open_later(now))
            return 0

    async def _open(self, now: float) -> int:
        loop = asyncio.get_running_loop()
        try:
            self._lock = await asyncio.to_thread(_locked, self._path)
            self._writer = _Writer(await asyncio.to_thread(_connect, self._path), loop, str(self._path))
            self._reader = _Reader(await asyncio.to_thread(_connect, self._path))
            return await self._writer.run(lambda db: _requeue_running(db, now))
        except (OSError, sqlite3.Error, StoreError) as error:
            await self._close_file()
            cause = error.__cause__ if isinstance(error, StoreError) else error
            raise StoreError(f"{self._path}: {error}") from cause

    async def _open_later(self, now: float) -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            try:
                requeued = await self._open(now)
            except StoreError as error:
                self._away = str(error)
                continue
            self._away = ""
            log.info("%s is open, %d jobs that were running are queued again", self._path, requeued)
            return

    async def close(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await opening
        await self._close_file()

    async def _close_file(self) -> None:
        writer, self._writer = self._writer, None
        reader, self._reader = self._reader, None
        if writer is not None:
            await asyncio.to_thread(writer.close)
        if reader is not None:
            await asyncio.to_thread(reader.close)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def submit(self, submission: Submission, quota: int) -> tuple[Job, bool]:
        return await self._change(lambda db: _submit(db, submission, quota, self._room))

    async def get(self, job: str) -> Job | None:
        return await self._read(lambda db: _get(db, job))

    async def answer(self, job: str) -> Answer | None:
        def read(db: sqlite3.Connection) -> bytes | None:
            row = db.execute("SELECT answer FROM answers JOIN jobs USING (seq) WHERE id = ?", (job,)).fetchone()
            return row[0] if row is not None else None

        packed = await self._read(read)
        return _unpacked_answer(packed) if packed is not None else None

    async def take(self, now: float, most: int) -> list[Attempt]:
        return await self._change(lambda db: _take(db, now, most))

    async def finish(
        self, attempt: Attempt, state: State, answer: Answer | None, failure: str, now: float, expires: float
    ) -> Job | None:
        packed: bytes | None = None
        if answer is not None:
            packed = msgpack.packb((answer.status, answer.fields, answer.body))
        status = answer.status if answer is not None else 0
        values = {
            "state": state,
            "attempts": attempt.failures + 1,
            "status": status,
            "failure": failure,
            "finished": now,
            "expires": expires,
        }

        def change(db: sqlite3.Connection) -> Job | None:
            if packed is not None:
                self._room.take(db, len(packed), answers=True)
            return _end_attempt(db, attempt, values, packed)

        return await self._change(change)

    async def postpone(self, attempt: Attempt, due: float, failure: str, counted: bool) -> Job | None:
        values = {
            "state": State.QUEUED,
            "attempts": attempt.failures + counted,
            "due": due,
            "failure": failure,
        }
        return await self._change(lambda db: _end_attempt(db, attempt, values))

    async def cancel(self, job: str, now: float, expires: float) -> Job | None:
        def change(db: sqlite3.Connection) -> Job | None:
            found = _get(db, job)
            if found is not None and State.CANCELLED in STEPS[found.state]:
                _update(db, job, {"state": State.CANCELLED, "finished": now, "expires": expires})
                return _get(db, job)
            return found

        return await self._change(change)

    async def requeue(self, job: str, now: float, deadline: float, quota: int | None = None) -> Job | None:
        def change(db: sqlite3.Connection) -> Job | None:
            found = _get(db, job)
            if found is not None and found.state == State.DEAD:
                if quota is not None and _unfinished(db, found.tenant) >= quota:
                    raise QuotaError
                values = {"state": State.QUEUED, "due": now, "deadline": deadline, "attempts": 0, "finished": 0.0,
                          "expires": 0.0, "status": 0}  # fmt: skip
                _update(db, job, values)
                db.execute("UPDATE jobs SET hook_due = NULL, hook_failures = 0 WHERE id = ?", (job,))
                db.execute("DELETE FROM answers WHERE seq = (SELECT seq FROM jobs WHERE id = ?)", (job,))
                return _get(db, job)
            return found

        return await self._change(change)

    async def sweep(self, now: float, expires: float, most: int = 5000) -> list[Job]:
        size, left = _REMOVED, most
        while left > 0:
            try:
                removed, more = await self._change(partial(_remove, now=now, most=left, size=size))
            except StoreError:
                if not size:
                    raise
                size = 0  # one by one, until there is room again
                continue
            if not more:
                break
            left -= removed
            size = min(2 * size + ROW, _REMOVED)
        return await self._change(lambda db: _end_late(db, now, expires, most))

    async def deliveries(self, now: float, most: int, busy: Sequence[str] = ()) -> list[Delivery]:
        others = f" AND {_RECEIVER} NOT IN ({', '.join('?' * len(busy))})" if busy else ""

        def read(db: sqlite3.Connection) -> list[Delivery]:
            rows = db.execute(
                f"SELECT {_JOB}, webhook, hook_failures FROM jobs WHERE hook_due <= ?{others} "
                "ORDER BY hook_due LIMIT ?",
                (now, *busy, most),
            )
            return [Delivery(_job(row[:-2]), row[-2], row[-1]) for row in rows]

        return await self._read(read)

    async def delivered(self, delivery: Delivery) -> None:
        statement = "UPDATE jobs SET hook_due = NULL WHERE id = ? AND finished = ?"
        end = delivery.job.id, delivery.job.finished
        await self._change(lambda db: db.execute(statement, end) and None)

    async def delay_delivery(self, delivery: Delivery, due: float) -> None:
        statement = (
            "UPDATE jobs SET hook_due = ?, hook_failures = hook_failures + 1 "
            "WHERE id = ? AND finished = ? AND hook_due IS NOT NULL"
        )
        values = due, delivery.job.id, delivery.job.finished
        await self._change(lambda db: db.execute(statement, values) and None)

    async def latest(self, state: State | None, most: int) -> Sequence[Job]:
        where = "" if state is None else f"WHERE state = {_NUMBER[state]}"

        def read(db: sqlite3.Connection) -> tuple[Job, ...]:
            rows = db.execute(f"SELECT {_JOB} FROM jobs {where} ORDER BY seq DESC LIMIT ?", (most,))
            return tuple(_job(row) for row in rows)

        return await self._read(read)

    async def counts(self) -> Mapping[tuple[str, State], int]:
        def read(db: sqlite3.Connection) -> dict[tuple[str, State], int]:
            rows = db.execute("SELECT route, state, sum(jobs) FROM counts GROUP BY route, state")
            return {(route, _STATE[state]): number for route, state, number in rows}

        return {} if self._away else await self._read(read)

    async def oldest(self) -> float:
        """The first of each priority, which the index gives: the smallest of all queued would take a look at each."""

        def read(db: sqlite3.Connection) -> float:
            found = [
                row[0]
                for priority in range(8)
                for row in db.execute(
                    f"SELECT created FROM jobs WHERE state = {_QUEUED} AND priority = ? ORDER BY seq LIMIT 1",
                    (priority,),
                )
            ]
            return min(found, default=0.0)

        return 0.0 if self._away else await self._read(read)

    async def _change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._away:
            raise StoreAwayError(self._away)
        if self._writer is None:
            raise StoreError(f"{self._path} is not open")
        return await self._writer.run(work)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._away:
            raise StoreAwayError(self._away)
        if self._reader is None:
            raise StoreError(f"{self._path} is not open")
        return await self._reader.run(work)


class _Writer:
    """The thread that changes the file, with the changes that wait for it."""

    def __init__(self, db: sqlite3.Connection, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.error = ""  # why changes were refused of late; read by other threads
        self._failed_at = 0.0  # monotonic
        self._db = db
        self._loop = loop
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[Work, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="jobs-writer", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, which is durable then. An exception other than of SQLite is `work`'s own, raised before
        it has changed anything."""
        if self._closed:
            raise StoreError("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put((work, future))
        return await future

    def close(self) -> None:
        """Carries out what waits, and ends the thread."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join()
        self._db.close()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, last = [first], False
            while len(batch) < _MOST:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._answer(self._commit(batch))
            if last:
                return

    def _commit(self, batch: Sequence[tuple[Work, asyncio.Future[Any]]]) -> list[tuple[asyncio.Future[Any], Any, bool]]:
        """One transaction of all; where SQLite refuses it, one of each, so that one change cannot spoil the others."""
        try:
            return self._transaction(batch)
        except sqlite3.Error as error:
            if len(batch) > 1:
                return [found for one in batch for found in self._commit([one])]
            self._failed(error)
            refused = StoreError(f"SQLite: {error}")
            refused.__cause__ = error
            return [(batch[0][1], refused, False)]

    def _transaction(
        self, batch: Sequence[tuple[Work, asyncio.Future[Any]]]
    ) -> list[tuple[asyncio.Future[Any], Any, bool]]:
        results: list[tuple[asyncio.Future[Any], Any, bool]] = []
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for work, future in batch:
                try:
                    results.append((future, work(self._db), True))
                except (QuotaError, KeyReusedError) as error:
                    results.append((future, error, False))
            tried = bool(self.error) and time.monotonic() - self._failed_at >= _TROUBLE
            if tried:
                self._db.execute(f"PRAGMA user_version = {VERSION}")  # so that something is written
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        if tried:
            self.error = ""
            log.info("%s is written again", self._name)
        return results

    def _failed(self, error: sqlite3.Error) -> None:
        """Trouble of the file (a full disk, an error of its device) lasts until _TROUBLE after its last failure: a disk
        where small changes still find room is told once."""
        if isinstance(error, (sqlite3.IntegrityError, sqlite3.DataError)):
            return  # of the change
        self._failed_at = time.monotonic()
        if not self.error:
            log.error("%s cannot be written: %s; jobs are refused until it can", self._name, error)
        self.error = f"{self._name} cannot be written: {error}"

    def _answer(self, results: list[tuple[asyncio.Future[Any], Any, bool]]) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, results)
        except RuntimeError:  # the loop is closed: nobody waits
            return


class _Reader:
    """The thread that reads the file."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._thread = ThreadPoolExecutor(1, "jobs-reader")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._db)
        except (sqlite3.Error, RuntimeError) as error:
            raise StoreError(f"SQLite: {error}") from error

    def close(self) -> None:
        self._thread.shutdown()
        self._db.close()


def _resolve(results: list[tuple[asyncio.Future[Any], Any, bool]]) -> None:
    for future, result, good in results:
        if future.done():  # whoever asked has left
            continue
        if good:
            future.set_result(result)
        else:
            future.set_exception(result)


def _locked(path: Path) -> int:
    """A lock that the kernel gives back however the process ends; a process that is about to end is waited for."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        os.close(lock)
        raise
    return lock


def _passes(error: BaseException | None) -> bool:
    """Whether it is the disk's and may pass: full, over a quota, or an error of input and output."""
    if isinstance(error, OSError):
        return error.errno in _PASSING_OS
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite gives its other files the same mode
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        elif version != VERSION:
            raise sqlite3.DatabaseError(f"its schema has version {version}, this release knows {VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _requeue_running(db: sqlite3.Connection, now: float) -> int:
    """An attempt that ended with the jobs process is not counted: a job runs elsewhere, and cannot have ended it."""
    return db.execute(
        f"UPDATE jobs SET state = {_QUEUED}, due = ? WHERE state = {_RUNNING}",
        (now,),
    ).rowcount


def _submit(db: sqlite3.Connection, new: Submission, quota: int, room: Room) -> tuple[Job, bool]:
    print_of = fingerprint(new.route, new.request)
    if new.key is not None:
        row = db.execute(
            f"SELECT print, {_JOB} FROM jobs WHERE tenant = ? AND key = ?",
            (new.tenant, new.key),
        ).fetchone()
        if row is not None:
            if row[0] != print_of:
                raise KeyReusedError
            return _job(row[1:]), False
    if _unfinished(db, new.tenant) >= quota:
        raise QuotaError
    job = Job(new.id, new.route, new.tenant, State.QUEUED, new.priority, new.created, new.deadline, new.created, 0)
    request = new.request
    packed = msgpack.packb((request.method, request.target, request.fields, request.body))
    room.take(db, len(packed))
    seq = db.execute(
        f"INSERT INTO jobs ({_JOB}, number, key, print, webhook, hook_failures) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, 0)",
        (
            job.id, job.route, job.tenant, _QUEUED, job.priority, job.created, job.deadline, job.due, 0, 0, "",
            0.0, 0.0, new.key, print_of, new.webhook,
        ),
    ).lastrowid  # fmt: skip
    db.execute("INSERT INTO requests VALUES (?, ?)", (seq, packed))
    return job, True


def _unfinished(db: sqlite3.Connection, tenant: str) -> int:
    """Jobs of a tenant that are queued or run."""
    found: int
    (found,) = db.execute(
        f"SELECT coalesce(sum(jobs), 0) FROM counts WHERE tenant = ? AND state IN ({_QUEUED}, {_RUNNING})", (tenant,)
    ).fetchone()
    return found


def _take(db: sqlite3.Connection, now: float, most: int) -> list[Attempt]:
    rows = db.execute(
        "SELECT seq, id, number, attempts, route, deadline, request FROM jobs JOIN requests USING (seq) "
        f"WHERE state = {_QUEUED} AND due <= ? AND deadline > ? ORDER BY priority, seq LIMIT ?",
        (now, now, most),
    ).fetchall()
    db.executemany("UPDATE jobs SET state = ?, number = number + 1 WHERE seq = ?", [(_RUNNING, row[0]) for row in rows])
    return [
        Attempt(job, number + 1, attempts, route, deadline, _unpacked_request(packed))
        for _, job, number, attempts, route, deadline, packed in rows
    ]


def _end_attempt(
    db: sqlite3.Connection, attempt: Attempt, values: Mapping[str, Any], answer: bytes | None = None
) -> Job | None:
    row = db.execute("SELECT state, number, seq FROM jobs WHERE id = ?", (attempt.id,)).fetchone()
    if row is None or row[:2] != (_RUNNING, attempt.number):
        return None
    if answer is not None:
        db.execute("INSERT INTO answers VALUES (?, ?)", (row[2], answer))
    _update(db, attempt.id, values)
    return _get(db, attempt.id)


def _update(db: sqlite3.Connection, job: str, values: Mapping[str, Any]) -> None:
    """Sets columns; a final state makes the webhook due."""
    columns = ", ".join(f"{name} = ?" for name in values)
    stored = [_NUMBER[value] if isinstance(value, State) else value for value in values.values()]
    if values["state"] in FINAL:
        columns += ", hook_due = CASE WHEN webhook = '' THEN NULL ELSE ? END"
        stored.append(values["finished"])
    db.execute(f"UPDATE jobs SET {columns} WHERE id = ?", (*stored, job))


def _remove(db: sqlite3.Connection, now: float, most: int, size: int) -> tuple[int, bool]:
    """Forgets expired jobs, at least one, with bodies of no more than about `size` bytes: how many, and whether there
    are more."""
    rows = db.execute(
        "SELECT seq, coalesce(length(answer), 0) + coalesce(length(request), 0) FROM jobs "
        "LEFT JOIN answers USING (seq) LEFT JOIN requests USING (seq) "
        f"WHERE state IN ({_OVER}) AND expires <= ? LIMIT ?",
        (now, most),
    ).fetchall()
    removed = 0
    for seq, bytes_of in rows:
        db.execute("DELETE FROM jobs WHERE seq = ?", (seq,))
        removed += 1
        size -= bytes_of
        if size <= 0:
            break
    return removed, removed < len(rows)


def _end_late(db: sqlite3.Connection, now: float, expires: float, most: int) -> list[Job]:
    """Queued jobs whose deadline is over are dead."""
    rows = db.execute(
        f"SELECT id FROM jobs WHERE state = {_QUEUED} AND deadline <= ? ORDER BY deadline LIMIT ?",
        (now, most),
    ).fetchall()
    for (job,) in rows:
        _update(db, job, {"state": State.DEAD, "finished": now, "expires": expires})
        db.execute(
            "UPDATE jobs SET failure = CASE failure WHEN '' THEN 'deadline' ELSE 'deadline; last: ' || failure END "
            "WHERE id = ?",
            (job,),
        )
    return [found for (job,) in rows if (found := _get(db, job)) is not None]


def _get(db: sqlite3.Connection, job: str) -> Job | None:
    row = db.execute(f"SELECT {_JOB} FROM jobs WHERE id = ?", (job,)).fetchone()
    return _job(row) if row is not None else None


def _job(row: Sequence[Any]) -> Job:
    job, route, tenant, state, *rest = row
    return Job(job, route, tenant, _STATE[state], *rest)


def _unpacked_request(packed: bytes) -> Request:
    method, target, fields, body = msgpack.unpackb(packed)
    return Request(method, target, [(name, value) for name, value in fields], body)


def _unpacked_answer(packed: bytes) -> Answer:
    status, fields, body = msgpack.unpackb(packed)
    return Answer(status, [(name, value) for name, value in fields], body)
