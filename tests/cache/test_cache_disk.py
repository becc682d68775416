"""The tier on disk: what is written is found, whole, by all workers and after a restart; what was purged is not."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lb.cache.disk import disk as disks
from lb.cache.disk.disk import Disk, Kept
from lb.cache.disk.folder import Folder, path_of
from lb.cache.disk.form import Stored, pack, size_of, unpack
from lb.cache.disk.keeper import Keeper, read_table
from lb.cache.store import ResultCache
from lb.config.plan.caching import DiskPlan
from lb.shared.segment import Segment

MIB = 1 << 20
SECOND = 1_000_000_000
KEY = bytes(range(32))
SECRET = b"s" * 32


def stored(value: bytes = b"value", key: bytes = KEY, **more: Any) -> Stored:
    fields: dict[str, Any] = {
        "tags": ((1, 0), (2, 5)),
        "run": 3,
        "at": 7,
        "age_ns": 8,
        "fresh_ns": 9,
        "error_ns": 10,
        "cost_us": 11,
    }
    return Stored(key, value, **(fields | more))


class Site:
    """A daemon's memory and disk; each is a run of its own."""

    def __init__(self, root: Path, workers: int = 1, max_size: int = 64 * MIB, secret: bytes | None = None) -> None:
        self.root = root
        self.workers = workers
        self.plan = DiskPlan(str(root), max_size, MIB)
        self.keeper = Keeper(root, secret)
        self.segment = Segment.create(workers, cache_size=8 * MIB, cache_secret=self.keeper.secret)
        self.cache = ResultCache(self.segment, MIB)
        self.keeper.begin(self.cache.slots)
        self.wall = 1000 * SECOND
        self.disks: list[Disk] = []
        self.attached: list[Segment] = []

    async def disk(self, worker: int = 0) -> Disk:
        loop = asyncio.get_running_loop()
        attached = Segment.attach(os.dup(self.segment.fd), worker)
        self.attached.append(attached)
        made = Disk(self.plan, ResultCache(attached, MIB), worker, self.workers, loop, lambda: self.wall)
        self.disks.append(made)
        await until(lambda: made._folder is not None or made._failing)
        return made

    def close(self) -> None:
        for disk in self.disks:
            disk.close()
        for attached in self.attached:
            attached.close()
        self.keeper.close()
        self.segment.close()

    def count(self, name: str) -> int:
        return self.cache.stats()[f"disk_{name}"]


@pytest.fixture
def sites() -> Any:
    made: list[Site] = []

    def make(*arguments: Any, **options: Any) -> Site:
        for site in made:
            site.close()
        made[:] = [Site(*arguments, **options)]
        return made[0]

    yield make
    for site in made:
        site.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def write(disk: Disk, value: bytes, key: bytes = KEY, tags: Any = (), fresh: int = 60) -> None:
    disk.write(key, value, tags, 2 * SECOND, fresh * SECOND, 30 * SECOND, 7)
    await done(disk)


async def done(disk: Disk) -> None:
    await until(lambda: not disk._busy)


async def read(disk: Disk, key: bytes = KEY) -> Kept | None:
    """None also where nothing is read."""
    told: asyncio.Future[Kept | None] = asyncio.get_running_loop().create_future()
    if not disk.read(key, lambda context, asked, kept: context.set_result(kept), told):
        return None
    return await told


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.parent != root]


class Changed:
    """A memory whose URIs have been changed `count` times."""

    def __init__(self, cache: ResultCache) -> None:
        self.cache = cache
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def change_count(self, key: bytes) -> int:
        return self.count


async def test_a_change_counts_before_its_removal_is_done(sites: Any, tmp_path: Path) -> None:
    """Another worker does the removal, some time later."""
    site = sites(tmp_path, workers=2)
    writer, reader = await site.disk(0), await site.disk(1)
    memory = Changed(site.cache)
    writer._cache = reader._cache = memory
    await write(writer, b"old")
    kept = await read(reader)
    assert kept is not None
    assert kept.value == b"old"
    memory.count += 1
    assert await read(reader) is None
    await write(writer, b"new")
    kept = await read(reader)
    assert kept is not None
    assert kept.value == b"new"


async def test_another_worker_removes_a_file_at_once(
    sites: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no failure of the disk, which would be left alone for a while."""
    site = sites(tmp_path)
    disk = await site.disk()
    rename = os.rename

    def rename_and_remove(source: str, target: str) -> None:
        rename(source, target)
        os.unlink(target)

    monkeypatch.setattr(os, "rename", rename_and_remove)
    await write(disk, b"gone")
    assert site.count("errors") == 0
    monkeypatch.undo()
    await write(disk, b"value")
    kept = await read(disk)
    assert kept is not None
    assert kept.value == b"value"


async def test_what_a_change_has_overtaken_is_not_written(sites: Any, tmp_path: Path) -> None:
    """The write waits while the change, and its removal, is done: nothing is left that a later run would find."""
    site = sites(tmp_path)
    disk = await site.disk()
    memory = disk._cache = Changed(site.cache)
    disk.write(KEY, b"old", (), 0, 60 * SECOND, 0, 7)
    memory.count += 1  # in the turn of the loop in which it was asked for, or a moment later
    await done(disk)
    assert await read(disk) is None
    memory.count += 1
    disk._add(stored(b"older", run=disk._table.run, tags=((0xFFFFFFFF, 1),)))
    assert files(tmp_path) == []


def test_a_file_is_what_it_was_or_nothing() -> None:
    whole = stored(b"x" * 1000)
    data = b"".join(pack(whole, SECRET))
    assert len(data) == size_of(whole)
    assert unpack(data, KEY, SECRET) == whole
    for wrong in (data[:-1], data + b"x", b"", data[:40], bytes(len(data))):
        with pytest.raises(ValueError, match="it is"):
            unpack(wrong, KEY, SECRET)
    for at in range(0, len(data), 7):
        torn = bytearray(data)
        torn[at] ^= 1
        with pytest.raises(ValueError, match="it is"):
            unpack(bytes(torn), KEY, SECRET)
    for key, secret in ((KEY[::-1], SECRET), (KEY, b"t" * 32)):
        with pytest.raises(ValueError, match="it is"):
            unpack(data, key, secret)
    assert unpack(b"".join(pack(stored(b"", tags=()), SECRET)), KEY, SECRET).value == b""


async def test_what_is_written_is_found_with_its_times(sites: Any, tmp_path: Path) -> None:
    site = sites(tmp_path / "disk")
    disk = await site.disk()
    assert await read(disk) is None
    await write(disk, b"one")
    await write(disk, b"two" * 100_000)
    site.wall += 20 * SECOND
    kept = await read(disk)
    assert kept == Kept(b"two" * 100_000, (), 22 * SECOND, 40 * SECOND, 30 * SECOND, 7)
    site.wall += 50 * SECOND
    kept = await read(disk)
    assert kept is not None
    assert (kept.fresh_ns, kept.error_ns) == (1, 20 * SECOND - 1)
    site.wall += 21 * SECOND
    assert await read(disk) is None
    site.wall -= 200 * SECOND  # the clock was set back: nobody knows how old it is
    assert await read(disk) is None
    assert (site.count("hits"), site.count("stored")) == (2, 2)


async def test_nobody_else_may_read_it(sites: Any, tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir(0o755)
    before = os.umask(0)
    try:
        site = sites(root)
        await write(await site.disk(), b"one")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert len(files(root)) == 1


async def test_workers_find_the_newest_of_all(sites: Any, tmp_path: Path) -> None:
    site = sites(tmp_path / "disk", workers=3)
    one, two, three = [await site.disk(worker) for worker in range(3)]
    await write(one, b"one")
    site.wall += SECOND
    await write(three, b"three")
    for disk in (one, two, three):
        kept = await read(disk)
        assert kept is not None
        assert kept.value == b"three"
    two.remove(KEY)
    assert not two.read(KEY, pytest.fail, None)  # before it is done
    await done(two)
    for disk in (one, two, three):
        assert await read(disk) is None
    assert files(tmp_path / "disk") == []


async def test_it_survives_a_restart_with_other_workers(sites: Any, tmp_path: Path) -> None:
    site = sites(tmp_path / "disk", workers=3)
    for worker in range(3):
        await write(await site.disk(worker), b"of %d" % worker, key=bytes([worker]) * 32)
    unfinished = Path(path_of(tmp_path / "disk", 2, KEY))
    unfinished.parent.mkdir(exist_ok=True)
    (unfinished.parent / f".{unfinished.name}").write_bytes(b"x")
    site = sites(tmp_path / "disk", workers=2)
    for worker in range(2):
        disk = await site.disk(worker)
        for number in range(3):
            kept = await read(disk, bytes([number]) * 32)
            assert kept is not None
            assert kept.value == b"of %d" % number
    assert len(files(tmp_path / "disk")) == 3
    assert site.count("bytes") == 3 * 4096


async def test_torn_files_are_removed_and_not_given(sites: Any, tmp_path: Path) -> None:
    site = sites(tmp_path / "disk")
    disk = await site.disk()
    await write(disk, b"x" * 10_000)
    (path,) = files(tmp_path / "disk")
    whole = path.read_bytes()
    for torn in (whole[:5000], whole[:-1] + b"?", b"", whole[:5000] + bytes(5000), bytes(3 * MIB)):
        path.write_bytes(torn)
        assert await read(disk) is None
        assert not path.exists()
    path.write_bytes(whole)
    assert await read(disk) is not None
    assert site.count("damaged") == 5


async def test_purges_hold_over_restarts(sites: Any, tmp_path: Path) -> None:
    root = tmp_path / "disk"

    def tags(site: Site, *names: bytes) -> Any:
        slots = [site.cache.slot_of(name) for name in names]
        return tuple((slot, site.cache.generation(slot)) for slot in slots)

    async def purge(site: Site, name: bytes) -> None:
        site.cache.purge(name)
        slot = site.cache.slot_of(name)
        site.keeper.purged({slot: site.cache.generation(slot)})
        await site.keeper.settled()

    async def found(site: Site, disk: Disk) -> set[bytes]:
        """Those that are given, as the data path looks at them."""
        values = set()
        for number in range(4):
            kept = await read(disk, bytes([number]) * 32)
            if kept is not None and all(site.cache.generation(slot) == at for slot, at in kept.tags):
                values.add(kept.value)
        return values

    site = sites(root)
    disk = await site.disk()
    await purge(site, b"a")
    for number, names in enumerate(((b"a",), (b"b",), (b"a", b"b"), ())):
        await write(disk, b"%d" % number, bytes([number]) * 32, tags(site, *names), fresh=10_000)
    assert await found(site, disk) == {b"0", b"1", b"2", b"3"}
    site = sites(root)
    disk = await site.disk()
    assert await found(site, disk) == {b"0", b"1", b"2", b"3"}
    await purge(site, b"a")
    assert await found(site, disk) == {b"1", b"3"}
    site = sites(root)
    disk = await site.disk()
    assert await found(site, disk) == {b"1", b"3"}
    # A new answer of what was purged, in a later run, with a lower generation than the purge had in its own.
    await write(disk, b"new", KEY[:1] * 32, tags(site, b"a"), fresh=10_000)
    assert await found(site, disk) == {b"new", b"1", b"3"}
    for _ in range(3):
        site = sites(root)
        disk = await site.disk()
        assert await found(site, disk) == {b"new", b"1", b"3"}
    await purge(site, b"b")
    site = sites(root)
    assert await found(site, await site.disk()) == {b"new", b"3"}
    assert read_table(root).run == 7


async def test_it_begins_empty_where_nobody_knows_what_was_purged(sites: Any, tmp_path: Path) -> None:
    root = tmp_path / "disk"
    for harm in (
        lambda: (root / "purges").unlink(),
        lambda: (root / "purges").write_bytes(b"TgPurge1"),
        lambda: (root / "secret").write_bytes(b"short"),
    ):
        site = sites(root)
        await write(await site.disk(), b"one")
        site.close()
        harm()
        sites(root)
        site = sites(root)  # which waits for the removal
        assert await read(await site.disk()) is None
        assert files(root) == []
    site = sites(root)
    await write(await site.disk(), b"one")
    site = sites(root, secret=SECRET)
    assert await read(await site.disk()) is None


async def test_a_purge_that_cannot_be_kept(sites: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = sites(tmp_path / "disk")
    await write(await site.disk(), b"one")
    os.close(site.keeper._purges)
    site.keeper._purges = os.open("/dev/full", os.O_WRONLY)
    site.keeper.purged({1: 1})
    await site.keeper.settled()
    assert "a purge is not kept" in caplog.text
    assert not (tmp_path / "disk" / "purges").exists()
    site = sites(tmp_path / "disk")
    assert await read(await site.disk()) is None


async def test_two_daemons_do_not_share_it(sites: Any, tmp_path: Path) -> None:
    sites(tmp_path / "disk")
    with pytest.raises(OSError, match="another daemon uses it"):
        Keeper(tmp_path / "disk")


async def test_its_size_is_bounded(sites: Any, tmp_path: Path) -> None:
    site = sites(tmp_path / "disk", workers=2, max_size=2 * MIB)
    one, two = await site.disk(0), await site.disk(1)

    def size() -> int:
        return sum(-(-path.stat().st_size // 4096) * 4096 for path in files(tmp_path / "disk"))

    for number in range(150):
        for disk, kind in ((one, 1), (two, 2)):
            await write(disk, os.urandom(20_000), bytes([kind, number]) * 16)
        assert size() <= 2 * MIB
    assert size() > MIB
    assert site.count("bytes") == size()
    assert site.count("evictions") == 300 - len(files(tmp_path / "disk"))
    assert await read(two, bytes([1, 149]) * 16) is not None
    assert await read(two, bytes([1, 0]) * 16) is None
    await write(one, bytes(2 * MIB))
    assert site.count("dropped") == 1
    site = sites(tmp_path / "disk", max_size=MIB)  # less than is there
    await site.disk()
    assert MIB - 25_000 < size() <= MIB


async def test_what_is_read_stays(tmp_path: Path) -> None:
    gone: list[int] = []
    folder = Folder(tmp_path, [0], 10 * 4096, gone.append)
    keys = [bytes([number]) * 32 for number in range(20)]
    for number, key in enumerate(keys[:10]):
        folder.add(key, [b"x"], 1)
        path = path_of(tmp_path, 0, key)
        os.utime(path, (number, number))
    folder = Folder(tmp_path, [0], 10 * 4096, gone.append)
    folder.scan()
    os.utime(path_of(tmp_path, 0, keys[0]))  # another worker has read it
    for key in keys[10:12]:
        folder.add(key, [b"x"], 1)
    left = [number for number in range(12) if os.path.exists(path_of(tmp_path, 0, keys[number]))]
    assert left == [0, *range(3, 12)]
    assert (folder.used, sum(gone)) == (10 * 4096, 2)


async def test_a_disk_that_fails_is_one_line_until_it_works(
    sites: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    site = sites(tmp_path / "disk", workers=2)
    one, two = await site.disk(0), await site.disk(1)
    await write(one, b"before")
    full = True

    def add(self: Folder, key: bytes, parts: Any, size: int) -> bool:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return kept(self, key, parts, size)

    kept = Folder.add
    monkeypatch.setattr(Folder, "add", add)
    for disk in (one, two, one):
        await write(disk, b"after")
    lines = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert lines == [f"{tmp_path / 'disk'}: answers are not kept on disk: No space left on device"]
    assert site.count("failing") == 2
    assert await read(one) is None  # nor is the one from before, which is not that of memory
    full = False
    await write(one, b"meanwhile")
    assert await read(one) is None
    assert site.count("dropped") == 2
    monkeypatch.setattr(disks, "PAUSE", 0.0)
    one._again = two._again = 0.0
    for disk in (one, two):
        await write(disk, b"again")
        assert await read(disk) is not None
    assert [r.message for r in caplog.records if "again" in r.message] == [
        f"{tmp_path / 'disk'}: answers are kept on disk again"
    ]


async def test_a_disk_that_hangs_holds_nobody_for_long(
    sites: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites(tmp_path / "disk")
    disk = await site.disk()
    await write(disk, b"one")
    fifo = tmp_path / "hangs"
    os.mkfifo(fifo)
    monkeypatch.setattr(disks, "PATIENCE", 0.05)
    monkeypatch.setattr(disks, "path_of", lambda root, worker, key: str(fifo))
    keys = [bytes([number]) * 32 for number in range(disks.READERS)]
    assert await asyncio.gather(*(read(disk, key) for key in keys)) == [None] * len(keys)
    assert not disk.read(KEY, pytest.fail, None)
    assert "it hangs" in caplog.text
    monkeypatch.setattr(disks, "path_of", path_of)
    while disk._stuck:  # it comes back
        os.close(os.open(fifo, os.O_WRONLY))
        await asyncio.sleep(0.01)
    assert await read(disk) is not None


async def test_too_many_requests_do_without(sites: Any, tmp_path: Path) -> None:
    disk = await sites(tmp_path / "disk").disk()
    told: list[bytes] = []
    keys = [number.to_bytes(32, "big") for number in range(disks.MOST_READS + 1)]
    asked = [disk.read(key, lambda context, key, kept: told.append(key), None) for key in keys]
    assert asked == [True] * disks.MOST_READS + [False]
    await until(lambda: len(told) == disks.MOST_READS)
    disk.write(KEY, bytes(disks.MOST_WAITING + 1), (), 0, SECOND, 0, 0)
    await done(disk)
    assert files(tmp_path / "disk") == []


async def test_a_folder_that_cannot_be_used(sites: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory"):
        Keeper(tmp_path / "file")
    tmp_path.chmod(0o755)
    with pytest.raises(OSError, match="it has other files"):
        Keeper(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    with pytest.raises(OSError, match="No such file"):
        Keeper(tmp_path / "a" / "b")
