"""The runner: what becomes of a job after an attempt, and the loop that carries it out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from store_contract import put

from lb.jobs.job import FINAL, Answer, Attempt, Job, Request, State
from lb.jobs.runner import CallError, Outcome, Runner, decide
from lb.jobs.settings import Settings
from lb.jobs.sqlite import SqliteStore
from lb.jobs.watchers import Watchers

SETTINGS = Settings("", "", "/jobs", ("", ""), quota=100, concurrency=4, attempts=3, deadline=1000.0, keep=1000.0)


def attempt(number: int = 1, failures: int = 0, deadline: float = 1000.0) -> Attempt:
    return Attempt("j", number, failures, "web/0", deadline, Request("POST", "/", [], b""))


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, State.DONE), (204, State.DONE), (302, State.DONE), (400, State.FAILED), (404, State.FAILED)],
)
def test_an_answer_ends_a_job(status: int, state: State) -> None:
    assert decide(attempt(failures=2), Answer(status, [], b""), 3, 0.0, 0.5).state is state


@pytest.mark.parametrize(
    "result", [*(Answer(s, [], b"") for s in (408, 500, 502, 504)), CallError("cut", begun=True)], ids=str
)
def test_what_may_pass_is_tried_again_a_few_times(result: Answer | CallError) -> None:
    first = decide(attempt(), result, 3, 0.0, 1.0)
    assert (first.state, first.counted, first.pause) == (State.QUEUED, True, 1.0)
    second = decide(attempt(2, 1), result, 3, 0.0, 1.0)
    assert (second.state, second.pause) == (State.QUEUED, 2.0)
    assert decide(attempt(3, 2), result, 3, 0.0, 1.0).state is State.DEAD


@pytest.mark.parametrize(
    "result", [Answer(429, [], b""), Answer(503, [], b""), CallError("not there", begun=False)], ids=str
)
def test_no_room_is_no_attempt(result: Answer | CallError) -> None:
    outcome = decide(attempt(50, 2), result, 3, 0.0, 1.0)
    assert (outcome.state, outcome.counted, outcome.pause) == (State.QUEUED, False, 60.0)
    late = decide(attempt(50, 2), result, 3, 990.0, 1.0)
    assert late.state is State.DEAD
    assert late.failure.startswith("deadline; last: ")


def test_the_pool_says_how_long_to_wait() -> None:
    def pause(value: str) -> float:
        return decide(attempt(), Answer(503, [("Retry-After", value)], b""), 3, 0.0, 0.0).pause

    assert pause("30") == 30.0
    assert pause("0") == pause("Wed, 21 Oct 2015 07:28:00 GMT") == 0.5
    assert pause("99999999999") == 600.0


def test_pauses_are_spread() -> None:
    pauses = [decide(attempt(5), Answer(502, [], b""), 3, 0.0, chance).pause for chance in (0.0, 0.5, 1.0)]
    assert pauses == [8.0, 12.0, 16.0]
    assert Outcome(State.QUEUED).pause == 0.0


class World:
    """A store, a runner and a pool that answers as the test says."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.now = 1.0
        self.calls: list[str] = []
        self.respond: Callable[[Attempt], Answer | CallError] = lambda _: Answer(200, [], b"ok")
        self.gate = asyncio.Event()
        self.gate.set()
        self.watchers = Watchers()
        self.runner = Runner(store, SETTINGS, self.watchers, self.call, lambda: self.now)

    async def call(self, asked: Attempt) -> Answer:
        self.calls.append(asked.id)
        await self.gate.wait()
        result = self.respond(asked)
        if isinstance(result, CallError):
            raise result
        return result

    async def until(self, job: str, state: State) -> Job:
        """Waits until a job is in the state; time goes on meanwhile."""
        async with asyncio.timeout(20):
            while True:
                found = await self.store.get(job)
                assert found is not None
                if found.state is state:
                    return found
                assert found.state not in FINAL, found
                self.now += 0.5
                self.runner.wake()
                await asyncio.sleep(0.005)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = SqliteStore(tmp_path / "jobs.db")
    await store.open(0.0)
    made = World(store)
    running = asyncio.create_task(made.runner.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await store.close()


async def test_a_job_is_run_and_told(world: World) -> None:
    world.gate.clear()
    job = await put(world.store)
    with world.watchers.watching(job.id) as watch:
        world.runner.wake()
        running = await watch.next(5)
        assert running is not None
        assert running.state is State.RUNNING
        world.gate.set()
        done = await watch.next(5)
        assert done is not None
        assert done.state is State.DONE
    assert await world.store.answer(job.id) == Answer(200, [], b"ok")
    assert world.runner.ended == {"done": 1}


async def test_a_job_that_fails_is_tried_again_until_it_is_dead(world: World) -> None:
    world.respond = lambda _: Answer(502, [], b"no")
    job = await put(world.store)
    dead = await world.until(job.id, State.DEAD)
    assert (dead.attempts, dead.failure, dead.status) == (3, "status 502", 502)
    assert world.calls == [job.id] * 3
    assert world.runner.attempts == {"retried": 2, "dead": 1}


async def test_no_more_run_at_once_than_are_to(world: World) -> None:
    world.gate.clear()
    jobs = [await put(world.store) for _ in range(10)]
    world.runner.wake()
    await asyncio.sleep(0.2)
    assert len(world.calls) == world.runner.running == SETTINGS.concurrency
    world.gate.set()
    for job in jobs:
        await world.until(job.id, State.DONE)
    assert sorted(world.calls) == sorted(job.id for job in jobs)


async def test_a_cancelled_job_is_let_go(world: World) -> None:
    world.gate.clear()
    job = await put(world.store)
    world.runner.wake()
    await world.until(job.id, State.RUNNING)
    cancelled = await world.store.cancel(job.id, world.now, 1e9)
    assert cancelled is not None
    world.runner.cancelled(cancelled)
    async with asyncio.timeout(5):
        while world.runner.running:
            await asyncio.sleep(0.005)
    world.gate.set()
    other = await put(world.store)
    await world.until(other.id, State.DONE)
    assert (await world.store.get(job.id)) == cancelled


async def test_an_internal_error_is_its_jobs_alone(world: World) -> None:
    broken = await put(world.store)

    def respond(asked: Attempt) -> Answer:
        if asked.id == broken.id:
            raise ValueError("a defect")
        return Answer(200, [], b"")

    world.respond = respond
    good = await put(world.store)
    await world.until(good.id, State.DONE)
    assert (await world.until(broken.id, State.DEAD)).failure == "internal error"


async def test_a_drained_runner_begins_nothing(world: World) -> None:
    world.runner.drain()
    job = await put(world.store)
    world.runner.wake()
    await asyncio.sleep(0.1)
    found = await world.store.get(job.id)
    assert found is not None
    assert found.state is State.QUEUED
