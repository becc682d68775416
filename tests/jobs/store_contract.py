"""What every store of jobs has to hold (lb.jobs.store). A test module subclasses `StoreContract` with a
fixture `store`.

`store` is an open store without jobs. Times are numbers that the tests choose.
"""

from __future__ import annotations

import asyncio

import pytest

from lb.jobs.job import Answer, Attempt, Job, Request, State, Submission, new_id, receiver_of
from lb.jobs.store import JobStore, KeyReusedError, QuotaError

GOOD = Answer(200, [("Content-Type", "text/plain")], b"done\x00\xff")


def submission(created: float = 0.0, body: bytes = b"in\x00\xff", **more: object) -> Submission:
    request = Request("POST", "/v2/x?q=1", [("Host", "h"), ("X-A", "\xe4")], body)
    known = {"route": "web/0", "tenant": "", "deadline": created + 1000, **more}
    return Submission(id=new_id(), request=request, created=created, **known)  # type: ignore[arg-type]


async def put(store: JobStore, quota: int = 1000, **more: object) -> Job:
    job, new = await store.submit(submission(**more), quota)  # type: ignore[arg-type]
    assert new
    return job


async def take_one(store: JobStore, now: float = 1.0) -> Attempt:
    (attempt,) = await store.take(now, 1)
    return attempt


class StoreContract:
    async def test_a_job_runs_and_keeps_its_answer(self, store: JobStore) -> None:
        new = submission()
        job, fresh = await store.submit(new, 10)
        assert fresh
        assert job.state is State.QUEUED
        assert await store.get(job.id) == job
        assert await store.answer(job.id) is None
        attempt = await take_one(store)
        assert attempt.request == new.request
        assert (attempt.id, attempt.number, attempt.failures) == (job.id, 1, 0)
        running = await store.get(job.id)
        assert running is not None
        assert running.state is State.RUNNING
        done = await store.finish(attempt, State.DONE, GOOD, "", 2.0, 60.0)
        assert done is not None
        assert (done.state, done.status, done.attempts, done.finished, done.expires) == (State.DONE, 200, 1, 2.0, 60.0)
        assert await store.answer(job.id) == GOOD
        assert await store.take(3.0, 10) == []

    async def test_there_is_no_job_that_nobody_submitted(self, store: JobStore) -> None:
        assert await store.get("x") is None
        assert await store.answer("x") is None
        assert await store.cancel("x", 1.0, 2.0) is None
        assert await store.requeue("x", 1.0, 2.0) is None

    async def test_jobs_come_by_priority_and_then_by_age(self, store: JobStore) -> None:
        low = await put(store, priority=7)
        first, second = await put(store), await put(store)
        high = await put(store, priority=0)
        taken = await store.take(1.0, 3)
        assert [attempt.id for attempt in taken] == [high.id, first.id, second.id]
        assert [attempt.id for attempt in await store.take(1.0, 3)] == [low.id]

    async def test_a_postponed_job_waits_until_it_is_due(self, store: JobStore) -> None:
        job = await put(store)
        attempt = await take_one(store)
        queued = await store.postpone(attempt, 5.0, "502", counted=True)
        assert queued is not None
        assert (queued.state, queued.attempts, queued.failure, queued.due) == (State.QUEUED, 1, "502", 5.0)
        assert await store.take(4.9, 1) == []
        again = await take_one(store, 5.0)
        assert (again.id, again.number, again.failures) == (job.id, 2, 1)
        await store.postpone(again, 6.0, "503", counted=False)
        assert (await take_one(store, 6.0)).failures == 1

    async def test_an_attempt_that_is_no_longer_the_jobs_changes_nothing(self, store: JobStore) -> None:
        job = await put(store)
        old = await take_one(store)
        await store.postpone(old, 1.0, "x", counted=False)
        new = await take_one(store)
        assert await store.finish(old, State.DONE, GOOD, "", 2.0, 3.0) is None
        assert await store.postpone(old, 2.0, "y", counted=True) is None
        assert await store.answer(job.id) is None
        cancelled = await store.cancel(job.id, 2.0, 60.0)
        assert cancelled is not None
        assert (cancelled.state, cancelled.finished, cancelled.expires) == (State.CANCELLED, 2.0, 60.0)
        assert await store.finish(new, State.DONE, GOOD, "", 3.0, 60.0) is None
        after = await store.get(job.id)
        assert after == cancelled

    async def test_what_is_over_cannot_be_cancelled(self, store: JobStore) -> None:
        job = await put(store)
        done = await store.finish(await take_one(store), State.FAILED, Answer(400, [], b""), "", 2.0, 60.0)
        assert done is not None
        assert await store.cancel(job.id, 3.0, 70.0) == done

    async def test_a_quota_is_of_unfinished_jobs_of_a_tenant(self, store: JobStore) -> None:
        await put(store, quota=2, tenant="a")
        await put(store, quota=2, tenant="a")
        with pytest.raises(QuotaError):
            await put(store, quota=2, tenant="a")
        await put(store, quota=2, tenant="b")
        attempt = await take_one(store)
        with pytest.raises(QuotaError):
            await put(store, quota=2, tenant="a")
        await store.finish(attempt, State.DONE, GOOD, "", 2.0, 60.0)
        await put(store, quota=2, tenant="a")

    async def test_a_key_stands_for_one_job_of_its_tenant(self, store: JobStore) -> None:
        first, new = await store.submit(submission(key="k", tenant="a"), 1)
        assert new
        again, new = await store.submit(submission(created=5.0, key="k", tenant="a"), 1)  # the quota has no say
        assert (again, new) == (first, False)
        with pytest.raises(KeyReusedError):
            await store.submit(submission(key="k", tenant="a", body=b"other"), 10)
        with pytest.raises(KeyReusedError):
            await store.submit(submission(key="k", tenant="a", route="other"), 10)
        other, new = await store.submit(submission(key="k", tenant="b"), 1)
        assert new
        assert other.id != first.id

    async def test_a_key_is_forgotten_with_its_job(self, store: JobStore) -> None:
        job = await put(store, key="k")
        await store.finish(await take_one(store), State.DONE, GOOD, "", 2.0, 10.0)
        await store.sweep(9.9, 0.0)
        assert await store.get(job.id) is not None
        await store.sweep(10.0, 0.0)
        assert await store.get(job.id) is None
        assert await store.answer(job.id) is None
        assert (await put(store, key="k")).id != job.id

    async def test_a_queued_job_is_dead_at_its_deadline(self, store: JobStore) -> None:
        job = await put(store, deadline=10.0)
        later = await put(store, deadline=20.0)
        assert await store.sweep(9.9, 50.0) == []
        assert [attempt.id for attempt in await store.take(10.0, 5)] == [later.id]
        (dead,) = await store.sweep(10.0, 50.0)
        assert (dead.id, dead.state, dead.failure, dead.expires) == (job.id, State.DEAD, "deadline", 50.0)

    async def test_a_dead_job_can_be_queued_anew(self, store: JobStore) -> None:
        job = await put(store)
        await store.finish(await take_one(store), State.DEAD, Answer(502, [], b"no"), "502", 2.0, 60.0)
        anew = await store.requeue(job.id, 5.0, 99.0)
        assert anew is not None
        assert (anew.state, anew.attempts, anew.status, anew.deadline) == (State.QUEUED, 0, 0, 99.0)
        assert await store.answer(job.id) is None
        attempt = await take_one(store, 5.0)
        assert attempt.failures == 0
        running = await store.requeue(job.id, 6.0, 99.0)
        assert running is not None
        assert running.state is State.RUNNING

    async def test_a_quota_holds_for_dead_jobs_that_are_queued_anew(self, store: JobStore) -> None:
        job = await put(store, tenant="a")
        await store.finish(await take_one(store), State.DEAD, Answer(502, [], b"no"), "502", 2.0, 60.0)
        dead = await store.get(job.id)
        await put(store, tenant="a")
        with pytest.raises(QuotaError):
            await store.requeue(job.id, 5.0, 99.0, 1)
        assert await store.get(job.id) == dead
        assert await store.answer(job.id) is not None
        anew = await store.requeue(job.id, 5.0, 99.0, 2)
        assert anew is not None
        assert anew.state is State.QUEUED
        assert await store.requeue(job.id, 6.0, 99.0, 1) == anew  # which is not dead: the quota has no say

    async def test_the_end_is_told_to_a_webhook_until_that_is_done(self, store: JobStore) -> None:
        await put(store, webhook="https://h/x")
        await put(store)
        assert await store.deliveries(100.0, 10) == []
        one, two = await store.take(1.0, 2)
        done = await store.finish(one, State.DONE, GOOD, "", 2.0, 60.0)
        await store.finish(two, State.DONE, GOOD, "", 2.0, 60.0)
        (delivery,) = await store.deliveries(2.0, 10)
        assert (delivery.job, delivery.url, delivery.failures) == (done, "https://h/x", 0)
        await store.delay_delivery(delivery, 7.0)
        assert await store.deliveries(6.9, 10) == []
        (delivery,) = await store.deliveries(7.0, 10)
        assert delivery.failures == 1
        await store.delivered(delivery)
        assert await store.deliveries(100.0, 10) == []

    async def test_an_end_that_comes_while_another_is_told_is_told(self, store: JobStore) -> None:
        job = await put(store, webhook="https://h/x", deadline=10.0)
        await store.sweep(20.0, 60.0)
        (dead,) = await store.deliveries(20.0, 10)
        await store.requeue(job.id, 21.0, 99.0)
        await store.finish(await take_one(store, 22.0), State.DONE, GOOD, "", 23.0, 60.0)
        await store.delay_delivery(dead, 90.0)
        await store.delivered(dead)
        (done,) = await store.deliveries(23.0, 10)
        assert (done.job.state, done.failures) == (State.DONE, 0)
        await store.delivered(done)
        assert await store.deliveries(100.0, 10) == []

    async def test_those_to_a_busy_receiver_are_left_out(self, store: JobStore) -> None:
        urls = ("https://h/x", "HTTPS://H?x", "https://h", "https://h.org/x", "https://h:1/x", "http://h/x?https://h/")
        for i, url in enumerate(urls):
            await put(store, webhook=url)
            await store.finish(await take_one(store), State.DONE, GOOD, "", 2.0 + i, 60.0)
        assert [one.url for one in await store.deliveries(9.0, 3, ["https://h"])] == list(urls[3:])
        assert [receiver_of(url) for url in urls] == [*["https://h"] * 3, "https://h.org", "https://h:1", "http://h"]
        left = await store.deliveries(9.0, 10, ["https://h", "http://h"])
        assert [one.url for one in left] == list(urls[3:5])
        assert len(await store.deliveries(9.0, 10)) == len(urls)

    @pytest.mark.parametrize("end", ["cancel", "deadline"])
    async def test_every_end_is_told(self, store: JobStore, end: str) -> None:
        job = await put(store, webhook="https://h/x", deadline=10.0)
        if end == "cancel":
            await store.cancel(job.id, 20.0, 60.0)
        else:
            await store.sweep(20.0, 60.0)
        (delivery,) = await store.deliveries(20.0, 10)
        assert delivery.job.id == job.id

    async def test_counts_follow_every_step(self, store: JobStore) -> None:
        assert await store.oldest() == 0.0
        await put(store, created=3.0)
        await put(store, created=4.0, priority=0)
        await put(store, created=5.0, route="other")
        assert await store.oldest() == 3.0
        counted = {key: n for key, n in (await store.counts()).items() if n}
        assert counted == {("web/0", State.QUEUED): 2, ("other", State.QUEUED): 1}
        attempts = await store.take(6.0, 3)
        assert await store.oldest() == 0.0
        await store.finish(attempts[0], State.DONE, GOOD, "", 7.0, 8.0)
        counted = {key: n for key, n in (await store.counts()).items() if n}
        assert counted == {("web/0", State.RUNNING): 1, ("other", State.RUNNING): 1, ("web/0", State.DONE): 1}
        await store.sweep(8.0, 0.0)
        assert sum((await store.counts()).values()) == 2

    async def test_the_latest_come_first(self, store: JobStore) -> None:
        first, second, third = [await put(store, priority=7 - i) for i in range(3)]
        assert [job.id for job in await store.latest(None, 10)] == [third.id, second.id, first.id]
        assert [job.id for job in await store.latest(None, 2)] == [third.id, second.id]
        await store.finish(await take_one(store), State.DEAD, None, "x", 2.0, 60.0)
        assert [job.id for job in await store.latest(State.DEAD, 10)] == [third.id]
        assert [job.id for job in await store.latest(State.QUEUED, 10)] == [second.id, first.id]
        assert list(await store.latest(State.DONE, 10)) == []

    async def test_submissions_at_once_are_one_job_each(self, store: JobStore) -> None:
        made = await asyncio.gather(*(store.submit(submission(key=str(i % 50)), 1000) for i in range(200)))
        assert len({job.id for job, _ in made}) == 50
        assert sum(new for _, new in made) == 50
        taken: list[Attempt] = []
        for found in await asyncio.gather(*(store.take(1.0, 20) for _ in range(5))):
            taken += found
        assert len({attempt.id for attempt in taken}) == len(taken) == 50
