"""Jobs in NATS by decentralised authentication: a real server with a resolver, users with JWTs and nkeys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats_accounts import Site
from nats_server import NatsServer
from store_contract import GOOD, put, take_one
from waiting import until

from lb.jobs.index import Record, packed
from lb.jobs.jetstream import JetStreamStore
from lb.jobs.job import Job, State
from lb.jobs.link import Link
from lb.jobs.settings import NatsSettings
from lb.jobs.store import StoreAwayError

# What docs/howto/answer-later.md says that a user needs.
NEEDED = ["tidegate-jobs.>", "tidegate-jobs-bodies.>", "$JS.API.>", "$JS.FC.>", "_INBOX.>"]
SITE = Site()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path_factory.mktemp("nats"), SITE.server)
    made.start()
    yield made
    made.kill()


def settings(server: NatsServer, file: Path) -> NatsSettings:
    return NatsSettings((server.url,), "tidegate-jobs", 1, credentials_file=str(file))


@contextlib.asynccontextmanager
async def opened(server: NatsServer, file: Path) -> AsyncIterator[JetStreamStore]:
    made = JetStreamStore(settings(server, file))
    await made.open(0.0)
    try:
        yield made
    finally:
        await made.close()


def needed(expires: float = 0, site: Site = SITE) -> str:
    return site.credentials(publish=NEEDED, subscribe=NEEDED, expires=expires)


async def test_users_with_the_rights_that_are_documented_share_jobs(server: NatsServer, tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "other"]
    for file in files:
        file.write_text(needed())
    async with opened(server, files[0]) as one, opened(server, files[1]) as other:
        assert (one.error, other.error) == ("", "")
        jobs = [await put(one, body=bytes(3000)) for _ in range(5)]
        assert await other.get(jobs[-1].id) == jobs[-1]
        attempt = await take_one(other)
        done = await other.finish(attempt, State.DONE, GOOD, "", 2.0, 60.0)
        assert await one.get(attempt.id) == done
        assert await one.answer(attempt.id) == GOOD
        await one.sweep(100.0, 200.0)  # forgets it, with its answer
        assert await other.get(attempt.id) is None
        await one._tidy()
        await one._tidy()


async def test_flow_control_is_one_of_the_rights(tmp_path: Path) -> None:
    """The server asks for a sign that what it has sent was read, once that is 2 MB or so."""
    server = NatsServer(tmp_path / "nats", SITE.server)
    server.start()
    file = tmp_path / "creds"
    file.write_text(needed())
    async with opened(server, file) as store:
        assert store._link is not None
        for i in range(100):
            long = Job(f"j{i}", "web/0", "", State.QUEUED, 3, 1.0, 9e9, 1.0, 0, failure="x" * 60_000)
            await store._link.put(f"job.j{i}", packed(Record(long, b"", 1)))
        async with opened(server, file) as other:
            assert (other.error, len(await other.latest(None, 1000))) == ("", 100)
    rights = [right for right in NEEDED if right != "$JS.FC.>"]
    file.write_text(SITE.credentials(publish=rights, subscribe=rights))
    link = Link(settings(server, file), lambda subject, revision, data: None)
    await link.connect()
    with pytest.raises(StoreAwayError, match=r"does not tell of changes.*\$js\.fc"):
        await link.told(100, 2)
    await link.close()
    server.kill()


async def test_credentials_that_are_no_good_are_told(server: NatsServer, tmp_path: Path) -> None:
    good = needed()
    file = tmp_path / "creds"
    jwt, seed = good[: good.index("*****")], good[good.rindex("*****") :]
    for content, reason in (
        (needed(expires=-10), "uthorization"),
        (needed(site=Site()), "uthorization"),
        (jwt + needed()[len(jwt) :], "uthorization"),  # another user's seed
        (SITE.credentials(publish=NEEDED[:2], subscribe=NEEDED), "ermissions"),
        ("", f"{file}: there is no JWT"),
        ("garbage\n" * 1000, f"{file}: there is no JWT"),
        ("\xff", f"{file}: there is no JWT"),
        (jwt, f"{file}: there is no seed"),
        (seed, f"{file}: there is no JWT"),
        (good.replace("\nSU", "\nSUAAAA"), f"{file}: the seed cannot be used"),
    ):
        file.write_text(content, "latin-1")
        async with asyncio.timeout(30), opened(server, file) as store:
            assert reason in store.error, (content, store.error)
    file.unlink()
    async with opened(server, file) as store:
        assert f"No such file or directory: '{file}'" in store.error


async def test_a_file_that_is_mended_is_read_at_the_next_connection(server: NatsServer, tmp_path: Path) -> None:
    file = tmp_path / "creds"
    file.write_text(needed(expires=-10))
    async with opened(server, file) as store:
        assert store.error
        file.write_text(needed(expires=3).replace("\n", "\r\n"))
        await until(lambda: store.error == "", "the connection")
        await put(store)
        await until(lambda: store.error, "the end of the user's time")
        file.write_text(needed())
        await until(lambda: store.error == "", "another connection")
        await put(store)
