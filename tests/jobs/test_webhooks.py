"""Webhooks: who may be told, how it is signed, and how often it is tried."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from store_contract import GOOD, put, take_one

from lb.jobs.job import Delivery, State
from lb.jobs.settings import Settings, secret_of
from lb.jobs.sqlite import SqliteStore
from lb.jobs.store import StoreAwayError
from lb.jobs.webhooks import Webhooks, allowed, sign

URLS = ("https://h.example/hooks/", "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://h.example/hooks/a?b=c", True),
        ("https://H.EXAMPLE/hooks", True),
        ("http://127.0.0.1:8000/x", True),
        ("http://127.0.0.1:8000", True),
        ("https://h.example/hooksx", False),
        ("https://h.example/", False),
        ("http://h.example/hooks/a", False),
        ("https://h.example:444/hooks/a", False),
        ("https://h.example.evil/hooks/a", False),
        ("https://h.example@evil/hooks/a", False),
        ("https://evil/https://h.example/hooks/", False),
        ("https://h.example/hooks/../admin", False),
        ("https://h.example/hooks/%2e%2e/admin", False),
        ("https://h.example/hooks/.%2E/admin", False),
        ("https://h.example/hooks/..%2fadmin", False),
        ("https://h.example/hooks/x%5C..%5Cadmin", False),
        ("https://h.example\\@evil/hooks/", False),
        ("https://h.example/hooks/\n", False),
        ("http://127.0.0.1:x/", False),
        ("http://127.0.0.1:80001/", False),
        ("", False),
    ],
)
def test_only_listed_places_are_told(url: str, good: bool) -> None:
    assert allowed(url, URLS) is good
    assert not allowed(url, ())


def test_the_signature_of_the_standards_example() -> None:
    """The values of the specification's own test vector."""
    secret = secret_of(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}') == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize("text", [b"", b"short", b"whsec_!!", b"whsec_" + base64.b64encode(b"short")])
def test_a_weak_secret_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"24 bytes|base64|padding|[Oo]nly"):
        secret_of(text)


async def test_an_end_is_told_until_it_is_taken(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db")
    await store.open(0.0)
    posted: list[tuple[str, bytes, dict[str, str]]] = []
    answers = [0, 500, 204]
    now = 100.0
    settings = Settings("", "", "/jobs", ("", ""), 1, 1, 1, 1.0, 1.0, URLS, b"s" * 24)

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        posted.append((url, body, headers))
        return answers.pop(0)

    hooks = Webhooks(store, settings, post, lambda told: {"id": told.job.id}, lambda: now)
    job = await put(store, webhook="https://h.example/hooks/a")
    other = await put(store, webhook="https://elsewhere/")  # was allowed once
    running = asyncio.create_task(hooks.run())
    for _ in range(2):
        await store.finish(await take_one(store), State.DONE, GOOD, "", 99.0, 1e9)
    hooks.wake()
    async with asyncio.timeout(10):
        while hooks.told["delivered"] == 0:
            now += 5
            hooks.wake()
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert await store.deliveries(1e9, 9) == []
    await store.close()
    assert [url for url, _, _ in posted] == ["https://h.example/hooks/a"] * 3
    assert hooks.told == {"failed": 2, "delivered": 1, "refused": 1}
    for _, body, headers in posted:
        assert orjson.loads(body) == {"id": job.id}
        assert headers["webhook-id"] == job.id != other.id
        content = f"{job.id}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.digest(b"s" * 24, content, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"


async def test_a_slow_receiver_keeps_no_other_waiting(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db")
    await store.open(0.0)
    settings = Settings("", "", "/jobs", ("", ""), 1, 1, 1, 1.0, 1.0, URLS, b"s" * 24)
    told: list[str] = []
    never = asyncio.Event()

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        told.append(url)
        if url.endswith("slow"):
            await never.wait()
        return 200

    hooks = Webhooks(store, settings, post, lambda told: {}, lambda: 100.0)
    for name in ("slow", "slow", "quick", "quick"):
        await put(store, webhook=f"https://h.example/hooks/{name}")
        await store.finish(await take_one(store), State.DONE, GOOD, "", 99.0, 1e9)
    running = asyncio.create_task(hooks.run())
    async with asyncio.timeout(10):
        while hooks.told["delivered"] < 2:
            await asyncio.sleep(0.01)
    hooks.wake()
    await asyncio.sleep(0.1)
    assert sorted(told) == sorted(f"https://h.example/hooks/{name}" for name in ("slow", "slow", "quick", "quick"))
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert len(await store.deliveries(100.0, 9)) == 2  # for the next process
    await store.close()


async def test_a_receiver_that_hangs_leaves_room_for_others(tmp_path: Path) -> None:
    """However many of its webhooks are due, and however a client spells its name."""
    store = SqliteStore(tmp_path / "jobs.db")
    await store.open(0.0)
    settings = Settings("", "", "/jobs", ("", ""), 1000, 1, 1, 1.0, 1.0, URLS, b"s" * 24)
    told: list[str] = []

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        told.append(url)
        if "h.example" in url.lower():
            await asyncio.Event().wait()
        return 200

    hooks = Webhooks(store, settings, post, lambda told: {}, lambda: 100.0)
    for i in range(300):
        await put(
            store, webhook=("https://h.example/hooks/a", "https://H.Example/hooks?a", "HTTPS://h.exAmple/hooks")[i % 3]
        )
    await put(store, webhook="http://127.0.0.1:8000/x")
    for _ in range(301):
        await store.finish(await take_one(store), State.DONE, GOOD, "", 99.0, 1e9)
    running = asyncio.create_task(hooks.run())
    async with asyncio.timeout(10):
        while hooks.told["delivered"] < 1:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.7)  # another look
    assert told.count("http://127.0.0.1:8000/x") == 1
    assert len(told) == 64 + 1
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await store.close()


class Away(SqliteStore):
    """A store that is away when it is asked to note a webhook as told, `times` times."""

    times = 3

    async def delivered(self, delivery: Delivery) -> None:
        if self.times:
            self.times -= 1
            raise StoreAwayError("away")
        await super().delivered(delivery)


class SlowToRead(SqliteStore):
    """A store whose list of what is to be told is older than what it is asked to note meanwhile."""

    noted = asyncio.Event()

    async def deliveries(self, now: float, most: int, busy: Sequence[str] = ()) -> list[Delivery]:
        found = await super().deliveries(now, most, busy)
        if found:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.noted.wait(), 1)
            self.noted.clear()
        return found

    async def delivered(self, delivery: Delivery) -> None:
        await super().delivered(delivery)
        self.noted.set()


async def test_a_webhook_that_is_told_while_the_store_is_read_is_told_once(tmp_path: Path) -> None:
    store = SlowToRead(tmp_path / "jobs.db")
    await store.open(0.0)
    posted: list[str] = []
    settings = Settings("", "", "/jobs", ("", ""), 1, 1, 1, 1.0, 1.0, URLS, b"s" * 24)
    reading = asyncio.Event()

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        posted.append(url)
        hooks.wake()  # the store is read again while this is under way
        await asyncio.wait_for(reading.wait(), 5)
        return 200

    hooks = Webhooks(store, settings, post, lambda told: {}, lambda: 100.0)
    await put(store, webhook="https://h.example/hooks/a")
    await store.finish(await take_one(store), State.DONE, GOOD, "", 99.0, 1e9)
    running = asyncio.create_task(hooks.run())
    async with asyncio.timeout(10):
        while not posted:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # the second reading has begun
        reading.set()
        while await SqliteStore.deliveries(store, 100.0, 9):
            await asyncio.sleep(0.01)
    await asyncio.sleep(1.2)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert len(posted) == 1
    await store.close()


async def test_a_store_that_is_away_has_no_webhook_told_again(tmp_path: Path) -> None:
    store = Away(tmp_path / "jobs.db")
    await store.open(0.0)
    posted: list[str] = []
    settings = Settings("", "", "/jobs", ("", ""), 1, 1, 1, 1.0, 1.0, URLS, b"s" * 24)

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        posted.append(url)
        return 204

    webhooks = Webhooks(store, settings, post, lambda told: {}, lambda: 100.0)
    await put(store, webhook="https://h.example/hooks/a")
    await store.finish(await take_one(store), State.DONE, GOOD, "", 2.0, 1e9)
    running = asyncio.create_task(webhooks.run())
    async with asyncio.timeout(20):
        while store.times or await store.deliveries(100.0, 1):
            await asyncio.sleep(0.02)
    assert len(posted) == 1
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await store.close()
