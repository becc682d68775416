"""What clients have used of quotas, kept in a file and shown."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lb.config.schema.file import Config
from lb.control.quotas.file import QuotaFile
from lb.control.quotas.keeper import QuotaKeeper, file_of
from lb.errors import ConfigError, StartError
from lb.shared.quotas import Quotas
from lb.shared.segment import Segment

NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z
START = int(NOON // 60) - 720
DAY = 1440


@pytest.fixture
def segment() -> Iterator[Callable[[], Segment]]:
    made: list[Segment] = []

    def make() -> Segment:
        made.append(Segment.create(1, 1, 1, quota_sets=4))
        return made[-1]

    yield make
    for each in made:
        each.close()


def config(path: Path | None, **overrides: int) -> Config:
    quotas = {
        "daily": {"requests": 4, "per": "day", "key": {"header": "X-Tenant"}, "overrides": overrides},
        "total": {"requests": 10, "per": "month", "key": {"all": True}},
    }
    return Config.model_validate({"quotas": quotas, "limits": {"quota_file": str(path)} if path else {}})


def use(segment: Segment, name: bytes, times: int, span: int = DAY) -> None:
    for _ in range(times):
        assert Quotas(segment).use(name, START, span, 100)[0]


def shown(keeper: QuotaKeeper) -> list[tuple[Any, ...]]:
    return [(row["quota"], row["key"], row["by"], row["used"], row["remaining"]) for row in keeper.clients()]


async def test_counts_outlive_the_segment(segment: Callable[[], Segment], tmp_path: Path) -> None:
    path = tmp_path / "quotas"
    first = segment()
    keeper = QuotaKeeper(first, lambda: NOON)
    await keeper.apply(config(path, big=400))
    use(first, b"daily\0=a", 3)
    use(first, b"daily\0=big", 3)
    use(first, b"daily\0@10.0.0.1", 1)
    use(first, b"total\0", 7, 31 * DAY)
    use(first, b"gone\0=a", 1)
    expected = [
        ("daily", "a", "key", 3, 1), ("total", "*", "all", 7, 3), ("daily", "10.0.0.1", "source", 1, 3),
        ("daily", "big", "key", 3, 397),
    ]  # fmt: skip
    assert shown(keeper) == expected
    assert keeper.clients("daily", "a")[0]["resets_at"] == "2026-01-02T00:00:00Z"
    with pytest.raises(ConfigError, match="no quota 'none'"):
        keeper.clients("none")
    with pytest.raises(StartError, match="locked"):  # of another daemon
        await QuotaKeeper(segment(), lambda: NOON).apply(config(path))
    assert path.stat().st_mode & 0o777 == 0o600
    await keeper.save()
    use(first, b"daily\0=a", 1)
    await keeper.close()

    second = segment()
    keeper = QuotaKeeper(second, lambda: NOON)
    await keeper.apply(config(path, big=400))
    assert shown(keeper)[0] == ("daily", "a", "key", 4, 0)
    assert shown(keeper)[1:] == expected[1:]
    assert await keeper.reset("a", dry_run=True) == await keeper.reset("a") != []
    assert "a" not in {row[1] for row in shown(keeper)}
    await keeper.close()

    # The next day only the month goes on.
    keeper = QuotaKeeper(segment(), lambda: NOON + 86400)
    await keeper.apply(config(path))
    assert shown(keeper) == [("total", "*", "all", 7, 3)]
    await keeper.close()


async def test_a_file_that_cannot_be_used_changes_nothing(segment: Callable[[], Segment], tmp_path: Path) -> None:
    memory = segment()
    keeper = QuotaKeeper(memory, lambda: NOON)
    await keeper.apply(config(tmp_path / "one"))
    (tmp_path / "text").write_text("not a database, and long enough to be looked at " * 20)
    with sqlite3.connect(tmp_path / "newer") as newer:
        newer.execute("PRAGMA user_version = 7")
    newer.close()
    for name, why in (("text", "not a database"), ("newer", "version 7"), ("no/folder", "No such file"), (".", "dir")):
        with pytest.raises(StartError, match=why):
            await keeper.apply(config(tmp_path / name))
    use(memory, b"daily\0=a", 2)
    # Another file gets what was counted so far, and so does the one that is left.
    await keeper.apply(config(tmp_path / "two"))
    await keeper.close()
    for name in ("one", "two"):
        file = QuotaFile(tmp_path / name)
        assert file.load(START) == [(b"daily\0=a", START, DAY, 2)]
        file.close()


async def test_a_full_disk_is_told_and_tried_again(
    segment: Callable[[], Segment], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = segment()
    keeper = QuotaKeeper(memory, lambda: NOON)
    await keeper.apply(config(tmp_path / "quotas"))
    assert keeper._file is not None
    keeper._file._db.execute("PRAGMA max_page_count = 1")
    for n in range(25):
        use(memory, b"daily\0=%d%s" % (n, b"x" * 190), 1)
    for _ in range(2):
        await keeper.save()
    assert keeper.status()["save_errors"] == 2
    assert "full" in keeper.status()["trouble"]
    assert sum("cannot be written" in line for line in caplog.messages) == 1
    keeper._file._db.execute("PRAGMA max_page_count = 1000")
    await keeper.save()
    assert keeper.status()["trouble"] is None
    await keeper.close()


async def test_a_full_disk_does_not_hinder_a_start(
    segment: Callable[[], Segment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = segment()
    use(memory, b"daily\0=a", 2)
    keeper = QuotaKeeper(memory, lambda: NOON)
    save = QuotaFile.save

    def refused(*given: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(QuotaFile, "save", refused)
    await keeper.apply(config(tmp_path / "quotas"))
    assert "full" in keeper.status()["trouble"]
    monkeypatch.setattr(QuotaFile, "save", save)
    await keeper.save()
    assert keeper.status()["trouble"] is None
    await keeper.close()
    file = QuotaFile(tmp_path / "quotas")
    assert file.load(START) == [(b"daily\0=a", START, DAY, 2)]
    file.close()


async def test_workers_of_before_an_upgrade_are_counted(segment: Callable[[], Segment], tmp_path: Path) -> None:
    old = segment()
    keeper = QuotaKeeper(old, lambda: NOON)
    await keeper.apply(config(tmp_path / "quotas"))
    use(old, b"daily\0=a", 2)
    await keeper.close()
    new = segment()
    after = QuotaKeeper(new, lambda: NOON)
    await after.apply(config(tmp_path / "quotas"))
    after.take_over(Segment.attach(os.dup(old.fd)))
    use(old, b"daily\0=a", 1)
    use(old, b"daily\0=b", 1)
    use(new, b"daily\0=a", 1)
    after.let_go()
    after.let_go()
    assert shown(after) == [("daily", "a", "key", 4, 0), ("daily", "b", "key", 1, 3)]
    await after.close()


async def test_counts_go_on_without_a_file(segment: Callable[[], Segment], monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, as where the program before goes on again."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    old = segment()
    before = QuotaKeeper(old, lambda: NOON)
    await before.apply(config(None))
    use(old, b"daily\0=a", 2)
    use(old, b"daily\0=b", 1)
    for _ in range(2):
        new = segment()
        after = QuotaKeeper(new, lambda: NOON)
        await after.apply(config(None))
        after.take_over(Segment.attach(os.dup(old.fd)))
        assert {row[1]: row[3] for row in shown(after)} == {"a": 2, "b": 1}
        use(new, b"daily\0=a", 1)
    use(old, b"daily\0=b", 2)
    after.let_go()
    assert {row[1]: row[3] for row in shown(after)} == {"a": 3, "b": 3}
    later = QuotaKeeper(segment(), lambda: NOON + 86_400 * 2)
    await later.apply(config(None))
    later.take_over(Segment.attach(os.dup(old.fd)))
    assert shown(later) == []


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert file_of(config(None)) is None
    assert file_of(config(tmp_path / "q")) == tmp_path / "q"
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/other")
    assert file_of(config(None)) == tmp_path / "quotas.sqlite"
