"""Jobs in SQLite: the contract, and what only a file can do: outlive its process, be damaged, be full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from store_contract import GOOD, StoreContract, put, submission, take_one

from lb.jobs import room, sqlite
from lb.jobs.job import Answer, State
from lb.jobs.sqlite import SqliteStore
from lb.jobs.store import JobStore, StoreAwayError, StoreError

# Accepts jobs as fast as it can, and prints the id of each once it is accepted.
_SUBMITTER = """
import asyncio, sys
from pathlib import Path
from store_contract import submission
from lb.jobs.sqlite import SqliteStore

async def one(store):
    while True:
        job, _ = await store.submit(submission(), 10**9)
        sys.stdout.write(job.id + "\\n")
        sys.stdout.flush()

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open(0.0)
    await asyncio.gather(*(one(store) for _ in range(20)))

asyncio.run(main())
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    made = SqliteStore(tmp_path / "jobs.db")
    await made.open(0.0)
    yield made
    await made.close()


class TestContract(StoreContract):
    pass


async def test_jobs_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    before = SqliteStore(path)
    assert await before.open(0.0) == 0
    queued, running = await put(before, priority=5), await put(before)
    await take_one(before)
    await before.close()
    after = SqliteStore(path)
    assert await after.open(9.0) == 1
    assert [attempt.id for attempt in await after.take(9.0, 5)] == [running.id, queued.id]
    await after.close()


async def test_files_are_for_their_owner_alone(tmp_path: Path, store: JobStore) -> None:
    await put(store)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    assert {file.name for file in tmp_path.iterdir()} >= {"jobs.db", "jobs.db-wal", "jobs.db.lock"}


async def test_commits_are_synced(store: SqliteStore) -> None:
    """FULL is 2: with less, a loss of power could take what was accepted."""
    assert await store._change(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (2,)
    assert await store._change(lambda db: db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    made = SqliteStore(tmp_path / "jobs.db")
    for ask in (made.get("x"), made.submit(submission(), 1)):
        with pytest.raises(StoreError):
            await ask
    await made.open(0.0)
    await made.close()
    with pytest.raises(StoreError):
        await made.get("x")


@pytest.mark.parametrize("content", [b"no database at all " * 100, None])
async def test_a_file_that_is_no_store_is_not_opened(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "jobs.db"
    if content is None:  # of another release
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"jobs\.db"):
        await SqliteStore(path).open(0.0)


async def test_a_full_disk_refuses_jobs_and_loses_none(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = await put(store)
    await store._change(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone() and None)
    outcomes = await asyncio.gather(
        *(store.submit(submission(body=bytes(100_000)), 1000) for _ in range(5)), return_exceptions=True
    )
    assert all(isinstance(outcome, StoreError) for outcome in outcomes)
    # It is told, once, until the file has been written for a while: what is small may find room before that.
    small = await put(store)
    assert "jobs.db cannot be written: database or disk is full" in store.error
    assert sum("cannot be written" in line for line in caplog.messages) == 1
    monkeypatch.setattr(sqlite, "_TROUBLE", 0.0)
    await store._change(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone() and None)
    more = await put(store)
    assert store.error == ""
    assert [attempt.id for attempt in await store.take(1.0, 9)] == [job.id, small.id, more.id]


async def test_submissions_leave_room_for_answers_and_removals(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is full to the last byte SQLite can remove nothing either, and jobs would fill it for ever."""
    blocks = 1 << 18  # of 4 KiB: 1 GiB, of which 64 MiB are kept
    free = (64 << 20) // 4096 + 1000
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_frsize=4096, f_blocks=blocks, f_bavail=free))
    monkeypatch.setattr(room, "_LOOK", 0.0)
    kept = await put(store, body=bytes(1_000_000), key="k")
    first = await take_one(store)
    more = await put(store)
    second = await take_one(store)
    free -= 900
    with pytest.raises(StoreError, match="the disk is full: what is left is for the answers"):
        await put(store, body=bytes(500_000))
    assert "the disk is full" in store.error
    known, new = await store.submit(submission(body=bytes(1_000_000), key="k"), 1000)
    assert (known.id, new) == (kept.id, False)
    assert await store.finish(first, State.DONE, GOOD, "", 1.0, 2.0) is not None
    assert await store.answer(kept.id) == GOOD
    free = (32 << 20) // 4096 - 300
    with pytest.raises(StoreError, match="the disk is full: what is left is for the removal"):
        await store.finish(second, State.DONE, GOOD, "", 1.0, 2.0)
    assert await store.cancel(more.id, 1.0, 9.0) is not None
    await store.sweep(3.0, 4.0)
    assert await store.get(kept.id) is None
    with contextlib.closing(sqlite3.connect(store._path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    free = (64 << 20) // 4096 - 100
    await put(store, body=bytes(5_000))  # in the pages that are free now


async def test_a_file_system_that_says_nothing_of_its_size(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_frsize=4096, f_blocks=0, f_bavail=0))
    job = await put(store, body=bytes(100_000))
    assert await store.finish(await take_one(store), State.DONE, GOOD, "", 1.0, 2.0) is not None
    assert await store.answer(job.id) == GOOD


async def test_large_jobs_are_removed_by_and_by(store: SqliteStore) -> None:
    """SQLite may write zeros over what it removes, which takes as much of the disk once more."""
    for body in (bytes(5 << 20), b"a", bytes(5 << 20), bytes(9 << 20), b"b"):
        await put(store, body=body)
    for attempt in await store.take(1.0, 9):
        await store.finish(attempt, State.DONE, Answer(200, [], attempt.request.body), "", 1.0, 2.0)
    sizes = []
    change = store._change

    async def counted(work: Any) -> Any:
        found = await change(work)
        sizes.extend([found[0]] if isinstance(found, tuple) else [])
        return found

    store._change = counted  # type: ignore[method-assign]
    assert await store.sweep(3.0, 4.0) == []
    assert sizes == [3, 1, 1]
    assert not await store.latest(None, 9)


async def test_a_disk_that_is_full_at_the_start_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, connect, full = tmp_path / "jobs.db", sqlite._connect, True
    first = SqliteStore(path)
    await first.open(0.0)
    await put(first)
    await take_one(first)
    await first.close()

    def connected(path: Path) -> sqlite3.Connection:
        db = connect(path)
        if full:
            db.execute("PRAGMA max_page_count = 1")
            db.execute("CREATE TABLE more (x)")
        return db

    monkeypatch.setattr(sqlite, "_connect", connected)
    monkeypatch.setattr(sqlite, "_AGAIN", 0.05)
    store = SqliteStore(path)
    assert await store.open(0.0) == 0
    assert "disk is full" in store.error
    with pytest.raises(StoreAwayError, match="disk is full"):
        await put(store)
    assert (await store.counts(), await store.oldest()) == ({}, 0.0)
    full = False
    async with asyncio.timeout(5):
        while store.error:
            await asyncio.sleep(0.01)
    assert await take_one(store)  # that of before, queued again
    await store.close()


async def test_a_change_that_fails_does_not_spoil_those_beside_it(store: SqliteStore) -> None:
    def broken(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO nowhere VALUES (1)")

    outcomes = await asyncio.gather(
        put(store), store._change(broken), put(store), return_exceptions=True
    )  # one transaction: they come in one go
    assert isinstance(outcomes[1], StoreError)
    assert len(await store.take(1.0, 9)) == 2


async def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    first, second = SqliteStore(tmp_path / "jobs.db"), SqliteStore(tmp_path / "jobs.db")
    await first.open(0.0)
    await put(first)
    attempt = await take_one(first)
    opening = asyncio.create_task(second.open(5.0))
    await asyncio.sleep(0.2)
    assert not opening.done()
    await first.finish(attempt, State.DONE, GOOD, "", 2.0, 60.0)
    await first.close()
    assert await opening == 0
    await second.close()


@pytest.mark.parametrize("moment", [0, 50, 300])
async def test_a_kill_loses_nothing_that_was_accepted(tmp_path: Path, moment: int) -> None:
    """`moment`: jobs that are accepted before the kill, which comes in the middle of others."""
    path = tmp_path / "jobs.db"
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{Path(__file__).parent}"}
    process = subprocess.Popen(
        [sys.executable, "-c", _SUBMITTER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    accepted = [process.stdout.readline().strip() for _ in range(moment + 1)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().splitlines()
    process.stdout.close()
    process.wait()
    accepted += [line for line in rest if len(line) == 32]  # the last line may be cut
    store = SqliteStore(path)
    await store.open(1.0)
    found = {attempt.id for attempt in await store.take(1.0, 10**6)}
    await store.close()
    assert set(accepted) <= found


async def test_what_is_needed_no_more_is_removed(store: SqliteStore) -> None:
    async def rows() -> tuple[int, int]:
        return await store._change(
            lambda db: tuple(db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("requests", "answers"))
        )

    done, dead, cancelled = await put(store), await put(store), await put(store)
    one, two, _ = await store.take(1.0, 3)
    assert await rows() == (3, 0)
    await store.finish(one, State.DONE, GOOD, "", 2.0, 10.0)
    await store.finish(two, State.DEAD, GOOD, "x", 2.0, 20.0)
    await store.cancel(cancelled.id, 2.0, 10.0)
    assert await rows() == (1, 2)  # the dead one may be queued anew
    await store.requeue(dead.id, 3.0, 99.0)
    assert await rows() == (1, 1)
    again = await take_one(store, 3.0)
    assert again.id == dead.id
    await store.finish(again, State.DONE, GOOD, "", 4.0, 10.0)
    assert await rows() == (0, 2)
    await store.sweep(10.0, 0.0)
    assert await rows() == (0, 0)
    assert await store.get(done.id) is None


async def test_looks_for_jobs_that_are_due_use_the_index(store: SqliteStore) -> None:
    """With as many jobs in a pause as there may be, a look at each of their rows would stop the writer."""

    def plan(db: sqlite3.Connection) -> str:
        rows = db.execute(
            "EXPLAIN QUERY PLAN SELECT seq, request FROM jobs JOIN requests USING (seq) "
            "WHERE state = 0 AND due <= 1 AND deadline > 1 ORDER BY priority, seq LIMIT 1"
        )
        return " ".join(row[3] for row in rows)

    found = await store._change(plan)
    assert "INDEX queued" in found
    assert "TEMP B-TREE" not in found
