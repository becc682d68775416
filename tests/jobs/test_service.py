"""What clients say to jobs, over HTTP, without a daemon around it: the runner's pool is a function."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace
from yarl import URL

from lb.jobs.job import Answer, Attempt
from lb.jobs.runner import CallError, Runner
from lb.jobs.service import JobService
from lb.jobs.settings import ROUTE_FIELD, Settings
from lb.jobs.sqlite import SqliteStore
from lb.jobs.watchers import Watchers

SETTINGS = Settings(
    "", "", "/jobs", ("", ""), quota=3, concurrency=4, attempts=1, deadline=1000.0, keep=1000.0,
    webhook_urls=("https://h/",), webhook_secret=b"s" * 24,
)  # fmt: skip


class World:
    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.watchers = Watchers()
        self.gate = asyncio.Event()
        self.seen: list[Attempt] = []
        self.answers: list[Answer | CallError] = []
        self.runner = Runner(store, SETTINGS, self.watchers, self.call, time.time)
        self.service = JobService(store, SETTINGS, self.watchers, self.runner, time.time)
        self.client: TestClient[Any, Any] = TestClient(TestServer(self.service.application()), auto_decompress=False)

    async def call(self, attempt: Attempt) -> Answer:
        self.seen.append(attempt)
        await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else Answer(201, [("X-A", "1"), ("X-A", "2")], b"ok\x00")
        if isinstance(answer, CallError):
            raise answer
        return answer

    async def submit(self, path: str = "/v2/x?a=%2F", body: bytes = b"in", **fields: str) -> ClientResponse:
        headers = {ROUTE_FIELD: "web/0", **{name.replace("_", "-"): value for name, value in fields.items()}}
        return await self.client.post(URL(path, encoded=True), data=body, headers=headers)

    async def location(self, **fields: str) -> str:
        answer = await self.submit(**fields)
        assert answer.status == 202, await answer.text()
        return answer.headers["Location"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = SqliteStore(tmp_path / "jobs.db")
    await store.open(0.0)
    made = World(store)
    running = asyncio.create_task(made.runner.run())
    async with made.client:
        yield made
        made.watchers.close()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await store.close()


async def test_a_submission_is_answered_at_once_and_its_result_later(world: World) -> None:
    answer = await world.submit(X_B="ä", Prefer="respond-async")
    assert answer.status == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert answer.headers["Retry-After"] == "1"
    assert "Server" not in answer.headers
    place = answer.headers["Location"]
    document = await answer.json()
    assert (document["state"], document["self"], document["result"]) == ("queued", place, f"{place}/result")
    assert (await world.client.get(f"{place}/result")).status == 202
    world.gate.set()
    result = await world.client.get(f"{place}/result", headers={"Prefer": "wait=20"})
    assert (result.status, await result.read()) == (201, b"ok\x00")
    assert result.headers.getall("X-A") == ["1", "2"]
    document = await (await world.client.get(place)).json()
    assert (document["state"], document["status"], document["attempts"]) == ("done", 201, 1)
    (attempt,) = world.seen
    assert (attempt.request.method, attempt.request.target, attempt.request.body) == ("POST", "/v2/x?a=%2F", b"in")
    assert ("X-B", "ä") in attempt.request.fields
    assert attempt.route == "web/0"


async def test_a_client_that_waits_gets_the_answer_itself(world: World) -> None:
    world.gate.set()
    key = {"Idempotency_Key": "k"}
    answer = await world.submit(Prefer="respond-async, wait=20", **key)
    assert (answer.status, await answer.read()) == (201, b"ok\x00")
    place = answer.headers["Content-Location"]
    result = await world.client.get(place)
    assert (result.status, await result.read()) == (201, b"ok\x00")
    again = await world.submit(**key)  # a repetition of a job that is over
    assert (again.status, again.headers["Content-Location"]) == (201, place)


async def test_a_client_that_waits_too_short_gets_the_job(world: World) -> None:
    answer = await world.submit(Prefer="respond-async, wait=1")
    assert answer.status == 202


async def test_a_long_poll_is_answered_at_the_next_change(world: World) -> None:
    place = await world.location()
    async with asyncio.timeout(10):
        while (document := await (await world.client.get(place)).json())["state"] != "running":
            pass
    poll = asyncio.create_task(world.client.get(place, headers={"Prefer": "wait=20"}))
    await asyncio.sleep(0.1)
    assert not poll.done()
    world.gate.set()
    document = await (await poll).json()
    assert document["state"] == "done"
    again = await world.client.get(place, headers={"Prefer": "wait=20"})  # nothing changes any more
    assert (await again.json()) == document


async def test_events_go_on_to_the_end(world: World) -> None:
    place = await world.location()
    async with world.client.get(f"{place}/events") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        world.gate.set()
        text = (await stream.read()).decode()
    documents = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    states = [document["state"] for document in documents]
    assert states[-1] == "done"
    assert set(states) <= {"queued", "running", "done"}
    ids = [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]
    assert ids == states
    # An EventSource comes again after the end of a stream, until it is told that there is no more.
    for last, status in (("queued", 200), ("done", 204)):
        async with world.client.get(f"{place}/events", headers={"Last-Event-ID": last}) as stream:
            assert (stream.status, b'"state":"done"' in await stream.read()) == (status, status == 200)


async def test_a_client_that_leaves_within_its_body(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = web.AppRunner(world.service.application())  # handlers go on without their client, as in the daemon
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    for head in (b"Content-Length: 9", b"Transfer-Encoding: chunked"):
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\n%s: web/0\r\n%s\r\n\r\n3" % (ROUTE_FIELD.encode(), head))
        await asyncio.sleep(0.1)
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(10):
        while world.service.accepted["invalid"] < 2:
            await asyncio.sleep(0.01)
    await runner.cleanup()
    assert not any(record.levelname == "ERROR" for record in caplog.records)
    assert not await world.store.latest(None, 10)


async def test_a_job_can_be_cancelled_once(world: World) -> None:
    place = await world.location()
    cancelled = await world.client.delete(place)
    assert (cancelled.status, (await cancelled.json())["state"]) == (200, "cancelled")
    assert (await world.client.get(f"{place}/result")).status == 410
    world.gate.set()
    other = await world.location()
    assert (await world.client.get(f"{other}/result", headers={"Prefer": "wait=20"})).status == 201
    late = await world.client.delete(other)
    assert (late.status, (await late.json())["state"]) == (409, "done")


async def test_a_dead_letter_can_be_queued_anew(world: World) -> None:
    world.answers = [CallError("cut", begun=True)]
    world.gate.set()
    place = await world.location()
    dead = await world.client.get(f"{place}/result", headers={"Prefer": "wait=20"})
    assert (dead.status, (await dead.json())["failure"]) == (410, "cut")
    assert (await world.client.post(f"{place}/retry")).status == 202
    assert (await world.client.get(f"{place}/result", headers={"Prefer": "wait=20"})).status == 201
    assert (await world.client.post(f"{place}/retry")).status == 409


async def test_a_quota_is_429(world: World) -> None:
    for _ in range(3):
        await world.location()
    refused = await world.submit()
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert world.service.accepted == {"accepted": 3, "quota": 1}


async def test_a_quota_holds_for_dead_letters_that_a_client_queues_anew(world: World) -> None:
    world.answers = [CallError("cut", begun=True)]
    world.gate.set()
    dead = await world.location()
    assert (await world.client.get(f"{dead}/result", headers={"Prefer": "wait=20"})).status == 410
    world.gate.clear()
    for _ in range(3):
        await world.location()
    refused = await world.client.post(f"{dead}/retry")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    _, done = await world.service.requeue(dead.rpartition("/")[2])  # by an operator
    assert done


async def test_an_idempotency_key_is_one_job(world: World) -> None:
    place = await world.location(Idempotency_Key="k")
    assert await world.location(Idempotency_Key="k") == place
    assert (await world.submit(body=b"other", Idempotency_Key="k")).status == 422
    assert world.service.accepted == {"accepted": 1, "known": 1, "key_reused": 1}


async def test_jobs_are_their_tenants(world: World) -> None:
    world.service.settings = replace(SETTINGS, tenant=("header", "X-T"))
    assert (await world.submit()).status == 400
    place = await world.location(X_T="a")
    assert (await world.client.get(place, headers={"X-T": "a"})).status == 200
    for method in ("get", "delete"):
        assert (await getattr(world.client, method)(place, headers={"X-T": "b"})).status == 404
    assert (await world.client.get(place)).status == 400


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"X_Tidegate_Deadline": "soon"}, "X-Tidegate-Deadline"),
        ({"X_Tidegate_Webhook": "https://evil/"}, "X-Tidegate-Webhook"),
        ({"Idempotency_Key": ""}, "Idempotency-Key"),
    ],
)
async def test_what_cannot_be_meant_is_400(world: World, fields: dict[str, str], word: str) -> None:
    answer = await world.submit(**fields)
    assert answer.status == 400
    assert word in (await answer.json())["error"]


async def test_deadlines_are_the_clients_up_to_the_operators(world: World) -> None:
    async def seconds(**fields: str) -> float:
        job = await world.store.get((await world.location(**fields)).removeprefix("/jobs/"))
        assert job is not None
        return job.deadline - job.created

    assert await seconds(X_Tidegate_Deadline="10s") == pytest.approx(10)
    assert await seconds(X_Tidegate_Deadline="10d") == pytest.approx(1000)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/jobs/x", 404), ("GET", "/other", 404), ("GET", "/jobs", 404), ("GET", "/jobs/", 404)],
)
async def test_what_is_not_there(world: World, method: str, path: str, status: int) -> None:
    assert (await world.client.request(method, path)).status == status


async def test_what_a_job_does_not_do(world: World) -> None:
    place = await world.location()
    assert (await world.client.put(place)).status == 405
    assert (await world.client.get(f"{place}/more")).status == 404


async def test_a_store_that_fails_is_503(world: World) -> None:
    await world.store._change(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone() and None)
    answer = await world.submit(body=bytes(1_000_000))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert world.service.accepted["store_failed"] == 1


async def test_nobody_waits_for_a_process_that_ends(world: World) -> None:
    place = await world.location()
    polls = [
        asyncio.create_task(world.client.get(f"{place}{part}", headers={"Prefer": "wait=50"}))
        for part in ("", "/result")
    ]
    stream = await world.client.get(f"{place}/events")
    await asyncio.sleep(0.2)
    world.watchers.close()
    async with asyncio.timeout(5):
        assert [(await poll).status for poll in polls] == [200, 202]
        await stream.read()
