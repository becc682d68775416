"""The cache's snapshot: what goes in comes out, or the cache begins empty."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compiled.result_cache import Fill, find, get_bytes, put_bytes

from lb.cache import tags
from lb.cache.store import ResultCache
from lb.config.plan.plan import Plan
from lb.control.cache import snapshot
from lb.shared.segment import Segment

SECOND = 1_000_000_000
NOW = 1000 * SECOND
POOLS = {"p": b"p as it was", "q": b"q"}
MODELS = {"p": {"m": {b"1"}, "n": {b"1", b"2"}}, "q": {"m": {b"1"}}}
MESSAGE = b"\x0a\x01%c\x12\x011"  # a ModelInferResponse of a model and its version 1


class Pool:
    def __init__(self, name: str) -> None:
        self.name, self.protocol = name, "oip"


class AnyPlan:
    pools = (Pool("p"), Pool("q"))


PLAN: Plan = AnyPlan()  # type: ignore[assignment]


def key(number: int) -> bytes:
    return random.Random(number).randbytes(32)


@pytest.fixture
def make() -> Iterator[Callable[..., ResultCache]]:
    segments = []

    def make(size: int = 1 << 20, secret: bytes | None = None) -> ResultCache:
        segments.append(Segment.create(1, 1, 1, size, cache_secret=secret))
        return ResultCache(segments[-1], 1 << 18)

    yield make
    for segment in segments:
        segment.close()


def put(cache: ResultCache, number: int, pool: str, model: str, **times: int) -> bytes:
    value = MESSAGE % ord(model) + random.Random(number).randbytes(number * 37 % 3000)
    fill = Fill(cache, *(tag.encode() for tag in tags.of_answer(pool, model, "")))
    assert put_bytes(cache, key(number), value, NOW, times.pop("ttl", 100 * SECOND), fill, **times) == 1
    return value


async def kept(cache: ResultCache, path: Path, now: int = NOW) -> snapshot.Snapshot:
    await snapshot.save(path, cache, lambda: now, POOLS, MODELS)
    found = await asyncio.to_thread(snapshot.load, path)
    assert found is not None
    return found


async def restored(found: snapshot.Snapshot, cache: ResultCache, passed: int = 0, **looks: Any) -> snapshot.Restoring:
    """All that is known at once; of the rest nothing comes."""
    restoring = snapshot.Restoring(found, cache, lambda: NOW, lambda: found.head.at + passed)
    restoring.purged(looks.pop("purged", []))
    for pool, models in looks.pop("models", MODELS).items():
        restoring.looked(pool, models)
    await restoring.run(PLAN, looks.pop("pools", POOLS))
    return restoring


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PATIENCE", 0.2)


async def test_what_goes_in_comes_out(make: Callable[..., ResultCache], tmp_path: Path) -> None:
    before, path = make(8 << 20), tmp_path / "snapshot"
    values = {n: put(before, n, "p", "mn"[n % 2], cost_us=n, stale_ns=SECOND, error_ns=2 * SECOND) for n in range(300)}
    assert put_bytes(before, key(1000), b"untagged", NOW, SECOND) == 1
    found = await kept(before, path, NOW + 10 * SECOND)
    assert found.head.secret == before.segment.cache_secret
    assert not path.exists(), "what is purged later must not come back"
    after = make(8 << 20, found.head.secret)
    done = await restored(found, after, 20 * SECOND)
    assert done.restored == 300, "the untagged one has ended"
    for number, value in values.items():
        got, facts = find(after, key(number), NOW)
        assert got == value
        assert facts == {
            "state": "fresh", "age": 30 * SECOND, "fresh": 70 * SECOND, "stale": 71 * SECOND, "error": 72 * SECOND,
            "cost_us": number, "flags": 0,
        }  # fmt: skip
    after.purge(tags.of_model("p", "m").encode())
    assert [get_bytes(after, key(n), NOW) is None for n in (0, 1)] == [True, False], "tags are the same"


async def test_the_file_is_for_its_owner_alone(make: Callable[..., ResultCache], tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    await snapshot.save(path, make(), lambda: NOW, POOLS, MODELS)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["snapshot"]
    path.chmod(0o640)
    assert snapshot.load(path) is None


async def test_what_is_stale_or_purged_is_left_out(make: Callable[..., ResultCache], tmp_path: Path) -> None:
    before = make()
    put(before, 1, "p", "m", ttl=SECOND)
    put(before, 2, "p", "n", ttl=100 * SECOND)
    put(before, 3, "q", "m")
    put(before, 4, "p", "m", ttl=SECOND, stale_ns=50 * SECOND)
    before.purge(tags.of_pool("q").encode())
    found = await kept(before, tmp_path / "snapshot", NOW + 2 * SECOND)
    assert len(found.frames) == 2
    after = make(secret=found.head.secret)
    await restored(found, after, 10 * SECOND)
    assert [find(after, key(n), NOW)[1]["state"] for n in (2, 4)] == ["fresh", "stale"]


async def test_answers_wait_for_their_models(make: Callable[..., ResultCache], tmp_path: Path) -> None:
    before = make()
    for number, (pool, model) in enumerate([("p", "m"), ("p", "n"), ("q", "m")]):
        put(before, number, pool, model)
    assert put_bytes(before, key(9), b"untagged", NOW, 100 * SECOND) == 1

    async def there(**looks: Any) -> list[bool]:
        found = await kept(before, tmp_path / "snapshot")
        after = make(secret=found.head.secret)
        await restored(found, after, **looks)
        return [get_bytes(after, key(n), NOW) is not None for n in (0, 1, 2, 9)]

    assert await there() == [True, True, True, True]
    assert await there(models={}) == [False, False, False, True]
    assert await there(models={"p": {"m": {b"other"}, "n": {b"1", b"2"}}}) == [False, True, False, True]
    assert await there(models={"p": {"n": {b"1"}}}) == [False, False, False, True]
    assert await there(pools={**POOLS, "p": b"other"}) == [False, False, True, True]
    assert await there(pools={}) == [False, False, False, True]
    assert await there(purged=[tags.of_model("p", "m")]) == [False, True, True, True]
    assert await there(purged=["unknown"]) == [True, True, True, True]


async def test_answers_of_http_have_times_of_the_machine(make: Callable[..., ResultCache], tmp_path: Path) -> None:
    before = make()
    put(before, 1, "p", "m")
    assert put_bytes(before, key(9), b"untagged", NOW, 100 * SECOND) == 1
    found = await kept(before, tmp_path / "snapshot")
    found.head.boot = "another"
    await restored(found, after := make(secret=found.head.secret))
    assert [get_bytes(after, key(n), NOW) is not None for n in (1, 9)] == [True, False]


async def test_a_model_that_comes_later(make: Callable[..., ResultCache], tmp_path: Path) -> None:
    before = make()
    put(before, 1, "p", "m")
    found = await kept(before, tmp_path / "snapshot")
    after = make(secret=found.head.secret)
    restoring = snapshot.Restoring(found, after, lambda: NOW, lambda: found.head.at)
    task = asyncio.create_task(restoring.run(PLAN, POOLS))
    await asyncio.sleep(0.02)
    assert get_bytes(after, key(1), NOW) is None
    restoring.looked("p", {"m": {b"1"}})
    await task
    assert get_bytes(after, key(1), NOW) is not None


async def test_caches_of_other_sizes(
    make: Callable[..., ResultCache], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    big = make(64 << 20)
    for number in range(3000):
        put(big, number, "p", "m")
    found = await kept(big, tmp_path / "snapshot")
    small = make(1 << 20, found.head.secret)
    assert small.slots < big.slots
    await restored(found, small)
    assert 100 < small.stats()["entries"] < 3000
    small.purge(tags.of_model("p", "m").encode())
    assert all(get_bytes(small, key(n), NOW) is None for n in range(3000))

    put(small, 1, "p", "m")
    found = await kept(small, tmp_path / "snapshot")
    await restored(found, bigger := make(64 << 20, found.head.secret))
    assert bigger.stats()["entries"] == 0
    assert "not used: the cache is larger than it was" in caplog.text


async def test_a_clock_that_was_set_back(
    make: Callable[..., ResultCache], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = make()
    put(before, 1, "p", "m")
    found = await kept(before, tmp_path / "snapshot")
    await restored(found, after := make(secret=found.head.secret), -SECOND)
    assert after.stats()["entries"] == 0
    assert "the clock was set back" in caplog.text


async def test_damage_is_one_line_and_an_empty_cache(
    make: Callable[..., ResultCache], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, path = make(), tmp_path / "snapshot"
    for number in range(20):
        put(before, number, "p", "m")
    await snapshot.save(path, before, lambda: NOW, POOLS, MODELS)
    whole, chosen = path.read_bytes(), random.Random(3)
    damaged = [whole[: chosen.randrange(len(whole))] for _ in range(60)]
    for _ in range(200):
        at = chosen.randrange(len(whole))
        damaged.append(whole[:at] + bytes([whole[at] ^ 1 << chosen.randrange(8)]) + whole[at + 1 :])
    damaged += [b"", b"x" * 100, snapshot.MAGIC, whole + b"\0", whole + whole[8:], b"TgSnap2\n" + whole[8:]]
    for data in damaged:
        caplog.clear()
        path.write_bytes(data)
        path.chmod(0o600)
        assert snapshot.load(path) is None
        assert len(caplog.records) == 1
        assert "is not used, the cache begins empty" in caplog.text
    caplog.clear()
    assert snapshot.load(path) is None, "there is no file any more"
    assert not caplog.records


async def test_a_stop_that_cannot_write(
    make: Callable[..., ResultCache], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, path = make(), tmp_path / "snapshot"
    put(cache, 1, "p", "m")
    await snapshot.save(tmp_path / "none" / "snapshot", cache, lambda: NOW, POOLS, MODELS)
    assert "is not written: No such file or directory" in caplog.text
    path.write_bytes(b"an old one")
    await snapshot.save(path, cache, lambda: NOW, POOLS, MODELS, lambda: True)
    assert "would wait too long" in caplog.text
    assert os.listdir(tmp_path) == [], "neither an old one nor half of a new one"
