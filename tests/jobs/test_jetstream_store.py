"""Jobs in NATS JetStream: the contract on a real server, and what several daemons and a server that dies add to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats_server import NatsServer
from store_contract import GOOD, StoreContract, put, submission, take_one

from lb.jobs.jetstream import JetStreamStore
from lb.jobs.job import Attempt, Job, State, new_id
from lb.jobs.settings import NatsSettings
from lb.jobs.store import JobStore, KeyReusedError, QuotaError, StoreAwayError, StoreError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path_factory.mktemp("nats"))
    made.start()
    yield made
    made.kill()


def settings_for(server: NatsServer, stream: str, **more: object) -> NatsSettings:
    return NatsSettings(urls=(server.url,), stream=stream, replicas=1, **more)  # type: ignore[arg-type]


@pytest.fixture
def settings(server: NatsServer) -> NatsSettings:
    return settings_for(server, f"jobs-{new_id()}")


@pytest.fixture
async def store(settings: NatsSettings) -> AsyncIterator[JobStore]:
    async with opened(settings) as made:
        yield made


@contextlib.asynccontextmanager
async def opened(settings: NatsSettings, **more: object) -> AsyncIterator[JetStreamStore]:
    made = JetStreamStore(settings, **more)  # type: ignore[arg-type]
    assert await made.open(0.0) == 0
    assert made.error == ""
    try:
        yield made
    finally:
        await made.close()


class TestContract(StoreContract):
    pass


@contextlib.asynccontextmanager
async def two(settings: NatsSettings) -> AsyncIterator[tuple[JetStreamStore, JetStreamStore]]:
    async with opened(settings) as one, opened(settings) as other:
        yield one, other


async def until(condition: object, seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.02)


class Heard:
    """What a store tells of other daemons."""

    def __init__(self) -> None:
        self.changed: list[Job] = []
        self.lost: list[str] = []

    @property
    def ears(self) -> dict[str, object]:
        return {"changed": self.changed.append, "lost": self.lost.append}


async def test_another_daemon_has_the_same_jobs(settings: NatsSettings) -> None:
    async with two(settings) as (one, other):
        job = await put(one, key="k")
        assert await other.get(job.id) == job  # at once
        assert await other.submit(submission(key="k"), 10) == (job, False)
        with pytest.raises(KeyReusedError):
            await other.submit(submission(key="k", body=b"other"), 10)
        attempt = await take_one(other)
        assert attempt.id == job.id
        assert await one.take(1.0, 1) == []
        done = await other.finish(attempt, State.DONE, GOOD, "", 2.0, 60.0)
        assert await one.get(job.id) == done
        assert await one.answer(job.id) == GOOD


async def test_two_daemons_take_each_job_once_and_the_first_first(settings: NatsSettings) -> None:
    async with two(settings) as (one, other):
        jobs = [await put(one, priority=i % 8) for i in range(40)]
        await other.get("x")
        taken: list[Attempt] = []
        for _ in range(5):
            for found in await asyncio.gather(one.take(1.0, 4), other.take(1.0, 4)):
                taken += found
        assert sorted(attempt.id for attempt in taken) == sorted(job.id for job in jobs)
        by_priority = [job.id for job in sorted(jobs, key=lambda job: job.priority)]
        assert {attempt.id for attempt in taken[:8]} == set(by_priority[:8])


async def test_a_key_used_at_two_daemons_at_once_is_one_job(settings: NatsSettings) -> None:
    async with two(settings) as stores:
        made = await asyncio.gather(
            *(stores[i % 2].submit(submission(key=str(i // 4), tenant="t"), 1000) for i in range(80))
        )
        assert len({job.id for job, _ in made}) == 20
        assert sum(new for _, new in made) == 20


async def test_a_quota_holds_over_daemons(settings: NatsSettings) -> None:
    async with two(settings) as stores:
        outcomes = await asyncio.gather(
            *(stores[i % 2].submit(submission(tenant="t"), 25) for i in range(80)), return_exceptions=True
        )
        accepted = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
        assert len(accepted) == 25
        assert all(isinstance(outcome, (tuple, QuotaError)) for outcome in outcomes)
        attempt = await take_one(stores[0])
        await stores[0].finish(attempt, State.DONE, GOOD, "", 2.0, 60.0)
        await put(stores[1], quota=25, tenant="t")  # at once
        with pytest.raises(QuotaError):
            await put(stores[0], quota=25, tenant="t")


async def test_a_start_leaves_what_others_run(settings: NatsSettings) -> None:
    async with opened(settings) as one:
        await put(one)
        attempt = await take_one(one)
        async with opened(settings) as other:
            await other.sweep(2.0, 60.0)
            assert await other.take(2.0, 5) == []
        done = await one.finish(attempt, State.DONE, GOOD, "", 2.0, 60.0)
        assert done is not None


async def test_what_a_daemon_leaves_at_its_stop_runs_elsewhere_at_once(settings: NatsSettings) -> None:
    async with opened(settings) as other:
        async with opened(settings) as one:
            job = await put(one)
            await take_one(one)
        await other.get("x")
        await other.sweep(2.0, 60.0)
        again = await take_one(other, 2.0)
        assert (again.id, again.number, again.failures) == (job.id, 2, 0)


async def test_a_cancel_elsewhere_is_told(settings: NatsSettings) -> None:
    heard = Heard()
    async with opened(settings, **heard.ears) as one, opened(settings) as other:
        job = await put(one)
        await take_one(one)
        cancelled = await other.cancel(job.id, 3.0, 60.0)
        await until(lambda: heard.lost)
        assert heard.lost == [job.id]
        assert heard.changed[-1] == cancelled


async def test_jobs_of_a_daemon_that_is_silent_run_elsewhere_and_not_before(settings: NatsSettings) -> None:
    heard = Heard()
    lease = 2.0
    async with opened(settings, lease=lease, **heard.ears) as one, opened(settings, lease=lease) as other:
        job = await put(one)
        old = await take_one(one)
        await asyncio.sleep(1.5 * lease)
        await other.sweep(2.0, 60.0)
        assert await other.take(2.0, 1) == []  # its signs of life are seen

        async def silent(*_: object) -> None:
            raise StoreAwayError("cut off")

        one._fresh = one._connection = silent  # type: ignore[method-assign]
        begun = time.monotonic()
        taken: list[Attempt] = []
        while not taken:
            await asyncio.sleep(0.05)
            await other.sweep(3.0, 60.0)
            taken = await other.take(3.0, 1)
            assert not taken or heard.lost == [job.id]  # given up here first
        assert time.monotonic() - begun > 0.8 * lease
        assert (taken[0].id, taken[0].number) == (job.id, 2)
        assert await other.finish(old, State.DONE, GOOD, "", 4.0, 60.0) is None


async def test_a_webhook_is_told_by_one_daemon(settings: NatsSettings) -> None:
    async with two(settings) as (one, other):
        await put(one, webhook="https://h/x")
        await one.finish(await take_one(one), State.DONE, GOOD, "", 2.0, 60.0)
        await other.get("x")
        told = await asyncio.gather(one.deliveries(2.0, 9), other.deliveries(2.0, 9))
        assert sorted(map(len, told)) == [0, 1]


async def test_bodies_larger_than_a_message(settings: NatsSettings, store: JobStore) -> None:
    body = random.Random(1).randbytes(5_000_000)
    new = submission(body=body)
    await store.submit(new, 10)
    attempt = await take_one(store)
    assert attempt.request == new.request
    answer = GOOD.__class__(200, [], body[::-1])
    await store.finish(attempt, State.DONE, answer, "", 2.0, 60.0)
    assert await store.answer(new.id) == answer


async def test_what_is_needed_no_more_is_removed(store: JetStreamStore) -> None:
    async def bodies() -> set[str]:
        assert store._link is not None
        return await store._link.body_owners()

    done, dead = await put(store), await put(store)
    assert await bodies() == {done.id, dead.id}
    one, two = await store.take(1.0, 2)
    await store.finish(one, State.DONE, None, "", 2.0, 10.0)
    await store.finish(two, State.DEAD, GOOD, "x", 2.0, 20.0)
    assert await bodies() == {dead.id}  # it may be queued anew
    await store.sweep(20.0, 0.0)
    assert await bodies() == set()


async def test_what_a_dead_process_has_begun_is_removed(store: JetStreamStore) -> None:
    link = store._link
    assert link is not None
    job = await put(store)
    gone = await put(store, key="k", tenant="t")
    await store.cancel(gone.id, 2.0, 3.0)
    await store.sweep(3.0, 0.0)
    await link.put_body("nobody.request", b"x")
    await link.put("owner.dead", b"1")
    await store._tidy()
    assert await link.body_owners() == {job.id, "nobody"}
    await store._tidy()
    assert await link.body_owners() == {job.id}
    assert not store._index.gone
    assert (await put(store, key="k", tenant="t")).id != gone.id
    assert await store.get(job.id) == job


# Accepts jobs as fast as it can, and prints the id of each once it is accepted.
_SUBMITTER = """
import asyncio, sys
from store_contract import submission
from lb.jobs.jetstream import JetStreamStore
from lb.jobs.settings import NatsSettings

async def one(store):
    while True:
        job, _ = await store.submit(submission(), 10**9)
        sys.stdout.write(job.id + "\\n")
        sys.stdout.flush()

async def main():
    store = JetStreamStore(NatsSettings((sys.argv[1],), sys.argv[2], 1), lease=2.0)
    await store.open(0.0)
    tasks = [one(store) for _ in range(20)]
    await asyncio.gather(*tasks)

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", [0, 50, 300])
async def test_a_kill_of_a_daemon_loses_nothing_that_was_accepted(settings: NatsSettings, moment: int) -> None:
    """`moment`: jobs that are accepted before the kill, which comes in the middle of others."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{Path(__file__).parent}"}
    process = subprocess.Popen(
        [sys.executable, "-c", _SUBMITTER, settings.urls[0], settings.stream],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    accepted = [process.stdout.readline().strip() for _ in range(moment + 1)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().splitlines()
    process.stdout.close()
    process.wait()
    accepted += [line for line in rest if len(line) == 32]  # the last line may be cut
    async with opened(settings) as store:
        found = {attempt.id for attempt in await store.take(1.0, 10**6)}
        assert set(accepted) <= found


async def test_a_kill_of_the_server_loses_nothing_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = NatsServer(tmp_path)
    server.start()
    accepted: list[str] = []
    refused = 0

    async def submit(store: JobStore) -> None:
        nonlocal refused
        while True:
            try:
                accepted.append((await put(store, quota=10**9)).id)
            except StoreError:
                refused += 1
                await asyncio.sleep(0.05)

    caplog.set_level(logging.INFO)
    async with opened(settings_for(server, "jobs")) as store:
        running_job = await put(store, priority=0)
        attempt = await take_one(store)
        tasks = [asyncio.create_task(submit(store)) for _ in range(8)]
        for _ in range(3):
            enough = len(accepted) + 60
            await until(lambda enough=enough: len(accepted) >= enough)
            server.kill()
            await until(lambda: store.error)
            begun = time.monotonic()
            with pytest.raises(StoreAwayError):
                await store.get(running_job.id)
            assert time.monotonic() - begun < 1.0
            server.start()
            await until(lambda: not store.error)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert refused
        assert await store.finish(attempt, State.DONE, GOOD, "", 2.0, 60.0) is not None  # its lease is not over
        found = {taken.id for taken in await store.take(1.0, 10**6)}
        assert set(accepted) <= found
    lines = [record.message for record in caplog.records if record.name == "tidegate.jobs"]
    assert ["jobs wait" in line for line in lines] == [True, False] * 3, lines
    server.kill()


async def test_a_start_without_the_server_waits_for_it(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    store = JetStreamStore(settings_for(server, "jobs"))
    await store.open(0.0)
    assert store.error
    assert await store.counts() == {}
    with pytest.raises(StoreAwayError):
        await put(store)
    server.start()
    await until(lambda: not store.error)
    await put(store)
    await store.close()
    with pytest.raises(StoreError):
        await put(store)
    server.kill()


async def test_a_stream_that_drops_messages_is_not_used(server: NatsServer, settings: NatsSettings) -> None:
    import nats

    client = await nats.connect(server.url)
    await client.jetstream().add_stream(name=settings.stream, subjects=[f"{settings.stream}.>"], max_age=60)
    await client.close()
    store = JetStreamStore(settings)
    await store.open(0.0)
    assert "could lose jobs" in store.error
    await store.close()
