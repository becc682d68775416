"""Runs jobs: takes those that are due, sends their requests through the daemon, and decides what becomes of them.

`decide` is the whole of the rules, without any waiting. The loop around it carries out what it says.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from msgspec import Struct

from lb.jobs.job import Answer, Attempt, Job, State
from lb.jobs.settings import Settings
from lb.jobs.store import JobStore, StoreError, level_of
from lb.jobs.watchers import Watchers
from lb.tasks import end_tasks

log = logging.getLogger("tidegate.jobs")

MAX_PAUSE = 60.0  # seconds between two attempts, but for what the pool asks for
_FIRST_PAUSE = 1.0
_MAX_RETRY_AFTER = 600.0
_LOOK = 0.25  # seconds between two looks for jobs whose pause is over
_SWEEP = 1.0
_NO_ROOM = (429, 503)
_MAY_PASS = (408, 500, 502, 504)

Call = Callable[[Attempt], Awaitable[Answer]]


class CallError(Exception):
    """There was no answer. `begun` says whether the pool may have processed the request."""

    def __init__(self, message: str, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


class Outcome(Struct, frozen=True):
    """What becomes of a job after an attempt. With QUEUED it is tried again after `pause` seconds, and `counted` says
    whether the attempt counts."""

    state: State
    failure: str = ""
    pause: float = 0.0
    counted: bool = True


def decide(attempt: Attempt, result: Answer | CallError, attempts: int, now: float, chance: float) -> Outcome:
    """`attempts` is how many a job has; `chance`, 0 to 1, spreads the pauses of jobs that failed together.

    429 and 503 say that there is no room now, and a request that did not arrive was not tried: neither counts, and the
    job waits until its deadline.
    """
    if isinstance(result, Answer) and result.status not in (*_NO_ROOM, *_MAY_PASS):
        return Outcome(State.DONE if result.status < 400 else State.FAILED)
    if isinstance(result, Answer):
        failure, counted = f"status {result.status}", result.status in _MAY_PASS
        asked = _retry_after(result)
    else:
        failure, counted, asked = str(result), result.begun, 0.0
    if counted and attempt.failures + 1 >= attempts:
        return Outcome(State.DEAD, failure)
    grown: float = min(MAX_PAUSE, _FIRST_PAUSE * 2 ** min(attempt.number - 1, 10))
    pause = max(grown * (0.5 + chance / 2), asked)
    if now + pause >= attempt.deadline:
        return Outcome(State.DEAD, f"deadline; last: {failure}", counted=counted)
    return Outcome(State.QUEUED, failure, pause, counted)


def _retry_after(answer: Answer) -> float:
    """Seconds that the answer asks for, in the form of a number (RFC 9110 section 10.2.3)."""
    for name, value in answer.fields:
        if name.lower() == "retry-after" and value.isascii() and value.isdigit():
            return min(float(value[:9]), _MAX_RETRY_AFTER)
    return 0.0


class Runner:
    """Runs the jobs of a store, as many at a time as the settings say. `call` sends a job's request and raises
    CallError; `wall` gives the seconds since the epoch. `finished` is called at each end of a job."""

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        watchers: Watchers,
        call: Call,
        wall: Callable[[], float],
        finished: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.ended: Counter[str] = Counter()  # jobs by their last state
        self.attempts: Counter[str] = Counter()  # by what became of the job
        self._store = store
        self._watchers = watchers
        self._call = call
        self._wall = wall
        self._finished = finished
        self._wake = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._settling: set[str] = set()  # jobs whose attempt has its result
        self._drained = False

    @property
    def running(self) -> int:
        return len(self._running)

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def drain(self) -> None:
        """Takes no more jobs; those that run go on."""
        self._drained = True

    def cancelled(self, job: Job) -> None:
        """The store has it as cancelled: whoever works on it need not go on."""
        task = self._running.get(job.id)
        if task is not None:
            task.cancel()
        self.ended[job.state.value] += 1
        self._watchers.tell(job)
        self._finished()

    def lost(self, job: str) -> None:
        """The store has given the job to another daemon: no answer to this one's attempt is wanted. One that is there
        already is offered to the store, which knows whether it comes too late."""
        task = self._running.get(job)
        if task is not None and job not in self._settling:
            task.cancel()

    async def run(self) -> None:
        """Until it is cancelled; the attempts under way are cancelled then."""
        sweeping = asyncio.create_task(self._sweep())
        try:
            while True:
                self._wake.clear()
                try:
                    full = await self._take()
                except StoreError as error:
                    log.log(level_of(error), "jobs cannot be taken: %s", error)
                    full = False
                if not full or self._drained:
                    await self._wait()
        finally:
            await end_tasks([sweeping, *self._running.values()])

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_LOOK):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _take(self) -> bool:
        """Whether there may be more to take."""
        room = self.settings.concurrency - len(self._running)
        if room <= 0 or self._drained:
            return False
        attempts = await self._store.take(self._wall(), room)
        for attempt in attempts:
            self._settling.discard(attempt.id)
            self._running[attempt.id] = asyncio.create_task(self._attempt(attempt))
        return len(attempts) == room

    async def _attempt(self, attempt: Attempt) -> None:
        """One attempt, until the store has what came of it."""
        try:
            try:
                await self._tell(attempt.id)
                async with asyncio.timeout(max(0.0, attempt.deadline - self._wall())):
                    result: Answer | CallError = await self._call(attempt)
            except CallError as error:
                result = error
            except TimeoutError:
                result = CallError("no answer until the deadline", begun=True)
            except Exception:  # one that nobody foresaw is this job's alone
                log.exception("job %s", attempt.id)
                result = CallError("internal error", begun=True)
            self._settling.add(attempt.id)
            await self._settle(attempt, result)
        except asyncio.CancelledError:
            self.attempts["cancelled"] += 1
            raise
        finally:
            if self._running.get(attempt.id) is asyncio.current_task():  # else the job runs here once more
                del self._running[attempt.id]
                self._settling.discard(attempt.id)
            self._wake.set()

    async def _settle(self, attempt: Attempt, result: Answer | CallError) -> None:
        """What the store does not take now is offered again: the work is done, and its answer is here alone."""
        pause = 0.1
        while True:
            now = self._wall()
            outcome = decide(attempt, result, self.settings.attempts, now, random.random())  # noqa: S311
            try:
                if outcome.state is State.QUEUED:
                    job = await self._store.postpone(attempt, now + outcome.pause, outcome.failure, outcome.counted)
                else:
                    answer = result if isinstance(result, Answer) else None
                    expires = now + self.settings.keep
                    job = await self._store.finish(attempt, outcome.state, answer, outcome.failure, now, expires)
                break
            except StoreError as error:
                log.log(level_of(error), "job %s: what came of it cannot be stored yet: %s", attempt.id, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
        self.attempts["retried" if outcome.state is State.QUEUED else outcome.state.value] += 1
        if job is not None:
            self._watchers.tell(job)
            if outcome.state is not State.QUEUED:
                self.ended[outcome.state.value] += 1
                self._finished()

    async def _tell(self, job: str) -> None:
        if self._watchers.has(job) and (found := await self._store.get(job)) is not None:
            self._watchers.tell(found)

    async def _sweep(self) -> None:
        while True:
            try:
                now = self._wall()
                for job in await self._store.sweep(now, now + self.settings.keep):
                    self.ended[job.state.value] += 1
                    self._watchers.tell(job)
                    self._finished()
            except StoreError as error:
                log.log(level_of(error), "expired jobs cannot be removed: %s", error)
            await asyncio.sleep(_SWEEP)
