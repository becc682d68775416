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
from typing import Any

import nats.errors
import pytest
from authority import Authority
from nats_accounts import Site
from nats_server import NatsServer
from ports import free_port
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


async def test_a_server_that_hangs_keeps_nobody_waiting_long(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    async with opened(settings_for(server, "jobs")) as store:
        job = await put(store)
        server.signal(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(StoreAwayError):
            await put(store)
        await until(lambda: store.error, 20)
        assert time.monotonic() - begun < 15
        server.signal(signal.SIGCONT)
        await until(lambda: not store.error, 30)
        assert await store.get(job.id) == job
    server.kill()


@pytest.mark.timeout(200)
async def test_a_telling_that_ends_late_leaves_the_news_of_the_next_end(settings: NatsSettings) -> None:
    async with two(settings) as (one, other):
        job = await put(one, webhook="http://h/")
        assert await one.finish(await take_one(one), State.DEAD, None, "cut", 2.0, 60.0)
        (told,) = await one.deliveries(2.0, 9)
        assert (told.job.id, await other.deliveries(2.0, 9)) == (job.id, [])
        assert await other.requeue(job.id, 2.0, 100.0)
        assert await other.finish(await take_one(other, 3.0), State.DONE, GOOD, "", 3.0, 60.0)
        await one.delivered(told)  # that it was dead
        (news,) = await other.deliveries(3.0, 9)
        assert news.job.state is State.DONE
        await other.delivered(news)
        assert await other.deliveries(9.0, 9) == []


async def all_current(store: JetStreamStore) -> bool:
    """Whether each of three servers has everything of both streams."""
    link = store._link
    try:
        assert link is not None
        found = [await link._js.stream_info(name) for name in (link.root, f"{link.root}-bodies")]
    except (AssertionError, nats.errors.Error):  # the connection was to one that was lost
        return False
    others = [peer for info in found if info.cluster is not None for peer in info.cluster.replicas or []]
    return len(others) == 4 and all(peer.current and not peer.offline for peer in others)


@pytest.mark.timeout(480)  # as long as all that is waited for may take
async def test_one_of_three_servers_may_be_lost(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
    servers = [
        NatsServer(
            tmp_path / str(i),
            f'server_name: n{i}\ncluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}\n',
        )
        for i, port in enumerate(ports)
    ]
    for server in servers:
        server.start()
    settings = NatsSettings(urls=tuple(server.url for server in servers), stream="jobs", replicas=3)
    one, other = JetStreamStore(settings), JetStreamStore(settings)
    try:
        await asyncio.gather(one.open(0.0), other.open(0.0))
        await until(lambda: not one.error and not other.error, 40)
        accepted: list[str] = []

        async def submit(store: JobStore) -> None:
            while not over.is_set():
                with contextlib.suppress(StoreError):
                    accepted.append((await put(store, quota=10**9)).id)
                await asyncio.sleep(0.1)

        over = asyncio.Event()
        tasks = [asyncio.create_task(submit(store)) for store in (one, other) for _ in range(3)]
        for lost in servers:  # the leaders are among them
            enough = len(accepted) + 30
            await until(lambda enough=enough: len(accepted) >= enough, 40)
            lost.kill()
            enough = len(accepted) + 30
            await until(lambda enough=enough: len(accepted) >= enough, 40)  # two are enough
            lost.start()
            async with asyncio.timeout(60):
                while not await all_current(one):  # it takes what it has missed
                    await asyncio.sleep(0.1)
        over.set()
        await asyncio.gather(*tasks)
        await until(lambda: not one.error, 40)
        found = {attempt.id for attempt in await one.take(1.0, 10**6)}
        assert set(accepted) <= found
    finally:
        await one.close()
        await other.close()
        for server in servers:
            server.kill()


# Submits, takes and finishes jobs, and prints what it was told of each.
_WORKER = """
import asyncio, sys
from store_contract import GOOD, submission
from lb.jobs.job import State
from lb.jobs.jetstream import JetStreamStore
from lb.jobs.settings import NatsSettings

def say(*words):
    sys.stdout.write(" ".join(words) + "\\n")
    sys.stdout.flush()

async def submit(store):
    while True:
        job, _ = await store.submit(submission(body=bytes(5000)), 10**9)
        say("accepted", job.id)

async def work(store):
    while True:
        for attempt in await store.take(1.0, 5):
            if await store.finish(attempt, State.DONE, GOOD, "", 2.0, 60.0):
                say("done", attempt.id)
        await asyncio.sleep(0.01)

async def main():
    store = JetStreamStore(NatsSettings((sys.argv[1],), sys.argv[2], 1), lease=2.0)
    await store.open(0.0)
    await asyncio.gather(*(submit(store) for _ in range(5)), work(store))

asyncio.run(main())
"""


@pytest.mark.timeout(100)
async def test_kills_at_any_point_lose_no_job_and_no_answer(settings: NatsSettings) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{Path(__file__).parent}"}
    told: dict[str, set[str]] = {"accepted": set(), "done": set()}
    chance = random.Random(7)
    for _ in range(6):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WORKER, settings.urls[0], settings.stream,
            stdout=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        first = await process.stdout.readline()
        await asyncio.sleep(chance.uniform(0.0, 0.7))
        process.kill()
        for line in [first, *(await process.stdout.read()).splitlines()]:
            word, _, job = line.decode().strip().partition(" ")
            if word in told and len(job) == 32:  # the last line may be cut
                told[word].add(job)
        await process.wait()
    assert len(told["accepted"]) > 50
    assert told["done"]
    async with opened(settings, lease=2.0) as store:
        left = set(told["accepted"])
        async with asyncio.timeout(60):
            while left:
                await store.sweep(2.0, 60.0)
                for attempt in await store.take(2.0, 100):
                    assert attempt.id not in told["done"]
                    assert attempt.request.body == bytes(5000)
                    assert await store.finish(attempt, State.DONE, GOOD, "", 3.0, 60.0)
                for job in list(left):
                    found = await store.get(job)
                    assert found is not None
                    if found.state is State.DONE:
                        assert await store.answer(job) == GOOD
                        left.discard(job)
                await asyncio.sleep(0.1)


async def test_tls_with_certificates_of_both_sides(tmp_path: Path) -> None:
    authority = Authority()
    chain, key = authority.issue("localhost").write(tmp_path)
    ours, our_key = authority.issue("tidegate", client=True).write(tmp_path, "client")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "other.pem").write_bytes(Authority().pem)
    ca = str(tmp_path / "ca.pem")
    tls = f'tls {{ cert_file: "{chain}", key_file: "{key}", ca_file: "{ca}", verify: true }}\n'
    server = NatsServer(tmp_path / "nats", tls)
    server.start()
    url = f"tls://localhost:{server.port}"
    good = NatsSettings((url,), "jobs", 1, tls=True, ca_file=ca, cert=ours, key=our_key)
    async with opened(good) as store:
        await put(store)
    for wrong in (
        NatsSettings((url,), "jobs", 1, tls=True, ca_file=str(tmp_path / "other.pem"), cert=ours, key=our_key),
        NatsSettings((url,), "jobs", 1, tls=True, ca_file=ca),
    ):
        refused = JetStreamStore(wrong)
        await refused.open(0.0)
        assert refused.error
        await refused.close()
    server.kill()


@pytest.mark.parametrize("way", ["password", "credentials"])
async def test_no_secret_is_sent_to_a_server_that_denies_tls(tmp_path: Path, way: str) -> None:
    """Somebody in between could say so, and give us a nonce of the server's to sign."""
    (tmp_path / "password").write_text("secret-word")
    (tmp_path / "creds").write_text(Site().credentials(publish=[">"], subscribe=[">"]))
    logins: dict[str, dict[str, Any]] = {
        "password": {"username": "u", "password_file": str(tmp_path / "password")},
        "credentials": {"credentials_file": str(tmp_path / "creds")},
    }
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id":"x","version":"2.10.0","headers":true,"max_payload":1048576,"jetstream":true,'
            b'"auth_required":true,"nonce":"ABCDEF"}\r\n'
        )
        while data := await reader.read(4096):
            heard.extend(data)
        writer.close()

    between = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = between.sockets[0].getsockname()[1]
    store = JetStreamStore(NatsSettings((f"tls://127.0.0.1:{port}",), "jobs", 1, tls=True, **logins[way]))
    await store.open(0.0)
    assert "offers no TLS" in store.error
    assert not heard
    await store.close()
    between.close()
